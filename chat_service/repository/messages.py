"""Messages: appended in a transaction that writes the chat document, read by stretches of the primary key.

Every way to a message asks for its chat too, and the chat says from which seq on messages are its own: what a delete or
an emptying left for a purge cannot be reached.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from pymongo import ASCENDING, DESCENDING, ReturnDocument

from chat_service.errors import ChatNotFoundError, ChatServiceError, MessageNotFoundError
from chat_service.models import Event, IdempotencyKey, Kind, Message, NewMessage, Span
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import living, message_key, message_range
from chat_service.repository.protection import UNHELD, log_refusals, on_everything, refusal
from chat_service.repository.purges import INLINE_LIMIT, Purges
from chat_service.repository.together import Bounds, GroupCommit, Unit
from chat_service.repository.transaction import Again
from chat_service.repository.unit_of_work import UnitOfWork

PAGE_BYTES = 2**20
"""Of messages in a page: it lies in memory until its reader has taken it, and hundreds may read at once."""

BATCH_MESSAGES = 64
"""Fetched at once for a page: ten megabytes of the longest, and any page of the default size in one go."""

COMMAND_MESSAGES = 32
"""In a plain insert command, which holds 16 MB: so many of the longest, each with the largest metadata, fit in it."""

MESSAGE_SIZE = 1_000
"""What a message counts in a group at least, in characters of content."""

POSTS = Bounds(units=1_000, size=2**20)
"""What a single request may bring, so that a shared transaction is never slower than the slowest alone."""


Kept = list[list[Message] | ChatServiceError]
"""The messages of each post as they are kept, or why they are not."""


class Post(NamedTuple):
    """What one request brings."""

    chat_id: str
    new: Sequence[NewMessage]
    key: IdempotencyKey | None


class Messages:
    """The messages collection."""

    def __init__(self, database: Database, inline_limit: int = INLINE_LIMIT) -> None:
        self._database = database
        self._purges = Purges(database)
        self._inline_limit = inline_limit
        self._group_commit = GroupCommit(self._carry, POSTS, database.tracer)

    def append(
        self, tenant_id: str, chat_id: str, new: Sequence[NewMessage], key: IdempotencyKey | None = None
    ) -> list[Message]:
        """Append the messages to the chat, all or none, and return them as they are kept.

        Posts of a tenant that meet in this process share a transaction, see together.py; one with a key goes alone.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            IdempotencyKeyReusedError: `key` came with another request before.
        """
        size = sum(max(len(message.content), MESSAGE_SIZE) for message in new)
        unit = Unit[Post, list[Message]](chat_id, Post(chat_id, new, key), size, goes_alone=key is not None)
        return self._group_commit.run(tenant_id, unit)

    def _carry(self, tenant_id: str, posts: Sequence[Post], again: Again) -> Kept:
        """Append what the posts bring in one transaction, and return what became of each."""
        if len(posts) == 1:
            return [self._database.transaction(self._alone(tenant_id, posts[0]), again)]
        return self._database.transaction(lambda tx: self._append(tx, tenant_id, posts), again)

    def _alone(self, tenant_id: str, post: Post) -> Callable[[UnitOfWork], list[Message] | ChatServiceError]:
        def remember(kept: list[Message]) -> dict[str, Any]:
            return {"seq": kept[0].seq, "at": kept[0].created_at}

        def recall(facts: dict[str, Any]) -> list[Message]:
            return _keep(post.new, facts["seq"], facts["at"])

        return once(post.key, lambda tx: self._append(tx, tenant_id, [post])[0], remember, recall)

    def _append(self, tx: UnitOfWork, tenant_id: str, posts: Sequence[Post]) -> Kept:
        counts = Counter[str]()
        for post in posts:
            counts[post.chat_id] += len(post.new)
        seqs = {chat_id: self._take_numbers(tx, tenant_id, chat_id, count) for chat_id, count in counts.items()}
        kept: Kept = []
        documents: list[dict[str, Any]] = []
        for post in posts:
            seq = seqs[post.chat_id]
            if seq is None:
                kept.append(ChatNotFoundError())
                continue
            messages = _keep(post.new, seq, tx.now)
            kept.append(messages)
            documents += (to_document(tenant_id, post.chat_id, message) for message in messages)
            seqs[post.chat_id] = seq + len(messages)
        if len(documents) > COMMAND_MESSAGES:
            tx.messages.insert_many(documents)
        elif documents:
            tx.command({"insert": "messages", "documents": documents})
        return kept

    def _take_numbers(self, tx: UnitOfWork, tenant_id: str, chat_id: str, count: int) -> int | None:
        """Write the chat of so many new messages, and return the seq of the first; None if the chat is gone."""
        change = {
            "$inc": {"next_seq": count, "message_count": count, "revision": 1},
            "$set": {"updated_at": tx.now, "last_message_at": tx.now},
        }
        touch = {"query": living(tenant_id, chat_id, tx.now), "update": change, "fields": {"next_seq": True}}
        chat = tx.command({"findAndModify": "chats", **touch})["value"]
        return None if chat is None else int(chat["next_seq"])

    def page(self, tenant_id: str, chat_id: str, span: Span, limit: int) -> list[Message]:
        """Return the first messages of the span, `limit` of them at most, and fewer of long ones: see `is_full`.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
        """
        with self._database.operation():
            while True:
                messages = self._read(tenant_id, chat_id, span, limit)
                # The messages first, then the chat: a chat that is still there vouches for what was read before,
                # because a delete takes both at once and a deleted id never comes back.
                chat = self._database.chats.find_one(
                    living(tenant_id, chat_id, self._database.now()), {"first_seq": True}
                )
                if chat is None:
                    raise ChatNotFoundError
                if all(message.seq >= chat["first_seq"] for message in messages):
                    return messages
                # The chat was emptied, and a purge has not come to these yet.
                span = replace(span, after=chat["first_seq"] - 1)

    def _read(self, tenant_id: str, chat_id: str, span: Span, limit: int) -> list[Message]:
        found = self._database.messages.find(
            {"_id": message_range(tenant_id, chat_id, span.after + 1, span.before - 1)},
            sort=[("_id", DESCENDING if span.newest_first else ASCENDING)],
            limit=limit,
            batch_size=min(limit + 1, BATCH_MESSAGES),
        )
        messages: list[Message] = []
        size = 0
        with closing(found):
            for document in found:
                messages.append(from_document(document))
                size += _size(messages[-1])
                if size >= PAGE_BYTES:
                    break
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

    def edit(self, tenant_id: str, chat_id: str, seq: int, changes: dict[str, Any], requested_by: str) -> Message:
        """Change the content or the metadata of a message, and return it.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            MessageNotFoundError: the chat has no such message (any more).
            LegalHoldError: the chat is held.
        """
        key = {"_id": message_key(tenant_id, chat_id, seq)}

        def work(tx: UnitOfWork) -> Message | ChatServiceError:
            touched = self._touch(tx, tenant_id, chat_id, seq, requested_by)
            if isinstance(touched, ChatServiceError):
                return touched
            tx.log(tenant_id, _event(Kind.MESSAGE_EDITED, chat_id, seq, requested_by, touched))
            edited = tx.messages.find_one_and_update(
                key, {"$set": {**changes, "edited_at": tx.now}}, return_document=ReturnDocument.AFTER
            )
            assert edited is not None  # noqa: S101 - it was there, in this transaction
            return from_document(edited)

        return self._database.transaction(work)

    def delete(self, tenant_id: str, chat_id: str, seq: int, requested_by: str) -> None:
        """Delete one message; its seq is not used again.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            MessageNotFoundError: the chat has no such message (any more).
            LegalHoldError: the chat is held.
        """

        def work(tx: UnitOfWork) -> ChatServiceError | None:
            touched = self._touch(tx, tenant_id, chat_id, seq, requested_by, message_count=-1)
            if isinstance(touched, ChatServiceError):
                return touched
            tx.log(tenant_id, _event(Kind.MESSAGE_DELETED, chat_id, seq, requested_by, touched))
            tx.messages.delete_one({"_id": message_key(tenant_id, chat_id, seq)})
            return None

        self._database.transaction(work)

    def _touch(
        self, tx: UnitOfWork, tenant_id: str, chat_id: str, seq: int, requested_by: str, **counts: int
    ) -> int | ChatServiceError:
        """Write the chat of a message that is about to change, and return its revision, or why that cannot be done.

        The message is looked up first, so that nothing has been written when the answer is that it is missing.
        """
        key = living(tenant_id, chat_id, tx.now)
        # A message before the chat's first seq is only waiting for its purge.
        owning = {**key, "first_seq": {"$lte": seq}}
        change = {"$inc": {"revision": 1, **counts}, "$set": {"updated_at": tx.now}}

        def touch(condition: dict[str, Any]) -> dict[str, Any] | None:
            return tx.chats.find_one_and_update(
                condition, change, projection={"revision": True}, return_document=ReturnDocument.AFTER
            )

        is_there = tx.messages.find_one({"_id": message_key(tenant_id, chat_id, seq)}, {"_id": True})
        is_open = is_there and not on_everything(tx, tenant_id)
        touched = touch({**owning, **UNHELD}) if is_open else None
        if touched is None:
            chat = tx.chats.find_one(key, {"first_seq": True, "revision": True, "holds": True})
            if chat is None:
                return ChatNotFoundError()
            if not is_there or chat["first_seq"] > seq:
                return MessageNotFoundError()
            if held := refusal(tx, tenant_id, chat_id, chat):
                log_refusals(tx, tenant_id, [(chat_id, requested_by, held)])
                return held
            touched = touch(owning)
            assert touched is not None  # noqa: S101 - it was there, in this transaction
        return int(touched["revision"])

    def clear(self, tenant_id: str, chat_id: str, requested_by: str) -> int:
        """Delete all messages of the chat, keep the chat, and return how many there were. Numbers go on from before.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            LegalHoldError: the chat is held.
        """

        def work(tx: UnitOfWork) -> int | ChatServiceError:
            key = living(tenant_id, chat_id, tx.now)
            chat = tx.chats.find_one(key)
            if chat is None:
                return ChatNotFoundError()
            if held := refusal(tx, tenant_id, chat_id, chat):
                log_refusals(tx, tenant_id, [(chat_id, requested_by, held)])
                return held
            emptied = {"message_count": 0, "first_seq": chat["next_seq"], "last_message_at": None}
            is_large = chat["message_count"] > self._inline_limit
            # So that a delete that comes before the purge is done knows of it, and its receipt is not complete.
            change = {"$inc": {"revision": 1, "open_purges": int(is_large)}, "$set": {**emptied, "updated_at": tx.now}}
            tx.chats.update_one(key, change)
            facts = {"message_count": chat["message_count"]}
            tx.log(tenant_id, Event(Kind.CHAT_EMPTIED, chat_id, requested_by, facts, chat["revision"] + 1))
            stretch = (chat["first_seq"], chat["next_seq"] - 1)
            if is_large:
                self._purges.open(tx, tenant_id, chat_id, stretch, chat["message_count"], of_deletion=False)
                return int(chat["message_count"])
            removed = tx.messages.delete_many({"_id": message_range(tenant_id, chat_id, *stretch)})
            return int(removed.deleted_count)

        return self._database.transaction(work)


def _event(kind: Kind, chat_id: str, seq: int, requested_by: str, revision: int) -> Event:
    return Event(kind, chat_id, requested_by, {"message_seq": seq}, revision)


def is_full(messages: Sequence[Message]) -> bool:
    """Tell whether a page ends with these because they are long, so that there may be more."""
    return sum(map(_size, messages)) >= PAGE_BYTES


def _size(message: Message) -> int:
    """Return about how many bytes a message takes, in memory and as JSON."""
    return sys.getsizeof(message.content) + 100


def _keep(new: Sequence[NewMessage], first_seq: int, now: datetime) -> list[Message]:
    return [
        Message(seq, one.role.value, one.sender_id, one.content, one.metadata, created_at=now, edited_at=None)
        for seq, one in enumerate(new, first_seq)
    ]


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
