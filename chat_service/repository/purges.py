"""Purges: the removal of messages that nobody can reach any more, in bounded batches, by workers that may die.

What this module keeps:

- A purge is opened in the transaction that made its messages unreachable, so that none is forgotten.
- One worker at a time holds a purge, by a lease. Each batch renews it under the worker's name in the transaction that
  removes the messages, so that a worker that lost its lease removes nothing more.
- The same transaction counts what was removed, so that the count is exact wherever a worker was killed.
- A purge ends only after a last look has found no message left. That of a deletion leaves its completion, which says
  so: a receipt is written once and does not change.
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
from chat_service.repository.traffic import chat_operations
from chat_service.repository.unit_of_work import UnitOfWork

INLINE_LIMIT = 1_000
"""Messages up to which no purge is needed: one transaction removes them in about 10 ms, and could 100 times as many."""

COUNTED = 10_000
"""Purges that are looked at for a metric: a scrape must not take longer the more there are."""

LEASE = timedelta(seconds=30)
"""How long a purge waits for a worker that nobody knows to be dead (`orphans.py`). A batch takes milliseconds."""


class Purges:
    """The purges collection: a queue of open purges, and the completions of those that a deletion has opened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(  # noqa: PLR0913 - a stretch of a chat, and whom to tell
        self,
        tx: UnitOfWork,
        tenant_id: str,
        chat_id: str,
        stretch: tuple[int, int],
        messages: int,
        *,
        of_deletion: bool,
        purged: int = 0,
        worker_id: str | None = None,
    ) -> None:
        """Open a purge of the messages from the first to the last seq of `stretch`, as part of a transaction.

        Of the `messages` that it counts, `purged` have been removed before. With `worker_id` it is claimed at once.
        """
        first_seq, last_seq = stretch
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
        """Hold the purge for longer, and add to its counts, as part of a transaction.

        Raises:
            ClaimLostError: another worker holds it now.
        """
        self._change(tx, purge, {"$set": {"lease_until": tx.now + LEASE}, "$inc": counts})

    def _change(self, tx: UnitOfWork, purge: Purge, change: dict[str, Any]) -> None:
        if not tx.purges.update_one(_held(purge), change).matched_count:
            # Raised, not returned: the transaction must not be committed.
            raise ClaimLostError

    def withdraw(self, tx: UnitOfWork, purge: Purge) -> dict[str, Any]:
        """End a purge and return it, as part of a transaction.

        Raises:
            ClaimLostError: another worker holds it now.
        """
        ended = tx.purges.find_one_and_delete(_held(purge))
        if ended is None:
            raise ClaimLostError
        return ended

    def take_over(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> list[dict[str, Any]]:
        """End the open purges of a chat, as part of a transaction, and return them: another one goes on with them.

        A worker that has claimed one of them finds its claim lost, and removes nothing more under it.
        """
        # The tenant by itself too, for a cluster's router: it is the shard key (docs/scale.md).
        every = {"_id.tenant_id": tenant_id, "_id": message_range(tenant_id, chat_id)}
        purges = list(tx.purges.find(every))
        tx.purges.delete_many(every)
        return purges

    def claim(self, worker_id: str, after_tenant: str = "") -> Purge | None:
        """Claim the purge that has waited longest, of the tenant whose turn it is; None if all are done or held.

        Tenants take turns in the order of their ids, going on after `after_tenant`: ten million messages of one do not
        hold up a thousand of another.
        """
        now = self._database.now()
        free = {"lease_until": {"$lte": now}}
        # $min sets a field that is missing, and leaves an earlier time as it is.
        started = {"$min": {"started_at": now}}
        with self._database.operation(writes=True):
            waiting = sorted(self._database.purges.distinct("_id.tenant_id", free))
            if not waiting:
                return None
            tenant_id = next_in_turn(waiting, after_tenant)
            claimed = self._database.purges.find_one_and_update(
                {"_id.tenant_id": tenant_id, **free},
                {"$set": _claim(worker_id, now), **started},
                sort=[("lease_until", ASCENDING)],
                return_document=ReturnDocument.AFTER,
            )
        return None if claimed is None else _to_purge(claimed)

    def remove(self, purge: Purge, position: int, size: int) -> int:
        """Remove the messages `position` to `position + size - 1`, count them, and return how many there were.

        Raises:
            ClaimLostError: another worker holds the purge now; nothing was removed.
        """
        last = min(position + size - 1, purge.last_seq)
        stretch = {"_id": message_range(purge.tenant_id, purge.chat_id, position, last)}

        def work(tx: UnitOfWork) -> int:
            removed = int(tx.messages.delete_many(stretch).deleted_count)
            progress = {"position": last + 1, "lease_until": tx.now + LEASE}
            self._change(tx, purge, {"$inc": {"purged": removed}, "$set": progress})
            return removed

        return self._database.transaction(work)

    def next_seq(self, purge: Purge, position: int = 0) -> int | None:
        """Return the seq of the first message at `position` or later, or None if there is none."""
        first = max(position, purge.first_seq)
        with self._database.operation():
            found = self._database.messages.find_one(
                {"_id": message_range(purge.tenant_id, purge.chat_id, first, purge.last_seq)},
                {"_id": True},
                sort=[("_id", ASCENDING)],
            )
        return None if found is None else int(found["_id"]["seq"])

    def release(self, purge: Purge) -> None:
        """Let others go on with the purge; it queues up at the end."""
        with self._database.operation(writes=True):
            self._database.purges.update_one(
                _held(purge), {"$set": {"worker_id": None, "lease_until": self._database.now()}}
            )

    def finish(self, purge: Purge) -> None:
        """End the purge, and write the completion if it was of a deletion. Only after `next_seq` has found nothing.

        Of a deletion it is looked for again here, whether the chat has any message: that none is left gets signed.

        Raises:
            ClaimLostError: another worker holds the purge now.
        """

        def work(tx: UnitOfWork) -> None:
            done = self.withdraw(tx, purge)
            key = {"_id": chat_key(purge.tenant_id, purge.chat_id)}
            if done["of_deletion"]:
                everything = {"_id": message_range(purge.tenant_id, purge.chat_id)}
                done["purged"] += int(tx.messages.delete_many(everything).deleted_count)
                # Replaced where a restore had brought back what was complete.
                tx.completions.replace_one(key, {"purged": done["purged"], "completed_at": tx.now}, upsert=True)
                tx.log(purge.tenant_id, purged(purge.chat_id, done["purged"]))
            else:
                for place, count in (tx.chats, "open_purges"), (tx.trash, "chat.open_purges"):
                    if place.update_one({**key, count: {"$gt": 0}}, {"$inc": {count: -1}}).matched_count:
                        break

        self._database.transaction(work)

    def complete(self, tx: UnitOfWork, tenant_id: str, receipts: Sequence[Deletion]) -> None:
        """Write what a purge leaves in the end, for chats whose messages went later than their receipt says."""
        documents = [
            {"_id": chat_key(tenant_id, one.chat_id), "purged": one.purged, "completed_at": one.completed_at}
            for one in receipts
        ]
        tx.command({"insert": "completions", "documents": documents})
        tx.log(tenant_id, *(purged(one.chat_id, one.purged) for one in receipts))

    def operations_of_others(self) -> int:
        """Return how many operations the server has done on the chats, ever: no purge does any, every request does."""
        return chat_operations(self._database)

    def progress(self, seconds: float | None = None) -> PurgeProgress:
        """Return what is left to purge; with `seconds` of up to `COUNTED` purges, if the database says so in that time.

        Raises:
            DatabaseUnavailableError: it does not.
        """
        now = self._database.now()
        sums = {"open": {"$sum": 1}, "messages": {"$sum": {"$subtract": ["$messages", "$purged"]}}}
        group = {"$group": {"_id": None, **sums, "since": {"$min": "$lease_until"}}}
        with self._database.operation(seconds=seconds):
            found = self._database.purges.aggregate([group] if seconds is None else [{"$limit": COUNTED}, group])
            total: dict[str, Any] = next(iter(found), {"open": 0, "messages": 0, "since": now})
        return PurgeProgress(total["open"], max(total["messages"], 0), max(now - (total["since"] or now), timedelta()))


class MiscountedError(Exception):
    """Chats deleted together had other numbers of messages than they say; nothing was deleted."""


def remove_inline(tx: UnitOfWork, chats: Sequence[dict[str, Any]]) -> None:
    """Remove the messages of the chats with one command, and see that the counts in the documents are true.

    Raises:
        MiscountedError: several chats together do not have as many as they say. Of a single one it is set right.
    """
    deletes = [{"q": {"_id": own_messages(chat)}, "limit": 0} for chat in chats]
    removed = int(tx.command({"delete": "messages", "deletes": deletes})["n"])
    if len(chats) == 1:
        chats[0]["message_count"] = removed
    elif removed != sum(chat["message_count"] for chat in chats):
        raise MiscountedError


def estimated_end(document: dict[str, Any], now: datetime) -> datetime | None:
    """Return when an open purge will be complete at its speed since it was started, or None if it has none yet."""
    if not document["purged"] or "started_at" not in document:
        return None
    since: timedelta = now - document["started_at"]
    left: float = max(document["messages"] - document["purged"], 0) / document["purged"]
    return now + since * left


def _claim(worker_id: str, now: datetime) -> dict[str, Any]:
    return {"worker_id": worker_id, "process": own_name(), "lease_until": now + LEASE}


def _held(purge: Purge) -> dict[str, Any]:
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
