"""Messages: appended in a transaction that writes the chat document, and read by ranges of the primary key.

Whatever reads a message reads its chat too. The chat's `first_seq` says which messages are its own: those that a delete
or an emptying has left for a purge cannot be read.
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
from chat_service.repository.transaction import BeforeRetry
from chat_service.repository.unit_of_work import UnitOfWork

PAGE_BYTES = 2**20
"""The size of a page of messages: it is in memory until its reader has received it, and hundreds may read at once."""

BATCH_MESSAGES = 64
"""Messages in a batch of the cursor: ten megabytes of the longest, and enough for any page of the default size."""

COMMAND_MESSAGES = 32
"""Messages in one plain insert command, which holds 16 MB: so many of the longest, with the largest metadata, fit."""

MESSAGE_SIZE = 1_000
"""The least that a message counts towards the size of a group, in characters of content."""

POSTS = Bounds(units=1_000, size=2**20)
"""As much as a single request may contain, so that a shared transaction is never slower than the slowest alone."""


Outcomes = list[list[Message] | ChatServiceError]
"""The messages of each post as they are stored, or why they are not."""


class Post(NamedTuple):
    """The messages of one request."""

    chat_id: str
    new: Sequence[NewMessage]
    key: IdempotencyKey | None


class Messages:
    """The messages collection."""

    def __init__(self, database: Database, inline_limit: int = INLINE_LIMIT) -> None:
        self._database = database
        self._purges = Purges(database)
        self._inline_limit = inline_limit
        self._group_commit = GroupCommit(self._commit_group, POSTS, database.tracer)

    def append(
        self, tenant_id: str, chat_id: str, new: Sequence[NewMessage], key: IdempotencyKey | None = None
    ) -> list[Message]:
        """Append the messages to the chat, all or none, and return them as they are stored.

        Concurrent posts of a tenant in this process share a transaction, see together.py; one with a key goes alone.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            IdempotencyKeyReusedError: `key` was used for another request before.
        """
        size = sum(max(len(message.content), MESSAGE_SIZE) for message in new)
        unit = Unit[Post, list[Message]](chat_id, Post(chat_id, new, key), size, goes_alone=key is not None)
        return self._group_commit.run(tenant_id, unit)

    def _commit_group(self, tenant_id: str, posts: Sequence[Post], before_retry: BeforeRetry) -> Outcomes:
        """Append the messages of all posts in one transaction; return the outcome of each post."""
        if len(posts) == 1:
            return [self._database.transaction(self._alone(tenant_id, posts[0]), before_retry)]
        return self._database.transaction(lambda tx: self._append(tx, tenant_id, posts), before_retry)

    def _alone(self, tenant_id: str, post: Post) -> Callable[[UnitOfWork], list[Message] | ChatServiceError]:
        def remember(messages: list[Message]) -> dict[str, Any]:
            return {"seq": messages[0].seq, "at": messages[0].created_at}

        def recall(facts: dict[str, Any]) -> list[Message]:
            return _to_messages(post.new, facts["seq"], facts["at"])

        return once(post.key, lambda tx: self._append(tx, tenant_id, [post])[0], remember, recall)

    def _append(self, tx: UnitOfWork, tenant_id: str, posts: Sequence[Post]) -> Outcomes:
        counts = Counter[str]()
        for post in posts:
            counts[post.chat_id] += len(post.new)
        seqs = {chat_id: self._reserve_seqs(tx, tenant_id, chat_id, count) for chat_id, count in counts.items()}
        outcomes: Outcomes = []
        documents: list[dict[str, Any]] = []
        for post in posts:
            seq = seqs[post.chat_id]
            if seq is None:
                outcomes.append(ChatNotFoundError())
                continue
            messages = _to_messages(post.new, seq, tx.now)
            outcomes.append(messages)
            documents += (to_document(tenant_id, post.chat_id, message) for message in messages)
            seqs[post.chat_id] = seq + len(messages)
        if len(documents) > COMMAND_MESSAGES:
            tx.messages.insert_many(documents)
        elif documents:
            tx.command({"insert": "messages", "documents": documents})
        return outcomes

    def _reserve_seqs(self, tx: UnitOfWork, tenant_id: str, chat_id: str, count: int) -> int | None:
        """Update the chat for `count` new messages; return the seq of the first, or None if there is no such chat."""
        change = {
            "$inc": {"next_seq": count, "message_count": count, "revision": 1},
            "$set": {"updated_at": tx.now, "last_message_at": tx.now},
        }
        touch = {"query": living(tenant_id, chat_id, tx.now), "update": change, "fields": {"next_seq": True}}
        chat = tx.command({"findAndModify": "chats", **touch})["value"]
        return None if chat is None else int(chat["next_seq"])

    def page(self, tenant_id: str, chat_id: str, span: Span, limit: int) -> list[Message]:
        """Return the first messages of the span, up to `limit`, and fewer if they are long: see `is_full`.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
        """
        with self._database.operation():
            while True:
                messages = self._read(tenant_id, chat_id, span, limit)
                # First the messages, then the chat: if the chat still exists, the messages were its own when they were
                # read, because a delete removes both at once and a deleted id never comes back.
                chat = self._database.chats.find_one(
                    living(tenant_id, chat_id, self._database.now()), {"first_seq": True}
                )
                if chat is None:
                    raise ChatNotFoundError
                if all(message.seq >= chat["first_seq"] for message in messages):
                    return messages
                # The chat was emptied, and the purge has not removed these messages yet.
                span = replace(span, after=chat["first_seq"] - 1)

    def _read(self, tenant_id: str, chat_id: str, span: Span, limit: int) -> list[Message]:
        cursor = self._database.messages.find(
            {"_id": message_range(tenant_id, chat_id, span.after + 1, span.before - 1)},
            sort=[("_id", DESCENDING if span.newest_first else ASCENDING)],
            limit=limit,
            batch_size=min(limit + 1, BATCH_MESSAGES),
        )
        messages: list[Message] = []
        size = 0
        with closing(cursor):
            for document in cursor:
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
        messages = self.page(tenant_id, chat_id, Span(after=seq - 1, before=seq + 1), 1)
        if not messages:
            raise MessageNotFoundError
        return messages[0]

    def edit(self, tenant_id: str, chat_id: str, seq: int, changes: dict[str, Any], requested_by: str) -> Message:
        """Change the content or the metadata of a message, and return it.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            MessageNotFoundError: the chat has no such message (any more).
            LegalHoldError: the chat is held.
        """
        key = {"_id": message_key(tenant_id, chat_id, seq)}

        def work(tx: UnitOfWork) -> Message | ChatServiceError:
            revision = self._touch(tx, tenant_id, chat_id, seq, requested_by)
            if isinstance(revision, ChatServiceError):
                return revision
            tx.log(tenant_id, _event(Kind.MESSAGE_EDITED, chat_id, seq, requested_by, revision))
            edited = tx.messages.find_one_and_update(
                key, {"$set": {**changes, "edited_at": tx.now}}, return_document=ReturnDocument.AFTER
            )
            assert edited is not None  # noqa: S101 - this transaction has read it
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
            revision = self._touch(tx, tenant_id, chat_id, seq, requested_by, message_count=-1)
            if isinstance(revision, ChatServiceError):
                return revision
            tx.log(tenant_id, _event(Kind.MESSAGE_DELETED, chat_id, seq, requested_by, revision))
            tx.messages.delete_one({"_id": message_key(tenant_id, chat_id, seq)})
            return None

        self._database.transaction(work)

    def _touch(
        self, tx: UnitOfWork, tenant_id: str, chat_id: str, seq: int, requested_by: str, **counts: int
    ) -> int | ChatServiceError:
        """Update the chat of a message that is about to change; return its new revision, or why it may not change.

        The message is read first, so that nothing has been written if it is missing.
        """
        key = living(tenant_id, chat_id, tx.now)
        # A message before the chat's `first_seq` is only waiting for its purge.
        owning = {**key, "first_seq": {"$lte": seq}}
        change = {"$inc": {"revision": 1, **counts}, "$set": {"updated_at": tx.now}}

        def touch(condition: dict[str, Any]) -> dict[str, Any] | None:
            return tx.chats.find_one_and_update(
                condition, change, projection={"revision": True}, return_document=ReturnDocument.AFTER
            )

        message = tx.messages.find_one({"_id": message_key(tenant_id, chat_id, seq)}, {"_id": True})
        may_be_unheld = message and not on_everything(tx, tenant_id)
        touched = touch({**owning, **UNHELD}) if may_be_unheld else None
        if touched is None:
            chat = tx.chats.find_one(key, {"first_seq": True, "revision": True, "holds": True})
            if chat is None:
                return ChatNotFoundError()
            if not message or chat["first_seq"] > seq:
                return MessageNotFoundError()
            if refused := refusal(tx, tenant_id, chat_id, chat):
                log_refusals(tx, tenant_id, [(chat_id, requested_by, refused)])
                return refused
            touched = touch(owning)
            assert touched is not None  # noqa: S101 - this transaction has read it
        return int(touched["revision"])

    def clear(self, tenant_id: str, chat_id: str, requested_by: str) -> int:
        """Delete all messages of the chat but not the chat; return how many. Later messages continue the numbers.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            LegalHoldError: the chat is held.
        """

        def work(tx: UnitOfWork) -> int | ChatServiceError:
            key = living(tenant_id, chat_id, tx.now)
            chat = tx.chats.find_one(key)
            if chat is None:
                return ChatNotFoundError()
            if refused := refusal(tx, tenant_id, chat_id, chat):
                log_refusals(tx, tenant_id, [(chat_id, requested_by, refused)])
                return refused
            emptied = {"message_count": 0, "first_seq": chat["next_seq"], "last_message_at": None}
            is_large = chat["message_count"] > self._inline_limit
            # `open_purges` tells a delete that comes before the end of the purge that its receipt is not complete.
            change = {"$inc": {"revision": 1, "open_purges": int(is_large)}, "$set": {**emptied, "updated_at": tx.now}}
            tx.chats.update_one(key, change)
            facts = {"message_count": chat["message_count"]}
            tx.log(tenant_id, Event(Kind.CHAT_EMPTIED, chat_id, requested_by, facts, chat["revision"] + 1))
            seq_range = (chat["first_seq"], chat["next_seq"] - 1)
            if is_large:
                self._purges.open(tx, tenant_id, chat_id, seq_range, chat["message_count"], of_deletion=False)
                return int(chat["message_count"])
            removed = tx.messages.delete_many({"_id": message_range(tenant_id, chat_id, *seq_range)})
            return int(removed.deleted_count)

        return self._database.transaction(work)


def _event(kind: Kind, chat_id: str, seq: int, requested_by: str, revision: int) -> Event:
    return Event(kind, chat_id, requested_by, {"message_seq": seq}, revision)


def is_full(messages: Sequence[Message]) -> bool:
    """Return whether these long messages fill a page, so that more may come after them."""
    return sum(map(_size, messages)) >= PAGE_BYTES


def _size(message: Message) -> int:
    """Return the approximate size of a message in bytes, in memory and as JSON."""
    return sys.getsizeof(message.content) + 100


def _to_messages(new: Sequence[NewMessage], first_seq: int, now: datetime) -> list[Message]:
    return [
        Message(seq, one.role.value, one.sender_id, one.content, one.metadata, created_at=now, edited_at=None)
        for seq, one in enumerate(new, first_seq)
    ]


def to_document(tenant_id: str, chat_id: str, message: Message) -> dict[str, Any]:
    """Return the document of a message."""
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
    """Return the message of a document."""
    return Message(
        seq=document["_id"]["seq"],
        role=document["role"],
        sender_id=document["sender_id"],
        content=document["content"],
        metadata=document["metadata"],
        created_at=document["created_at"],
        edited_at=document.get("edited_at"),
    )
