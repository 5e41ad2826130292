"""Messages: appended in a transaction that writes the chat document, read by stretches of the primary key."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.client_session import ClientSession

from chat_service.errors import ChatNotFoundError
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
        count = {"next_seq": len(new), "message_count": len(new)}
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
                [_to_document(tenant_id, chat_id, message) for message in kept], session=session
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
            messages = [_from_document(document) for document in found]
            # The messages first, then the chat: a chat that is still there vouches for what was read before,
            # because a delete takes both at once and a deleted id never comes back.
            chat = self._database.chats.find_one({"_id": chat_key(tenant_id, chat_id)}, {"_id": True})
        if chat is None:
            raise ChatNotFoundError
        return messages


def _keep(new: NewMessage, seq: int, now: datetime) -> Message:
    return Message(seq, new.role.value, new.sender_id, new.content, new.metadata, created_at=now, edited_at=None)


def _to_document(tenant_id: str, chat_id: str, message: Message) -> dict[str, Any]:
    return {
        "_id": message_key(tenant_id, chat_id, message.seq),
        "role": message.role,
        "sender_id": message.sender_id,
        "content": message.content,
        "metadata": message.metadata,
        "created_at": message.created_at,
    }


def _from_document(document: dict[str, Any]) -> Message:
    return Message(
        seq=document["_id"]["seq"],
        role=document["role"],
        sender_id=document["sender_id"],
        content=document["content"],
        metadata=document["metadata"],
        created_at=document["created_at"],
        edited_at=document.get("edited_at"),
    )
