"""Purges: the removal of messages that nobody can reach any more, in bounded batches, by workers that may die.

Invariants:

- The transaction that makes messages unreachable opens their purge, so that no message is forgotten.
- One worker at a time has a purge, by a lease. The transaction that removes a batch also renews the lease, on condition
  that the worker still has it: so a worker that has lost its lease removes nothing more.
- The same transaction counts the removed messages, so that the count is exact wherever a worker was killed.
- A purge ends only after a last search has found no message. The purge of a deletion then leaves a completion, which
  records that: a receipt is written once and does not change.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, ReturnDocument

from chat_service.errors import ClaimLostError
from chat_service.models import Deletion, Purge, PurgeProgress
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_key, message_key, message_range, own_messages
from chat_service.repository.lists import next_in_turn
from chat_service.repository.pending import purged
from chat_service.repository.processes import own_name
from chat_service.repository.traffic import Traffic
from chat_service.repository.unit_of_work import UnitOfWork

INLINE_LIMIT = 1_000
"""Up to this many messages need no purge: one transaction removes them in about 10 ms, and could 100 times as many."""

COUNTED = 10_000
"""Purges that are counted for a metric, at most: a scrape must not take longer the more there are."""

LEASE = timedelta(seconds=30)
"""How long a purge waits for a worker that died unnoticed (see `orphans.py`). A batch takes milliseconds."""


class Purges:
    """The purges collection, a queue of open purges; and the completions collection, for the purges of deletions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.traffic = Traffic(database)

    def open(  # noqa: PLR0913 - a range of a chat, and what to record of it
        self,
        tx: UnitOfWork,
        tenant_id: str,
        chat_id: str,
        seq_range: tuple[int, int],
        messages: int,
        *,
        of_deletion: bool,
        purged: int = 0,
        worker_id: str | None = None,
    ) -> None:
        """Open a purge of the messages from the first to the last seq of `seq_range`, as part of a transaction.

        Of the number of `messages`, `purged` were removed before. With `worker_id` the purge is claimed at once.
        """
        first_seq, last_seq = seq_range
        tx.purges.insert_one(
            {
                "_id": message_key(tenant_id, chat_id, first_seq),
                "last_seq": last_seq,
                "of_deletion": of_deletion,
                "messages": messages,
                "purged": purged,
                "position": first_seq,
                "opened_at": tx.now,
                **(_claim(worker_id, tx.now) if worker_id else {"worker_id": None, "lease_until": tx.now}),
            }
        )

    def renew(self, tx: UnitOfWork, purge: Purge, **counts: int) -> None:
        """Renew the lease of the purge and add to its counts, as part of a transaction.

        Raises:
            ClaimLostError: another worker has the purge now.
        """
        self._change(tx, purge, {"$set": {"lease_until": tx.now + LEASE}, "$inc": counts})

    def _change(self, tx: UnitOfWork, purge: Purge, change: dict[str, Any]) -> None:
        if not tx.purges.update_one(_claimed(purge), change).matched_count:
            # Raised, not returned: the transaction must not be committed.
            raise ClaimLostError

    def withdraw(self, tx: UnitOfWork, purge: Purge) -> dict[str, Any]:
        """Remove a purge and return its document, as part of a transaction.

        Raises:
            ClaimLostError: another worker has the purge now.
        """
        ended = tx.purges.find_one_and_delete(_claimed(purge))
        if ended is None:
            raise ClaimLostError
        return ended

    def take_over(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> list[dict[str, Any]]:
        """Remove the open purges of a chat, as part of a transaction; return them, for a new purge to continue them.

        A worker that has claimed one of them loses its claim, and removes nothing more under it.
        """
        # `_id.tenant_id` too, because it is the shard key, by which a cluster's router finds the shard (docs/scale.md).
        of_chat = {"_id.tenant_id": tenant_id, "_id": message_range(tenant_id, chat_id)}
        purges = list(tx.purges.find(of_chat))
        tx.purges.delete_many(of_chat)
        return purges

    def claim(self, worker_id: str, after_tenant: str = "") -> Purge | None:
        """Claim the purge that has waited longest, of the tenant whose turn it is; None if no purge is free.

        Tenants take turns in the order of their ids, starting after `after_tenant`: ten million messages of one tenant
        do not delay a thousand of another.
        """
        now = self._database.now()
        free = {"lease_until": {"$lte": now}}
        # $min sets a missing field, and keeps an earlier time.
        started = {"$min": {"started_at": now}}
        with self._database.operation(writes=True):
            tenant_ids = sorted(self._database.purges.distinct("_id.tenant_id", free))
            if not tenant_ids:
                return None
            tenant_id = next_in_turn(tenant_ids, after_tenant)
            claimed = self._database.purges.find_one_and_update(
                {"_id.tenant_id": tenant_id, **free},
                {"$set": _claim(worker_id, now), **started},
                sort=[("lease_until", ASCENDING)],
                return_document=ReturnDocument.AFTER,
            )
        return None if claimed is None else _to_purge(claimed)

    def remove(self, purge: Purge, position: int, size: int) -> int:
        """Remove the messages `position` to `position + size - 1`, and count them in the purge; return how many.

        Raises:
            ClaimLostError: another worker has the purge now; nothing was removed.
        """
        last = min(position + size - 1, purge.last_seq)
        batch = {"_id": message_range(purge.tenant_id, purge.chat_id, position, last)}

        def work(tx: UnitOfWork) -> int:
            removed = int(tx.messages.delete_many(batch).deleted_count)
            progress = {"position": last + 1, "lease_until": tx.now + LEASE}
            self._change(tx, purge, {"$inc": {"purged": removed}, "$set": progress})
            return removed

        return self._database.transaction(work)

    def next_seq(self, purge: Purge, position: int = 0) -> int | None:
        """Return the seq of the first message at `position` or later, or None if there is none."""
        first = max(position, purge.first_seq)
        with self._database.operation():
            message = self._database.messages.find_one(
                {"_id": message_range(purge.tenant_id, purge.chat_id, first, purge.last_seq)},
                {"_id": True},
                sort=[("_id", ASCENDING)],
            )
        return None if message is None else int(message["_id"]["seq"])

    def release(self, purge: Purge) -> None:
        """Give up the claim, and move the purge to the end of the queue."""
        with self._database.operation(writes=True):
            self._database.purges.update_one(
                _claimed(purge), {"$set": {"worker_id": None, "lease_until": self._database.now()}}
            )

    def finish(self, purge: Purge) -> None:
        """End the purge; for a deletion, write its completion. To be called only after `next_seq` has found nothing.

        For a deletion this removes once more whatever messages the chat has, because the log will sign that none is
        left.

        Raises:
            ClaimLostError: another worker has the purge now.
        """

        def work(tx: UnitOfWork) -> None:
            ended = self.withdraw(tx, purge)
            key = {"_id": chat_key(purge.tenant_id, purge.chat_id)}
            if ended["of_deletion"]:
                everything = {"_id": message_range(purge.tenant_id, purge.chat_id)}
                ended["purged"] += int(tx.messages.delete_many(everything).deleted_count)
                # Replaces the completion of an earlier purge, if a restore of the database had brought the chat back.
                tx.completions.replace_one(key, {"purged": ended["purged"], "completed_at": tx.now}, upsert=True)
                tx.log(purge.tenant_id, purged(purge.chat_id, ended["purged"]))
            else:
                for chats, field in (tx.chats, "open_purges"), (tx.trash, "chat.open_purges"):
                    if chats.update_one({**key, field: {"$gt": 0}}, {"$inc": {field: -1}}).matched_count:
                        break

        self._database.transaction(work)

    def complete(self, tx: UnitOfWork, tenant_id: str, receipts: Sequence[Deletion]) -> None:
        """Write the completions and events of chats that need no purge, but whose messages outlived `deleted_at`."""
        documents = [
            {
                "_id": chat_key(tenant_id, receipt.chat_id),
                "purged": receipt.purged,
                "completed_at": receipt.completed_at,
            }
            for receipt in receipts
        ]
        tx.command({"insert": "completions", "documents": documents})
        tx.log(tenant_id, *(purged(receipt.chat_id, receipt.purged) for receipt in receipts))

    def progress(self, seconds: float | None = None) -> PurgeProgress:
        """Return what is left to purge; with the timeout `seconds`, only of up to `COUNTED` purges.

        Raises:
            DatabaseUnavailableError: the database did not answer in time.
        """
        now = self._database.now()
        sums = {"open": {"$sum": 1}, "messages": {"$sum": {"$subtract": ["$messages", "$purged"]}}}
        group = {"$group": {"_id": None, **sums, "since": {"$min": "$lease_until"}}}
        with self._database.operation(seconds=seconds):
            totals = self._database.purges.aggregate([group] if seconds is None else [{"$limit": COUNTED}, group])
            total: dict[str, Any] = next(iter(totals), {"open": 0, "messages": 0, "since": now})
        return PurgeProgress(total["open"], max(total["messages"], 0), max(now - (total["since"] or now), timedelta()))


class MiscountedError(Exception):
    """Chats deleted together had other numbers of messages than their documents say; nothing was deleted."""


def remove_inline(tx: UnitOfWork, chats: Sequence[dict[str, Any]]) -> None:
    """Remove the messages of the chats with one command, and check the counts in the documents.

    The count of a single chat is corrected in `chats`.

    Raises:
        MiscountedError: several chats together do not have as many messages as their documents say.
    """
    deletes = [{"q": {"_id": own_messages(chat)}, "limit": 0} for chat in chats]
    removed = int(tx.command({"delete": "messages", "deletes": deletes})["n"])
    if len(chats) == 1:
        chats[0]["message_count"] = removed
    elif removed != sum(chat["message_count"] for chat in chats):
        raise MiscountedError


def estimated_end(document: dict[str, Any], now: datetime) -> datetime | None:
    """Return when an open purge will be complete at its speed so far, or None if it has removed nothing yet."""
    if not document["purged"] or "started_at" not in document:
        return None
    elapsed: timedelta = now - document["started_at"]
    remaining_share: float = max(document["messages"] - document["purged"], 0) / document["purged"]
    return now + elapsed * remaining_share


def _claim(worker_id: str, now: datetime) -> dict[str, Any]:
    return {"worker_id": worker_id, "process": own_name(), "lease_until": now + LEASE}


def _claimed(purge: Purge) -> dict[str, Any]:
    return {"_id": message_key(purge.tenant_id, purge.chat_id, purge.first_seq), "worker_id": purge.worker_id}


def _to_purge(document: dict[str, Any]) -> Purge:
    return Purge(
        tenant_id=document["_id"]["tenant_id"],
        chat_id=document["_id"]["chat_id"],
        first_seq=document["_id"]["seq"],
        last_seq=document["last_seq"],
        position=document["position"],
        worker_id=document["worker_id"],
    )
