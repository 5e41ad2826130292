"""Messages: appended in a transaction that writes the chat document, read by stretches of the primary key."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.client_session import ClientSession

from chat_service.errors import ChatNotFoundError, ChatServiceError, MessageNotFoundError
from chat_service.models import Message, NewMessage, Span
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_key, message_key, message_range


class Messages:
    """The messages collection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, tenant_id: str, chat_id: str, new: Sequence[NewMessage]) -> list[Message]:
        """Append the messages to the chat, all or none, and return them as they are kept.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
        """
        now = self._database.now()
        key = chat_key(tenant_id, chat_id)
        count = {"next_seq": len(new), "message_count": len(new), "revision": 1}
        activity = {"updated_at": now, "last_message_at": now}

        def work(session: ClientSession | None) -> list[Message] | ChatNotFoundError:
            chat = self._database.chats.find_one_and_update(
                {"_id": key},
                {"$inc": count, "$set": activity},
                projection={"next_seq": True},
                return_document=ReturnDocument.BEFORE,
                session=session,
            )
            if chat is None:
                return ChatNotFoundError()
            kept = [_keep(message, chat["next_seq"] + index, now) for index, message in enumerate(new)]
            self._database.messages.insert_many(
                [to_document(tenant_id, chat_id, message) for message in kept], session=session
            )
            return kept

        return self._database.transaction(work)

    def page(self, tenant_id: str, chat_id: str, span: Span, limit: int) -> list[Message]:
        """Return the first messages of the span, `limit` of them at most.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
        """
        with self._database.operation():
            found = self._database.messages.find(
                {"_id": message_range(tenant_id, chat_id, span.after + 1, span.before - 1)},
                sort=[("_id", DESCENDING if span.newest_first else ASCENDING)],
                limit=limit,
                batch_size=limit + 1,
            )
            messages = [from_document(document) for document in found]
            # The messages first, then the chat: a chat that is still there vouches for what was read before,
            # because a delete takes both at once and a deleted id never comes back.
            chat = self._database.chats.find_one({"_id": chat_key(tenant_id, chat_id)}, {"_id": True})
        if chat is None:
            raise ChatNotFoundError
        return messages

    def get(self, tenant_id: str, chat_id: str, seq: int) -> Message:
        """Return one message.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            MessageNotFoundError: the chat has no such message (any more).
        """
        found = self.page(tenant_id, chat_id, Span(after=seq - 1, before=seq + 1), 1)
        if not found:
            raise MessageNotFoundError
        return found[0]

    def edit(self, tenant_id: str, chat_id: str, seq: int, changes: dict[str, Any]) -> Message:
        """Change the content or the metadata of a message, and return it.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            MessageNotFoundError: the chat has no such message (any more).
        """
        now = self._database.now()
        key = {"_id": message_key(tenant_id, chat_id, seq)}

        def work(session: ClientSession | None) -> Message | ChatServiceError:
            missing = self._touch(tenant_id, chat_id, seq, now, session)
            if missing is not None:
                return missing
            edited = self._database.messages.find_one_and_update(
                key,
                {"$set": {**changes, "edited_at": now}},
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            return from_document(edited)

        return self._database.transaction(work)

    def delete(self, tenant_id: str, chat_id: str, seq: int) -> None:
        """Delete one message; its seq is not used again.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            MessageNotFoundError: the chat has no such message (any more).
        """
        now = self._database.now()

        def work(session: ClientSession | None) -> ChatServiceError | None:
            missing = self._touch(tenant_id, chat_id, seq, now, session, message_count=-1)
            if missing is None:
                self._database.messages.delete_one({"_id": message_key(tenant_id, chat_id, seq)}, session=session)
            return missing

        self._database.transaction(work)

    def _touch(
        self, tenant_id: str, chat_id: str, seq: int, now: datetime, session: ClientSession | None, **counts: int
    ) -> ChatServiceError | None:
        """Write the chat of a message that is about to change, or return which of the two is missing.

        The message is looked up first, so that nothing has been written when the answer is that it is missing.
        """
        key = {"_id": chat_key(tenant_id, chat_id)}
        if self._database.messages.find_one(
            {"_id": message_key(tenant_id, chat_id, seq)}, {"_id": True}, session=session
        ):
            change = {"$inc": {"revision": 1, **counts}, "$set": {"updated_at": now}}
            touched = self._database.chats.update_one(key, change, session=session)
            return None if touched.matched_count else ChatNotFoundError()
        chat = self._database.chats.find_one(key, {"_id": True}, session=session)
        return MessageNotFoundError() if chat else ChatNotFoundError()

    def clear(self, tenant_id: str, chat_id: str) -> int:
        """Delete all messages of the chat, keep the chat, and return how many there were. Numbers go on from before.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
        """
        change = {
            "$inc": {"revision": 1},
            "$set": {"updated_at": self._database.now(), "message_count": 0, "last_message_at": None},
        }

        def work(session: ClientSession | None) -> int | ChatNotFoundError:
            touched = self._database.chats.update_one({"_id": chat_key(tenant_id, chat_id)}, change, session=session)
            if touched.matched_count == 0:
                return ChatNotFoundError()
            removed = self._database.messages.delete_many({"_id": message_range(tenant_id, chat_id)}, session=session)
            return int(removed.deleted_count)

        return self._database.transaction(work)


def _keep(new: NewMessage, seq: int, now: datetime) -> Message:
    return Message(seq, new.role.value, new.sender_id, new.content, new.metadata, created_at=now, edited_at=None)


def to_document(tenant_id: str, chat_id: str, message: Message) -> dict[str, Any]:
    """Return the document that keeps `message`."""
    return {
        "_id": message_key(tenant_id, chat_id, message.seq),
        "role": message.role,
        "sender_id": message.sender_id,
        "content": message.content,
        "metadata": message.metadata,
        "created_at": message.created_at,
        **({} if message.edited_at is None else {"edited_at": message.edited_at}),
    }


def from_document(document: dict[str, Any]) -> Message:
    """Return the message that `document` keeps."""
    return Message(
        seq=document["_id"]["seq"],
        role=document["role"],
        sender_id=document["sender_id"],
        content=document["content"],
        metadata=document["metadata"],
        created_at=document["created_at"],
        edited_at=document.get("edited_at"),
    )
