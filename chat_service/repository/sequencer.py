"""The sequencer: gives what is committed its place in the log, after the commit, from what the commit has left.

A number that a transaction drew for itself would make all deletes of a tenant wait for each other, or leave gaps and
come out of order. So a delete leaves its receipt, everything else leaves events in the outbox, and one process at a
time numbers them. What this module keeps:

1. In the log if and only if it was committed, once. A batch is one transaction: the entries, the heads of the tenants'
   logs, the outbox, and the position up to which the database was followed. A process that has lost its lease finds
   another holder in the position, and commits nothing.
2. Without gaps. A tenant's head, its entries and their hashes in the tree (log_tree.py) are written together.
3. The events of a chat in the order of their commits, which is that of the change stream.
4. None is lost where the stream cannot be gone on with: in a database that had no log, when the oplog has rolled over,
   after a restore. Then all receipts are looked through for what the log does not have. Each batch of that is read from
   one snapshot, the outbox first and whole, so that nothing is told of a chat before what came earlier.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pymongo
from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.change_stream import DatabaseChangeStream
from pymongo.errors import ConnectionFailure, DuplicateKeyError, PyMongoError

from chat_service.errors import ChangesLostError, ClaimLostError, DatabaseUnavailableError
from chat_service.models import Event, Kind, LogEntry, SequencerStatus
from chat_service.repository.database import Database
from chat_service.repository.log_tree import BEHIND, Head, grow, move_heads, read_heads
from chat_service.repository.pending import Pending, of_outbox, purged, purged_places
from chat_service.repository.processes import own_name
from chat_service.repository.receipts import split
from chat_service.repository.unit_of_work import Document, UnitOfWork

LEASE = timedelta(seconds=3)
"""How long the log stands still after its sequencer was killed. It renews it with every batch, and every second."""

BATCH = 1_000
"""Changes that are numbered at once: about 0.1 s."""

RESCAN_BATCH = 200
"""Receipts that are looked through at once."""

AWAIT_MILLISECONDS = 50
"""How long the server holds a question for events when there are none; the most that an event waits for others."""

ASK_SECONDS = 5.0
"""For one question: a primary that is paused is noticed, and another is asked."""

POSITION = {"_id": "log"}

_NEWS = [
    {"$match": {"ns.coll": {"$in": ["deletions", "outbox"]}, "operationType": "insert"}},
    {"$project": {"ns": True, "fullDocument": True, "wallTime": True}},
]

_RECEIPT_ORDER = [("_id.tenant_id", DESCENDING), ("deleted_at", ASCENDING), ("_id.chat_id", DESCENDING)]
"""The index of the receipts, read from its end: those of a tenant from the first to the last."""


class Sequencer:
    """One of those that may write the log; it does while it holds the lease."""

    def __init__(self, database: Database, holder: str | None = None) -> None:
        self._database = database
        self._holder = holder or uuid.uuid4().hex

    def claim(self) -> Document | None:
        """Take or renew the lease, and return the position; None while another holds it."""
        now = self._database.now()
        free = {**POSITION, "$or": [{"lease_until": {"$lte": now}}, {"holder": self._holder}]}
        held = {"holder": self._holder, "process": own_name(), "lease_until": now + LEASE}
        with self._database.operation(writes=True):
            try:
                position: Document = self._database.log_position.find_one_and_update(
                    free, {"$set": held}, upsert=True, return_document=ReturnDocument.AFTER
                )
            except DuplicateKeyError:
                return None
        return position

    def give_up(self) -> None:
        """Let another take over at once."""
        with self._database.operation(writes=True):
            own = {**POSITION, "holder": self._holder}
            self._database.log_position.update_one(own, {"$set": {"lease_until": self._database.now()}})

    def begin_rescan(self) -> None:
        """Have all receipts looked through, from the first, and the database followed from now on.

        Raises:
            ClaimLostError: another process writes the log now.
        """
        with self._database.operation(writes=True), closing(self._watch(None)) as stream:
            stream.try_next()  # which brings a token also where nothing happens
            place = {"token": stream.resume_token, "rescan": {"tenant_id": None}}
            own = {**POSITION, "holder": self._holder}
            if not self._database.log_position.update_one(own, {"$set": place}).matched_count:
                raise ClaimLostError

    def rescan(self, after: Document) -> int:
        """Number what the outbox has, or else what of the next receipts the log does not have; return how much it was.

        Raises:
            ClaimLostError: another process writes the log now.
        """

        def work(tx: UnitOfWork) -> int:
            earlier = {"kind": {"$ne": Kind.CHAT_PURGED.value}}
            waiting = [of_outbox(one) for one in tx.outbox.find(earlier, sort=[("_id", ASCENDING)], limit=RESCAN_BATCH)]
            if len(waiting) == RESCAN_BATCH:
                return self._number(tx, waiting, {"rescan": after})
            # The outbox has nothing earlier of them, in this snapshot.
            receipts = list(tx.deletions.find(_receipts_after(after), sort=_RECEIPT_ORDER, limit=RESCAN_BATCH))
            waiting += [one for receipt in receipts for one in of_receipt(receipt)]
            waiting += _purges_of(tx, receipts)
            rest = _place_of(receipts[-1]) if len(receipts) == RESCAN_BATCH else None
            return self._number(tx, waiting, {"rescan": rest})

        return self._database.transaction(work)

    @contextmanager
    def follow(self, token: Document) -> Iterator["Tail"]:
        """Give what is committed after `token`.

        Raises:
            ChangesLostError: the server does not remember what came after it.
            DatabaseUnavailableError: it did not answer.
        """
        with _or_lost():
            stream = self._watch(token)
        with closing(stream):
            yield Tail(stream)

    def _watch(self, token: Document | None) -> DatabaseChangeStream[Document]:
        with pymongo.timeout(ASK_SECONDS):
            stream: DatabaseChangeStream[Document] = self._database.database.watch(
                _NEWS, max_await_time_ms=AWAIT_MILLISECONDS, start_after=token, batch_size=BATCH
            )
            return stream

    def number(self, batch: "Batch") -> int:
        """Write the events of the batch into the log, and where to go on; return how many there were.

        Raises:
            ClaimLostError: another process writes the log now.
        """
        place = {"token": batch.token, "up_to": batch.up_to or self._database.now()}
        return self._database.transaction(lambda tx: self._number(tx, batch.pending, place))

    def _number(self, tx: UnitOfWork, waiting: Sequence[Pending], place: Document) -> int:
        events = self._unnumbered(tx, waiting)
        self.hold(tx, place, len(events))
        if not events:
            return 0
        heads = read_heads(tx, sorted({one.tenant_id for one in events}))
        tx.log_entries.insert_many([_numbered(heads[one.tenant_id], one) for one in events])
        move_heads(tx, heads.values())
        if places := [one.place for one in events if one.place is not None]:
            tx.outbox.delete_many({"_id": {"$in": places}})
        return len(events)

    def hold(self, tx: UnitOfWork, place: Document, entries: int = 0) -> None:
        """Write down where to go on, and how many `entries` this has written, if the log is this process's to write.

        Raises:
            ClaimLostError: it is another's.
        """
        held = {**place, "lease_until": tx.now + LEASE}
        change = {"$set": held, "$inc": {"entries": entries}}
        if not tx.log_position.update_one({**POSITION, "holder": self._holder}, change).matched_count:
            # Raised, not returned: the transaction must not be committed.
            raise ClaimLostError

    def grow_trees(self) -> int:
        """Take entries of an earlier version into the tree of their log; return how many, 0 when all are in it.

        Raises:
            ClaimLostError: another process writes the log now.
        """
        with self._database.operation():
            head = self._database.log_heads.find_one(BEHIND, {"_id": True})
        if head is None:
            return 0

        def work(tx: UnitOfWork) -> int:
            self.hold(tx, {})
            found = tx.log_heads.find_one({**head, **BEHIND})
            return 0 if found is None else grow(tx, found)

        return self._database.transaction(work)

    def _unnumbered(self, tx: UnitOfWork, waiting: Sequence[Pending]) -> list[Pending]:
        """Return those that the log does not have: a rescan and the stream may both have come upon one."""
        places = [one.place for one in waiting if one.place is not None]
        found = tx.outbox.find({"_id": {"$in": places}}, {"_id": True}, batch_size=BATCH + 1) if places else ()
        left = {one["_id"]["id"] for one in found}
        numbered = self._deletes_in_log(tx, [one for one in waiting if one.place is None])
        return [
            one
            for one in waiting
            if (one.place["id"] in left if one.place else (one.tenant_id, one.event.chat_id) not in numbered)
        ]

    def _deletes_in_log(self, tx: UnitOfWork, waiting: Sequence[Pending]) -> set[tuple[str, str]]:
        """Return those of the chats whose delete is in the log."""
        if not waiting:
            return set()
        ids = list({one.event.chat_id for one in waiting})
        deletes = {"chat_id": {"$in": ids}, "kind": Kind.CHAT_DELETED.value}
        found = tx.log_entries.find(deletes, {"chat_id": True}, batch_size=2 * BATCH)
        return {(one["_id"]["tenant_id"], one["chat_id"]) for one in found}

    def status(self, seconds: float | None = None) -> SequencerStatus:
        """Return how far the log is, and who writes it; with `seconds`, if the database says so in that time.

        Raises:
            DatabaseUnavailableError: it does not.
        """
        with self._database.operation(seconds=seconds):
            found = self._database.log_position.find_one(POSITION) or {}
        now = self._database.now()
        up_to = found.get("up_to")
        is_held = bool(found) and found["lease_until"] > now
        return SequencerStatus(
            up_to=up_to,
            behind=up_to and max(now - up_to, timedelta()),
            process=found["process"] if is_held else None,
            is_rescanning=found.get("rescan") is not None,
        )


class Batch:
    """What was committed between two looks, and where to go on."""

    def __init__(self, pending: list[Pending], token: Document, up_to: datetime | None) -> None:
        self.pending = pending
        self.token = token
        self.up_to = up_to
        """When the last of it was committed; None if that was everything."""


class Tail:
    """The stream of what is committed."""

    def __init__(self, stream: DatabaseChangeStream[Document]) -> None:
        self._stream = stream

    def next_batch(self, seconds: float) -> Batch:
        """Return what comes within `AWAIT_MILLISECONDS` of the first, `BATCH` at most; wait up to `seconds` for that.

        Raises:
            ChangesLostError: it could not be gone on with without a gap.
            DatabaseUnavailableError: the database did not answer; what was read is read again.
        """
        with _or_lost():
            changes = list(self._changes(seconds))
        pending = [one for change in changes for one in _of_change(change)]
        token: Any = self._stream.resume_token
        up_to = changes[-1]["wallTime"] if changes else None
        return Batch(pending, token, up_to)

    def _changes(self, seconds: float) -> Iterator[Document]:
        end, count = time.monotonic() + seconds, 0
        while count < BATCH and time.monotonic() < end:
            with pymongo.timeout(ASK_SECONDS):
                change = self._stream.try_next()
            if change is not None:
                end = end if count else time.monotonic() + AWAIT_MILLISECONDS / 1000
                count += 1
                yield change
            elif count:
                return
            elif not self._stream.alive:
                raise ChangesLostError


@contextmanager
def _or_lost() -> Iterator[None]:
    """Turn what the driver raises into whether the stream can be begun again where it was."""
    try:
        yield
    except PyMongoError as error:
        if error.timeout or isinstance(error, ConnectionFailure) or error.has_error_label("ResumableChangeStreamError"):
            raise DatabaseUnavailableError from error
        raise ChangesLostError from error


def _of_change(change: Document) -> list[Pending]:
    document = change["fullDocument"]
    return of_receipt(document) if change["ns"]["coll"] == "deletions" else [of_outbox(document)]


def of_receipt(document: Document) -> list[Pending]:
    """Return the events that a receipt tells: the delete, and unless a purge comes after it, that nothing is left."""
    receipt, _ = split(document)
    tenant_id, chat_id = receipt["_id"]["tenant_id"], receipt["_id"]["chat_id"]
    count = receipt["message_count"]
    facts: Document = {name: receipt[name] for name in ("message_count", "export_sha256") if name in receipt}
    events = [Event(Kind.CHAT_DELETED, chat_id, receipt["requested_by"], facts)]
    if not receipt["staged"]:
        events.append(purged(chat_id, count))
    return [Pending(tenant_id, receipt["deleted_at"], event, None) for event in events]


def _purges_of(tx: UnitOfWork, receipts: Sequence[Document]) -> list[Pending]:
    """Return what the outbox has of the purges of these receipts: it is told after the delete."""
    places = [{"_id": purged_places(**receipt["_id"])} for receipt in receipts]
    return [of_outbox(one) for one in tx.outbox.find({"$or": places})] if places else []


def _receipts_after(place: Document) -> Document:
    """Return the condition of the receipts that come after one, in `_RECEIPT_ORDER`."""
    tenant_id = place["tenant_id"]
    if tenant_id is None:
        return {}
    own = {"_id.tenant_id": tenant_id}
    return {
        "$or": [
            {"_id.tenant_id": {"$lt": tenant_id}},
            {**own, "deleted_at": {"$gt": place["at"]}},
            {**own, "deleted_at": place["at"], "_id.chat_id": {"$lt": place["chat_id"]}},
        ]
    }


def _place_of(receipt: Document) -> Document:
    return {**receipt["_id"], "at": receipt["deleted_at"]}


def _numbered(head: Head, one: Pending) -> Document:
    return head.add(LogEntry(head.next_seq, one.at, one.event))
