"""Exports a whole chat from one snapshot: writes and deletes during the export do not change what it shows."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pymongo
from bson import CodecOptions, decode, decode_all, decode_iter
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING
from pymongo.errors import OperationFailure, PyMongoError

from chat_service.errors import (
    ChatNotFoundError,
    ExportCutError,
    ExportEndedError,
    ExportOutdatedError,
    TooManyExportsError,
)
from chat_service.models import Caller, Chat
from chat_service.repository import chats
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_key, chat_range, message_range, unexpired
from chat_service.repository.unit_of_work import Bound, UnitOfWork

HELD_BYTES = 256 * 2**10
"""The size of the messages that an export holds in memory for a slow reader; there may be hundreds of exports."""

FIRST_BYTES = 128 * 2**10
"""Fetched before the response begins: more than its first part, so that nothing fails between status and body."""

FIRST_MESSAGES, GROWTH, BATCH_MESSAGES = 8, 16, 1_000
"""The messages of the first batch, the growth from one batch to the next, and the most of a batch. The size of a batch
in bytes also limits how many messages the next one fetches."""

MOST_PER_KEY, MOST_PER_TENANT, MOST_PER_PROCESS = 100, 150, 200
"""The most exports at once in a process. Each holds a batch and its text, so that all of them stay below 200 MB."""

CLOCKS_APART = timedelta(seconds=1)
"""Processes take the time from the server, and their clocks differ by less than this."""

SNAPSHOT_TOO_OLD = 239
"""The error code for a snapshot that the server no longer has. It keeps the history for 300 s by default
(minSnapshotHistoryWindowInSeconds)."""

IDS_AT_ONCE = 1_000
"""The ids of chats that one command reads."""

FETCH_SECONDS = 10.0
"""The timeout for fetching one batch. The reader has as long as it wants between two batches; the database has not."""

Holder = tuple[str, str]
"""Whose exports are counted: a kind (key, tenant or process) and an id of that kind."""

_BY_ID = [("_id", ASCENDING)]

_RAW = CodecOptions(document_class=RawBSONDocument)

Row = dict[str, Any]
"""A message as it is exported, with its times as text."""


def _time(field: str) -> dict[str, Any]:
    return {"$dateToString": {"date": field, "format": "%Y-%m-%dT%H:%M:%S.%LZ", "onNull": None}}


# The server shapes the rows: the speed of an export depends on what Python does for each row (benchmarks/reads.py).
_ROW = {
    "_id": False,
    "seq": "$_id.seq",
    **{field: f"${field}" for field in ("role", "sender_id", "content", "metadata")},
    "created_at": _time("$created_at"),
    "edited_at": _time("$edited_at"),
}


@dataclass(frozen=True, slots=True)
class _Batch:
    """Messages that were fetched together."""

    rows: list[Row]
    size: int
    """How many messages were requested."""
    bytes: int
    is_last: bool
    is_after_snapshot: bool = False
    """Whether the batch was read later than the snapshot, because the server no longer had the snapshot."""


class Exports:
    """Exports of whole chats, and the number of those under way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._running: Counter[Holder] = Counter()

    @contextmanager
    def open(
        self, caller: Caller, chat_id: str, *, of_trash: bool = False
    ) -> Iterator[tuple[Chat, Iterator[list[Row]]]]:
        """Yield the chat and an iterator of its messages in batches, oldest first, all as they are at this moment.

        With `of_trash` the chat must be in the trash, otherwise it must not be.

        Raises:
            ChatNotFoundError: the chat is absent, deleted or another tenant's.
            TooManyExportsError: the key, the tenant or the process has as many exports under way as it may have.
            DatabaseUnavailableError: the database did not answer in time.
            ExportCutError (from the iterator): the remaining messages could not be read.
            ExportEndedError (from the iterator): the chat was deleted during the export.
            ExportOutdatedError (from the iterator): the server no longer has the snapshot, and the rest has changed.
        """
        with self._counted(caller), self._database.snapshot() as tx:
            with self._database.operation():
                collection, condition = _locate(tx, chat_key(caller.tenant_id, chat_id), of_trash=of_trash)
                document = collection.find_one(condition)
                if document is None:
                    raise ChatNotFoundError
                if of_trash:
                    document = {**document["chat"], "_id": document["_id"]}
                # A failure before the first part can be sent is answered like that of any other request.
                first = [self._fetch(tx, document, document["first_seq"], FIRST_MESSAGES)]
                while not first[-1].is_last and sum(batch.bytes for batch in first) < FIRST_BYTES:
                    first.append(self._next(tx, document, first[-1]))
            yield chats.from_document(document, 0), self._batches(tx, document, first, of_trash=of_trash)

    @contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        """Count an export as under way during the block; raise TooManyExportsError if there are too many."""
        holders = [
            ("key", caller.key_id, MOST_PER_KEY),
            ("tenant", caller.tenant_id, MOST_PER_TENANT),
            ("process", "", MOST_PER_PROCESS),
        ]
        with self._lock:
            if any(self._running[kind, name] >= most for kind, name, most in holders):
                raise TooManyExportsError
            self._running.update((kind, name) for kind, name, _ in holders)
        try:
            yield
        finally:
            with self._lock:
                self._running.subtract((kind, name) for kind, name, _ in holders)
                self._running = +self._running

    def ids(self, tenant_id: str, *, of_trash: bool) -> Iterator[str]:
        """Yield the ids of all live chats of a tenant, or of all in its trash, sorted."""
        collection = self._database.trash if of_trash else self._database.chats
        last = ""
        while True:
            after = {"_id": chat_range(tenant_id, last)}
            with self._database.operation():
                chat_ids = [
                    row["_id"]["chat_id"]
                    for row in collection.find(after, {"_id": True}, sort=_BY_ID, limit=IDS_AT_ONCE)
                ]
            yield from chat_ids
            if len(chat_ids) < IDS_AT_ONCE:
                return
            last = chat_ids[-1]

    def _batches(
        self, tx: UnitOfWork, chat: dict[str, Any], first: list[_Batch], *, of_trash: bool
    ) -> Iterator[list[Row]]:
        """Yield the batches that were fetched first, and then the rest in batches of about `HELD_BYTES`."""
        last = first[-1]
        count = sum(len(batch.rows) for batch in first)
        yield from (batch.rows for batch in first if batch.rows)
        first.clear()
        while not last.is_last:
            with _cut_on_error():
                # Outside the snapshot, which would always show the chat: nobody may read a chat after its delete.
                collection, condition = _locate(self._database.unbound(), chat["_id"], of_trash=of_trash)
                if collection.find_one(condition, {"_id": True}) is None:
                    raise ExportEndedError
                last = self._later(tx, chat, last)
            count += len(last.rows)
            if last.is_last and last.is_after_snapshot and count != chat["message_count"]:
                raise ExportOutdatedError
            if last.rows:
                yield last.rows

    def _later(self, tx: UnitOfWork, chat: dict[str, Any], batch: _Batch) -> _Batch:
        """Return the batch after one that was not the last, from the snapshot for as long as the server has it.

        A slow reader may take longer than that. It then gets the current messages, which are the same unless a message
        was edited or removed since the snapshot.

        Raises:
            ExportOutdatedError: a message of the batch was edited since the snapshot.
        """
        if not batch.is_after_snapshot:
            try:
                return self._next(tx, chat, batch)
            except OperationFailure as error:
                if error.code != SNAPSHOT_TOO_OLD:
                    raise
        current = self._next(self._database.unbound(), chat, batch)
        since = (tx.now - CLOCKS_APART).isoformat(timespec="milliseconds")
        if any(row["edited_at"] is not None and row["edited_at"] > since for row in current.rows):
            raise ExportOutdatedError
        return replace(current, is_after_snapshot=True)

    def _next(self, tx: UnitOfWork, chat: dict[str, Any], batch: _Batch) -> _Batch:
        """Return the batch after one that was not the last, as `tx` reads it."""
        size = max(1, min(batch.size * GROWTH, HELD_BYTES * len(batch.rows) // batch.bytes, BATCH_MESSAGES))
        return self._fetch(tx, chat, batch.rows[-1]["seq"] + 1, size)

    def _fetch(self, tx: UnitOfWork, chat: dict[str, Any], first_seq: int, size: int) -> _Batch:
        """Return up to `size` messages from `first_seq` on, and no more than a batch may hold."""
        # Ends with the last message of the snapshot, also when the batch is not read from the snapshot.
        messages = message_range(chat["_id"]["tenant_id"], chat["_id"]["chat_id"], first_seq, chat["next_seq"] - 1)
        pipeline: list[Row] = [
            {"$match": {"_id": messages}},
            {"$sort": {"_id": ASCENDING}},
            {"$limit": size},
            {"$project": _ROW},
        ]
        with tx.messages.aggregate_raw_batches(pipeline, batchSize=size + 1) as cursor:
            reply: bytes = next(cursor, b"")
        if len(reply) <= 2 * HELD_BYTES:
            rows = decode_all(reply, self._database.database.codec_options)
            return _Batch(rows, size, len(reply), is_last=len(rows) < size)
        # The rest is fetched again later: it would stay in memory until the reader gets to it.
        raw, length = [], 0
        for row in decode_iter(reply, _RAW):
            raw.append(row.raw)
            length += len(row.raw)
            if length >= HELD_BYTES:
                break
        return _Batch([decode(row, self._database.database.codec_options) for row in raw], size, length, is_last=False)


def _locate(tx: UnitOfWork, key: dict[str, Any], *, of_trash: bool) -> tuple[Bound, dict[str, Any]]:
    """Return the collection of a chat, and the condition that finds the chat there if it has not expired."""
    if of_trash:
        return tx.trash, {"_id": key, "purge_at": {"$gt": tx.now}}
    return tx.chats, {"_id": key, **unexpired(tx.now)}


@contextmanager
def _cut_on_error() -> Iterator[None]:
    try:
        with pymongo.timeout(FETCH_SECONDS):
            yield
    except PyMongoError as error:
        raise ExportCutError from error
