"""The sequencer: numbers committed events into the tenants' logs, after their commit.

If a transaction numbered its own events, all deletes of a tenant would wait for each other, or the numbers would have
gaps and be out of order. So a delete leaves its receipt, every other change leaves events in the outbox, and one
process at a time numbers them. Invariants:

1. An event is in the log if and only if its change was committed, and exactly once. A batch is one transaction: it
   writes the entries, the heads of the tenants' logs, the outbox, and the position up to which the change stream was
   read. A process that has lost its lease finds another holder in the position, and commits nothing.
2. A log has no gaps. A tenant's head, its entries and their hashes in the tree (log_tree.py) are written together.
3. The events of a chat are in the order of their commits, which is the order of the change stream.
4. No event is lost if the change stream cannot be resumed: in a database that had no log, after the oplog has rolled
   over, after a restore. Then a rescan searches all receipts for what the log lacks. Each of its batches reads one
   snapshot, and the whole outbox first, so that no event of a chat is numbered before an earlier one.
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
from chat_service.repository.pending import Pending, from_document, purged, purged_range
from chat_service.repository.processes import own_name
from chat_service.repository.receipts import split
from chat_service.repository.unit_of_work import Document, UnitOfWork

LEASE = timedelta(seconds=3)
"""How long no log grows after the sequencer was killed. It renews the lease with every batch, and every second."""

BATCH = 1_000
"""Changes that are numbered in one transaction: about 0.1 s."""

RESCAN_BATCH = 200
"""Receipts that a rescan reads in one transaction."""

AWAIT_MILLISECONDS = 50
"""How long the server waits for events before it answers an empty batch; an event waits no longer for others."""

ASK_SECONDS = 5.0
"""The timeout of one read of the stream: so a paused primary is noticed, and another is asked."""

POSITION = {"_id": "log"}

_STREAM_PIPELINE = [
    {"$match": {"ns.coll": {"$in": ["deletions", "outbox"]}, "operationType": "insert"}},
    {"$project": {"ns": True, "fullDocument": True, "wallTime": True}},
]

_RECEIPT_ORDER = [("_id.tenant_id", DESCENDING), ("deleted_at", ASCENDING), ("_id.chat_id", DESCENDING)]
"""The index of the receipts, read backwards: each tenant's from the oldest to the newest."""


class Sequencer:
    """Writes the logs, while it has the lease: one of the processes that can."""

    def __init__(self, database: Database, holder: str | None = None) -> None:
        self._database = database
        self._holder = holder or uuid.uuid4().hex

    def claim(self) -> Document | None:
        """Claim or renew the lease, and return the position; None while another process has the lease."""
        now = self._database.now()
        free = {**POSITION, "$or": [{"lease_until": {"$lte": now}}, {"holder": self._holder}]}
        lease = {"holder": self._holder, "process": own_name(), "lease_until": now + LEASE}
        with self._database.operation(writes=True):
            try:
                position: Document = self._database.log_position.find_one_and_update(
                    free, {"$set": lease}, upsert=True, return_document=ReturnDocument.AFTER
                )
            except DuplicateKeyError:
                return None
        return position

    def give_up(self) -> None:
        """End the lease, so that another process can claim it at once."""
        with self._database.operation(writes=True):
            own = {**POSITION, "holder": self._holder}
            self._database.log_position.update_one(own, {"$set": {"lease_until": self._database.now()}})

    def begin_rescan(self) -> None:
        """Start a rescan at the first receipt, and let the stream be followed from now on.

        Raises:
            ClaimLostError: another process writes the log now.
        """
        with self._database.operation(writes=True), closing(self._watch(None)) as stream:
            stream.try_next()  # brings a resume token even if nothing has happened
            position = {"token": stream.resume_token, "rescan": {"tenant_id": None}}
            own = {**POSITION, "holder": self._holder}
            if not self._database.log_position.update_one(own, {"$set": position}).matched_count:
                raise ClaimLostError

    def rescan(self, after: Document) -> int:
        """Number a full batch of the outbox, or else its rest and the next receipts; return how many events were new.

        Raises:
            ClaimLostError: another process writes the log now.
        """

        def work(tx: UnitOfWork) -> int:
            earlier = {"kind": {"$ne": Kind.CHAT_PURGED.value}}
            documents = tx.outbox.find(earlier, sort=[("_id", ASCENDING)], limit=RESCAN_BATCH)
            pending = [from_document(document) for document in documents]
            if len(pending) == RESCAN_BATCH:
                return self._number(tx, pending, {"rescan": after})
            # In this snapshot, the outbox has no more events that come before these receipts.
            receipts = list(tx.deletions.find(_receipts_after(after), sort=_RECEIPT_ORDER, limit=RESCAN_BATCH))
            pending += [event for receipt in receipts for event in events_of_receipt(receipt)]
            pending += _purges_of(tx, receipts)
            continue_after = _rescan_position(receipts[-1]) if len(receipts) == RESCAN_BATCH else None
            return self._number(tx, pending, {"rescan": continue_after})

        return self._database.transaction(work)

    @contextmanager
    def follow(self, token: Document) -> Iterator["Tail"]:
        """Follow the change stream after `token`.

        Raises:
            ChangesLostError: the server no longer has the changes after `token`.
            DatabaseUnavailableError: the server did not answer.
        """
        with _stream_errors():
            stream = self._watch(token)
        with closing(stream):
            yield Tail(stream)

    def _watch(self, token: Document | None) -> DatabaseChangeStream[Document]:
        with pymongo.timeout(ASK_SECONDS):
            stream: DatabaseChangeStream[Document] = self._database.database.watch(
                _STREAM_PIPELINE, max_await_time_ms=AWAIT_MILLISECONDS, start_after=token, batch_size=BATCH
            )
            return stream

    def number(self, batch: "Batch") -> int:
        """Write the events of the batch into the log, and save the position; return how many events were new.

        Raises:
            ClaimLostError: another process writes the log now.
        """
        position = {"token": batch.token, "up_to": batch.up_to or self._database.now()}
        return self._database.transaction(lambda tx: self._number(tx, batch.pending, position))

    def _number(self, tx: UnitOfWork, pending: Sequence[Pending], position: Document) -> int:
        events = self._unnumbered(tx, pending)
        self.save_position(tx, position, len(events))
        if not events:
            return 0
        heads = read_heads(tx, sorted({event.tenant_id for event in events}))
        tx.log_entries.insert_many([_numbered(heads[event.tenant_id], event) for event in events])
        move_heads(tx, heads.values())
        if outbox_keys := [event.outbox_key for event in events if event.outbox_key is not None]:
            tx.outbox.delete_many({"_id": {"$in": outbox_keys}})
        return len(events)

    def save_position(self, tx: UnitOfWork, position: Document, entries: int = 0) -> None:
        """Save the position, add the number of `entries` written, and renew the lease, if this process has it.

        Raises:
            ClaimLostError: another process has the lease.
        """
        fields = {**position, "lease_until": tx.now + LEASE}
        change = {"$set": fields, "$inc": {"entries": entries}}
        if not tx.log_position.update_one({**POSITION, "holder": self._holder}, change).matched_count:
            # Raised, not returned: the transaction must not be committed.
            raise ClaimLostError

    def grow_trees(self) -> int:
        """Add entries that an earlier version wrote to the tree of their log; return how many, 0 if all are in it.

        Raises:
            ClaimLostError: another process writes the log now.
        """
        with self._database.operation():
            head = self._database.log_heads.find_one(BEHIND, {"_id": True})
        if head is None:
            return 0

        def work(tx: UnitOfWork) -> int:
            self.save_position(tx, {})
            behind = tx.log_heads.find_one({**head, **BEHIND})
            return 0 if behind is None else grow(tx, behind)

        return self._database.transaction(work)

    def _unnumbered(self, tx: UnitOfWork, pending: Sequence[Pending]) -> list[Pending]:
        """Return the events that the log does not have yet: both a rescan and the stream may have read the same one."""
        keys = [event.outbox_key for event in pending if event.outbox_key is not None]
        documents = tx.outbox.find({"_id": {"$in": keys}}, {"_id": True}, batch_size=BATCH + 1) if keys else ()
        in_outbox = {document["_id"]["id"] for document in documents}
        deleted = self._deletes_in_log(tx, [event for event in pending if event.outbox_key is None])
        return [
            one
            for one in pending
            if (
                one.outbox_key["id"] in in_outbox
                if one.outbox_key
                else (one.tenant_id, one.event.chat_id) not in deleted
            )
        ]

    def _deletes_in_log(self, tx: UnitOfWork, pending: Sequence[Pending]) -> set[tuple[str, str]]:
        """Return the tenant and the id of each of the chats whose delete is in the log."""
        if not pending:
            return set()
        ids = list({one.event.chat_id for one in pending})
        deletes = {"chat_id": {"$in": ids}, "kind": Kind.CHAT_DELETED.value}
        entries = tx.log_entries.find(deletes, {"chat_id": True}, batch_size=2 * BATCH)
        return {(entry["_id"]["tenant_id"], entry["chat_id"]) for entry in entries}

    def status(self, seconds: float | None = None) -> SequencerStatus:
        """Return how far the log is, and which process writes it; `seconds` is the timeout.

        Raises:
            DatabaseUnavailableError: the database did not answer in time.
        """
        with self._database.operation(seconds=seconds):
            position = self._database.log_position.find_one(POSITION) or {}
        now = self._database.now()
        up_to = position.get("up_to")
        is_leased = bool(position) and position["lease_until"] > now
        return SequencerStatus(
            up_to=up_to,
            behind=up_to and max(now - up_to, timedelta()),
            process=position["process"] if is_leased else None,
            is_rescanning=position.get("rescan") is not None,
        )


class Batch:
    """The events that were committed since the last batch, and the token to continue with."""

    def __init__(self, pending: list[Pending], token: Document, up_to: datetime | None) -> None:
        self.pending = pending
        self.token = token
        self.up_to = up_to
        """When the last change of the batch was committed; None if there was no change."""


class Tail:
    """The change stream, read in batches."""

    def __init__(self, stream: DatabaseChangeStream[Document]) -> None:
        self._stream = stream

    def next_batch(self, seconds: float) -> Batch:
        """Wait up to `seconds` for a first change; return it and those of the next `AWAIT_MILLISECONDS`, up to `BATCH`.

        Raises:
            ChangesLostError: the stream cannot be resumed without a gap.
            DatabaseUnavailableError: the database did not answer; the same changes will be read again.
        """
        with _stream_errors():
            changes = list(self._changes(seconds))
        pending = [event for change in changes for event in _events_of_change(change)]
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
def _stream_errors() -> Iterator[None]:
    """Raise the driver's errors as DatabaseUnavailableError if the stream can be resumed, else as ChangesLostError."""
    try:
        yield
    except PyMongoError as error:
        if error.timeout or isinstance(error, ConnectionFailure) or error.has_error_label("ResumableChangeStreamError"):
            raise DatabaseUnavailableError from error
        raise ChangesLostError from error


def _events_of_change(change: Document) -> list[Pending]:
    document = change["fullDocument"]
    return events_of_receipt(document) if change["ns"]["coll"] == "deletions" else [from_document(document)]


def events_of_receipt(document: Document) -> list[Pending]:
    """Return the events of a receipt: the delete and, if it was inline, also that the last message was removed."""
    receipt, _ = split(document)
    tenant_id, chat_id = receipt["_id"]["tenant_id"], receipt["_id"]["chat_id"]
    count = receipt["message_count"]
    facts: Document = {name: receipt[name] for name in ("message_count", "export_sha256") if name in receipt}
    events = [Event(Kind.CHAT_DELETED, chat_id, receipt["requested_by"], facts)]
    if not receipt["staged"]:
        events.append(purged(chat_id, count))
    return [Pending(tenant_id, receipt["deleted_at"], event, None) for event in events]


def _purges_of(tx: UnitOfWork, receipts: Sequence[Document]) -> list[Pending]:
    """Return the outbox's events that the purges of these receipts are complete: they come after the deletes."""
    ranges = [{"_id": purged_range(**receipt["_id"])} for receipt in receipts]
    return [from_document(document) for document in tx.outbox.find({"$or": ranges})] if ranges else []


def _receipts_after(position: Document) -> Document:
    """Return the condition of the receipts after the rescan's position, in `_RECEIPT_ORDER`."""
    tenant_id = position["tenant_id"]
    if tenant_id is None:
        return {}
    own = {"_id.tenant_id": tenant_id}
    return {
        "$or": [
            {"_id.tenant_id": {"$lt": tenant_id}},
            {**own, "deleted_at": {"$gt": position["at"]}},
            {**own, "deleted_at": position["at"], "_id.chat_id": {"$lt": position["chat_id"]}},
        ]
    }


def _rescan_position(receipt: Document) -> Document:
    return {**receipt["_id"], "at": receipt["deleted_at"]}


def _numbered(head: Head, pending: Pending) -> Document:
    return head.add(LogEntry(head.next_seq, pending.at, pending.event))
