"""The operation the service exists for: deleting a chat with all its messages; and the receipts that remain.

What this module keeps, in every interleaving with posts, connections, creates and other deletes:

1. A 200 means gone. From that commit on neither the chat nor any message of it can be read, and none appears again.
2. Any other outcome means that nothing changed, also after a crash at any point.
3. Of any number of concurrent deletes exactly one succeeds: the chat document can be removed once.
4. Posting and connecting write the chat document in their own transaction. A transaction that only *read* it could
   commit beside a delete (write skew under snapshot isolation) and leave orphans.
5. A deleted id never comes back: the receipt is its tombstone, written in the delete's own transaction, and creating
   a chat under it is refused.
6. Above the inline limit the messages stay for a purge, which the same transaction opens. Nobody can reach them: every
   way to a message asks for its chat. So a delete costs the same for ten messages and for ten million.
"""

import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from pymongo import ASCENDING, DESCENDING, DeleteMany
from pymongo.errors import BulkWriteError, DuplicateKeyError

from chat_service.errors import (
    ActiveConnectionsError,
    ChatNotFoundError,
    ChatServiceError,
    DatabaseUnavailableError,
    DeletionNotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
)
from chat_service.models import MAX_SEQ, Deletion, DeletionPreview, IdempotencyKey, ListPosition
from chat_service.repository.chats import at_revision
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key, message_range
from chat_service.repository.presence import Presence
from chat_service.repository.purges import INLINE_LIMIT, Purges, estimated_end
from chat_service.repository.unit_of_work import UnitOfWork

SETTLE_SECONDS = 2.0
"""For the look whether a delete whose answer was lost has happened: it comes after the transaction's whole time."""

SAMPLE_MESSAGES = 1_000
"""From each end of a chat, to estimate its size: milliseconds, where weighing a million messages takes seconds."""

CHAT_FIELDS = {"_id": True, "message_count": True, "first_seq": True, "open_purges": True}


class Stamp(NamedTuple):
    """What the receipts of one delete share."""

    requested_by: str
    operation: str
    """Names the run of a delete, so that it knows its own receipts again when its answer was lost."""


class Deletions:
    """Deletes chats, and keeps the receipts."""

    def __init__(self, database: Database, inline_limit: int = INLINE_LIMIT) -> None:
        self._database = database
        self._presence = Presence(database)
        self._purges = Purges(database)
        self._inline_limit = inline_limit

    def delete(  # noqa: PLR0913 - what to delete, who asks, and three conditions
        self,
        tenant_id: str,
        chat_id: str,
        requested_by: str,
        revisions: Collection[int] | None = None,
        key: IdempotencyKey | None = None,
        *,
        evict: bool = False,
        operation: str | None = None,
    ) -> Deletion:
        """Delete the chat and all its messages in one transaction, if it is at one of `revisions`; return the receipt.

        With `evict` live connections do not refuse it: their leases go with the chat, and whoever holds the sockets
        closes them. `operation` names the run in the receipt, if it is a part of something larger.
        Five commands: presence, chat, messages (or the purge of many), receipt, commit.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            ActiveConnectionsError: the chat has live connections; nothing was deleted.
            PreconditionFailedError: the chat is at another revision; nothing was deleted.
            IdempotencyKeyReusedError: `key` came with another request before; nothing was deleted.
            DatabaseUnavailableError: nothing was deleted.
            OutcomeUnknownError: the chat is either whole or gone; a retry finds out.
        """
        run = operation or uuid.uuid4().hex

        def work(tx: UnitOfWork) -> Deletion | ChatServiceError:
            leases = self._presence.count(tx, tenant_id, chat_id)
            if leases.live and not evict:
                return ActiveConnectionsError(leases.live)
            chat = self._remove(tx, chat_key(tenant_id, chat_id), revisions)
            if isinstance(chat, ChatServiceError):
                return chat
            if leases.live or leases.expired:
                # Taken along, so that a renewal that is under way conflicts with this delete or finds nothing.
                self._presence.clear(tx, tenant_id, [chat_id])
            return self.take(tx, tenant_id, [chat], Stamp(requested_by, run))[0]

        def recall(facts: dict[str, Any]) -> Deletion:
            return Deletion(chat_id, facts["deleted_at"], facts["message_count"], requested_by, 0, None)

        def remember(done: Deletion) -> dict[str, Any]:
            return {"deleted_at": done.deleted_at, "message_count": done.message_count}

        work_once = once(key, work, remember, recall)
        try:
            return self._database.transaction(work_once)
        except OutcomeUnknownError:
            return self._settle(tenant_id, chat_id, run)
        except DuplicateKeyError:
            self.finish(tenant_id, chat_id)
            raise ChatNotFoundError from None

    def finish(self, tenant_id: str, chat_id: str) -> None:
        """Delete once more what a restore has brought back beside its receipt: it was deleted, and that stands.

        The receipt keeps its time, and counts what is removed now too.
        """
        key = {"_id": chat_key(tenant_id, chat_id)}

        def work(tx: UnitOfWork) -> None:
            receipt = tx.deletions.find_one(key)
            chat = None if receipt is None else tx.chats.find_one_and_delete(key, projection=CHAT_FIELDS)
            if receipt is None or chat is None:
                return
            self._presence.clear(tx, tenant_id, [chat_id])
            earlier = self._purges.take_over(tx, tenant_id, chat_id)
            count = chat["message_count"] + sum(purge["messages"] - purge["purged"] for purge in earlier)
            messages = receipt["message_count"] + count
            everything = (0, MAX_SEQ)
            self._purges.open(
                tx, tenant_id, chat_id, everything, messages, of_deletion=True, purged=receipt["message_count"]
            )
            tx.deletions.update_one(key, {"$set": {"message_count": messages, "completed_at": None}})

        self._database.transaction(work)

    def _remove(
        self, tx: UnitOfWork, key: dict[str, Any], revisions: Collection[int] | None
    ) -> dict[str, Any] | ChatServiceError:
        """Remove the chat document and return what the rest needs of it, or return why that cannot be."""
        seen = {"_id": key, **at_revision(revisions)}
        chat: dict[str, Any] | None = tx.chats.find_one_and_delete(seen, projection=CHAT_FIELDS)
        if chat is not None:
            return chat
        if revisions is not None and tx.chats.find_one({"_id": key}, {"_id": True}):
            return PreconditionFailedError()
        return ChatNotFoundError()

    def _settle(self, tenant_id: str, chat_id: str, operation: str) -> Deletion:
        """Return the receipt of a delete whose answer was lost, if it is there."""
        receipt = None
        # Not to be able to look is not to know, and must not be told as "nothing was changed".
        with suppress(DatabaseUnavailableError), self._database.operation(seconds=SETTLE_SECONDS):
            receipt = self._database.deletions.find_one({"_id": chat_key(tenant_id, chat_id), "operation": operation})
        if receipt is None:
            # Not proof that it will not happen: the commit may still be on its way.
            raise OutcomeUnknownError
        return from_document(receipt)

    def take(self, tx: UnitOfWork, tenant_id: str, chats: Sequence[dict[str, Any]], stamp: Stamp) -> list[Deletion]:
        """Take the messages of chats whose documents were just removed, write the receipts, and return them.

        Raises:
            MiscountedError: several chats together do not have as many messages as they say.
            DuplicateKeyError: one of them has a receipt, from before the database was restored; see `finish`.
        """
        few = [chat for chat in chats if self._is_removed_at_once(chat)]
        if few:
            self._remove_messages(tx, few)
        receipts = [self._receipt(tx, tenant_id, chat, stamp) for chat in chats]
        try:
            tx.deletions.insert_many([_to_document(tenant_id, receipt, stamp.operation) for receipt in receipts])
        except BulkWriteError as error:
            if all(failure["code"] == _DUPLICATE for failure in error.details["writeErrors"]):
                raise DuplicateKeyError("A chat lies beside its receipt.") from error
            raise
        return receipts

    def _remove_messages(self, tx: UnitOfWork, chats: Sequence[dict[str, Any]]) -> None:
        """Remove the messages of the chats with one command, and see that the counts in the documents are true."""
        requests = [DeleteMany({"_id": _stretch(chat)}) for chat in chats]
        removed = tx.messages.bulk_write(requests).deleted_count
        if len(chats) == 1:
            chats[0]["message_count"] = removed
        elif removed != sum(chat["message_count"] for chat in chats):
            raise MiscountedError

    def _receipt(self, tx: UnitOfWork, tenant_id: str, chat: dict[str, Any], stamp: Stamp) -> Deletion:
        chat_id, count = chat["_id"]["chat_id"], chat["message_count"]
        if self._is_removed_at_once(chat):
            return Deletion(chat_id, tx.now, count, stamp.requested_by, purged=count, completed_at=tx.now)
        # What emptying the chat has left on the disk is still there: it is counted, and goes on being removed.
        emptied = self._purges.take_over(tx, tenant_id, chat_id) if chat.get("open_purges") else []
        first = min(chat["first_seq"], *(purge["_id"]["seq"] for purge in emptied), MAX_SEQ)
        count += sum(purge["messages"] for purge in emptied)
        purged = sum(purge["purged"] for purge in emptied)
        self._purges.open(tx, tenant_id, chat_id, (first, MAX_SEQ), count, of_deletion=True, purged=purged)
        return Deletion(chat_id, tx.now, count, stamp.requested_by, purged, completed_at=None)

    def _is_removed_at_once(self, chat: dict[str, Any]) -> bool:
        return chat["message_count"] <= self._inline_limit and not chat.get("open_purges")

    def get(self, tenant_id: str, chat_id: str) -> Deletion:
        """Return the receipt of a deleted chat.

        Raises:
            DeletionNotFoundError: the tenant has deleted no such chat.
        """
        with self._database.operation():
            receipt = self._database.deletions.find_one({"_id": chat_key(tenant_id, chat_id)})
            if receipt is None:
                raise DeletionNotFoundError
            return self._with_progress(tenant_id, [receipt])[0]

    def preview(self, tenant_id: str, chat_id: str) -> DeletionPreview:
        """Return what deleting the chat now would do.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
        """
        with self._database.operation():
            connections = self._presence.count(self._database.unbound(), tenant_id, chat_id).live
            chat = self._database.chats.find_one({"_id": chat_key(tenant_id, chat_id)})
            if chat is None:
                raise ChatNotFoundError
            count = chat["message_count"]
            sampled, size = self._weigh(chat) if count else (0, 0)
        return DeletionPreview(
            chat_id=chat_id,
            message_count=count,
            active_connections=connections,
            bytes=size * count // sampled if sampled else 0,
            bytes_estimated=count > SAMPLE_MESSAGES,
            staged=count > self._inline_limit,
            revision=chat["revision"],
        )

    def _weigh(self, chat: dict[str, Any]) -> tuple[int, int]:
        """Return how many of the chat's messages were looked at, from both ends, and their bytes."""
        sums: list[dict[str, Any]] = []
        for direction in (ASCENDING, DESCENDING) if chat["message_count"] > SAMPLE_MESSAGES else (ASCENDING,):
            pipeline: list[dict[str, Any]] = [
                {"$match": {"_id": _stretch(chat)}},
                {"$sort": {"_id": direction}},
                {"$limit": SAMPLE_MESSAGES},
                {"$group": {"_id": None, "messages": {"$sum": 1}, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}}}},
            ]
            sums.extend(self._database.messages.aggregate(pipeline))
        return sum(found["messages"] for found in sums), sum(found["bytes"] for found in sums)

    def page(self, tenant_id: str, limit: int, since: datetime | None, after: ListPosition | None) -> list[Deletion]:
        """Return up to `limit` receipts that come after a place in the list, latest first, none before `since`."""
        wanted: dict[str, Any] = {"_id.tenant_id": tenant_id}
        bounds: dict[str, Any] = {} if since is None else {"$gte": since}
        if after is not None:
            # The bound is said twice: the first is what the index can start from.
            bounds["$lte"] = after.at
            wanted["$or"] = [{"deleted_at": {"$lt": after.at}}, {"_id.chat_id": {"$gt": after.id}}]
        if bounds:
            wanted["deleted_at"] = bounds
        order = [("deleted_at", DESCENDING), ("_id.chat_id", ASCENDING)]
        with self._database.operation():
            receipts = list(self._database.deletions.find(wanted, sort=order, limit=limit, batch_size=limit + 1))
            return self._with_progress(tenant_id, receipts)

    def _with_progress(self, tenant_id: str, receipts: Sequence[dict[str, Any]]) -> list[Deletion]:
        """Return the receipts with how far their purges are: one command more, if any of them is open."""
        running = [receipt["_id"]["chat_id"] for receipt in receipts if receipt["completed_at"] is None]
        wanted = {"_id.tenant_id": tenant_id, "_id.chat_id": {"$in": running}, "of_deletion": True}
        purges = {found["_id"]["chat_id"]: found for found in self._database.purges.find(wanted)} if running else {}
        now = self._database.now()
        return [from_document(receipt, purges.get(receipt["_id"]["chat_id"]), now) for receipt in receipts]


_DUPLICATE = 11000


class MiscountedError(Exception):
    """Chats deleted together had other numbers of messages than they say; nothing was deleted."""


def _stretch(chat: dict[str, Any]) -> dict[str, Any]:
    return message_range(chat["_id"]["tenant_id"], chat["_id"]["chat_id"], chat["first_seq"])


def _to_document(tenant_id: str, receipt: Deletion, operation: str) -> dict[str, Any]:
    return {
        "_id": chat_key(tenant_id, receipt.chat_id),
        "deleted_at": receipt.deleted_at,
        "message_count": receipt.message_count,
        "requested_by": receipt.requested_by,
        "operation": operation,
        "purged": receipt.purged,
        "completed_at": receipt.completed_at,
    }


def from_document(
    receipt: dict[str, Any], purge: dict[str, Any] | None = None, now: datetime | None = None
) -> Deletion:
    """Return the receipt that the document keeps, with the progress of its purge if that is open."""
    return Deletion(
        chat_id=receipt["_id"]["chat_id"],
        deleted_at=receipt["deleted_at"],
        message_count=receipt["message_count"],
        requested_by=receipt["requested_by"],
        purged=purge["purged"] if purge else receipt["purged"],
        completed_at=receipt["completed_at"],
        estimated_at=estimated_end(purge, now) if purge and now else None,
    )
