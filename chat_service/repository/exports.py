"""A whole chat out of the database, from one snapshot: what is written or deleted meanwhile changes nothing."""

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
"""Of messages that an export holds while its reader takes its time; hundreds may be read at once."""

FIRST_BYTES = 128 * 2**10
"""Fetched before the answer begins: more than its first part takes, so that nothing fails between status and body."""

FIRST_MESSAGES, GROWTH, BATCH_MESSAGES = 8, 16, 1_000
"""Fetched at once: a few at first, whose size tells how many may be fetched next."""

OF_KEY, OF_TENANT, OF_PROCESS = 100, 150, 200
"""Exports under way at once in a process: each holds a batch and its text, so that all of them stay below 200 MB."""

CLOCKS_APART = timedelta(seconds=1)
"""Processes take the time from the server, and are apart by less."""

SNAPSHOT_TOO_OLD = 239
"""The server keeps the past for a while, 300 s unless it is told otherwise (minSnapshotHistoryWindowInSeconds)."""

IDS = 1_000
"""Of chats, that are looked up at once."""

FETCH_SECONDS = 10.0
"""For one batch. A reader may take its time between two of them, the database may not."""

Holder = tuple[str, str]
"""Whose exports are counted: a key's, a tenant's, the process's."""

_BY_ID = [("_id", ASCENDING)]

_RAW = CodecOptions(document_class=RawBSONDocument)

Row = dict[str, Any]
"""A message as it leaves, with its times as text."""


def _time(field: str) -> dict[str, Any]:
    return {"$dateToString": {"date": field, "format": "%Y-%m-%dT%H:%M:%S.%LZ", "onNull": None}}


# Shaped by the server: what Python does for each row is what an export's speed is made of (benchmarks/reads.py).
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
    """How many were asked for."""
    bytes: int
    is_last: bool
    is_of_now: bool = False
    """Whether it is from after the moment that the export shows."""


class Exports:
    """Whole chats."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._running: Counter[Holder] = Counter()

    @contextmanager
    def open(
        self, caller: Caller, chat_id: str, *, of_trash: bool = False
    ) -> Iterator[tuple[Chat, Iterator[list[Row]]]]:
        """Give the chat and its messages in batches, oldest first, as they all are at this moment.

        One in the trash is found by `of_trash` only.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            TooManyExportsError: as many are under way as there may be.
            DatabaseUnavailableError: it did not answer.
            ExportCutError (from the iterator): the rest could not be read.
            ExportEndedError (from the iterator): the chat was deleted meanwhile.
            ExportOutdatedError (from the iterator): the server's past is over, and the rest has changed.
        """
        with self._place(caller), self._database.snapshot() as tx:
            with self._database.operation():
                collection, there = _place(tx, chat_key(caller.tenant_id, chat_id), of_trash=of_trash)
                document = collection.find_one(there)
                if document is None:
                    raise ChatNotFoundError
                if of_trash:
                    document = {**document["chat"], "_id": document["_id"]}
                # What fails before a first part can be sent is answered like any other request.
                first = [self._fetch(tx, document, document["first_seq"], FIRST_MESSAGES)]
                while not first[-1].is_last and sum(batch.bytes for batch in first) < FIRST_BYTES:
                    first.append(self._next(tx, document, first[-1]))
            yield chats.from_document(document, 0), self._batches(tx, document, first, of_trash=of_trash)

    @contextmanager
    def _place(self, caller: Caller) -> Iterator[None]:
        """Count an export that is under way."""
        holders = [("key", caller.key_id, OF_KEY), ("tenant", caller.tenant_id, OF_TENANT), ("process", "", OF_PROCESS)]
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
        """Give the ids of all chats of a tenant, or of all in its trash, in their order."""
        collection = self._database.trash if of_trash else self._database.chats
        last = ""
        while True:
            after = {"_id": chat_range(tenant_id, last)}
            with self._database.operation():
                found = [one["_id"]["chat_id"] for one in collection.find(after, {"_id": True}, sort=_BY_ID, limit=IDS)]
            yield from found
            if len(found) < IDS:
                return
            last = found[-1]

    def _batches(
        self, tx: UnitOfWork, chat: dict[str, Any], first: list[_Batch], *, of_trash: bool
    ) -> Iterator[list[Row]]:
        """Give the messages in batches of about `HELD_BYTES`, after those that were fetched first."""
        last = first[-1]
        count = sum(len(batch.rows) for batch in first)
        yield from (batch.rows for batch in first if batch.rows)
        first.clear()
        while not last.is_last:
            with _or_cut():
                # Outside the snapshot, which would see it for ever: what is deleted can be read by no route.
                collection, there = _place(self._database.unbound(), chat["_id"], of_trash=of_trash)
                if collection.find_one(there, {"_id": True}) is None:
                    raise ExportEndedError
                last = self._later(tx, chat, last)
            count += len(last.rows)
            if last.is_last and last.is_of_now and count != chat["message_count"]:
                raise ExportOutdatedError
            if last.rows:
                yield last.rows

    def _later(self, tx: UnitOfWork, chat: dict[str, Any], batch: _Batch) -> _Batch:
        """Return the batch after one that was not the last, from the snapshot for as long as the server keeps it.

        A slow reader outlives it. What it gets then is what is there now, which is the same unless somebody has edited
        or removed a message since.
        """
        if not batch.is_of_now:
            try:
                return self._next(tx, chat, batch)
            except OperationFailure as error:
                if error.code != SNAPSHOT_TOO_OLD:
                    raise
        now = self._next(self._database.unbound(), chat, batch)
        since = (tx.now - CLOCKS_APART).isoformat(timespec="milliseconds")
        if any(row["edited_at"] is not None and row["edited_at"] > since for row in now.rows):
            raise ExportOutdatedError
        return replace(now, is_of_now=True)

    def _next(self, tx: UnitOfWork, chat: dict[str, Any], batch: _Batch) -> _Batch:
        """Return the batch after one that was not the last."""
        size = max(1, min(batch.size * GROWTH, HELD_BYTES * len(batch.rows) // batch.bytes, BATCH_MESSAGES))
        return self._fetch(tx, chat, batch.rows[-1]["seq"] + 1, size)

    def _fetch(self, tx: UnitOfWork, chat: dict[str, Any], first_seq: int, size: int) -> _Batch:
        """Return up to `size` of the messages from `first_seq` on, as many as a batch may hold."""
        # Not beyond those of the snapshot, where it is not read from the snapshot any more.
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
        # The rest is asked for again: it would lie in memory until the reader comes to it.
        raw, length = [], 0
        for row in decode_iter(reply, _RAW):
            raw.append(row.raw)
            length += len(row.raw)
            if length >= HELD_BYTES:
                break
        return _Batch([decode(row, self._database.database.codec_options) for row in raw], size, length, is_last=False)


def _place(tx: UnitOfWork, key: dict[str, Any], *, of_trash: bool) -> tuple[Bound, dict[str, Any]]:
    """Return where a chat is, and the condition that it is there."""
    if of_trash:
        return tx.trash, {"_id": key, "purge_at": {"$gt": tx.now}}
    return tx.chats, {"_id": key, **unexpired(tx.now)}


@contextmanager
def _or_cut() -> Iterator[None]:
    try:
        with pymongo.timeout(FETCH_SECONDS):
            yield
    except PyMongoError as error:
        raise ExportCutError from error
