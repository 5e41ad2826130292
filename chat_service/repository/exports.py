"""A whole chat out of the database and back in.

Out: from one snapshot, so that what is written or deleted meanwhile changes nothing. In: one transaction, so that there
is never half a chat that looks whole.
"""

import contextvars
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pymongo
from bson import decode_all
from pymongo import ASCENDING
from pymongo.errors import PyMongoError

from chat_service.errors import ChatNotFoundError, ExportCutError
from chat_service.models import Chat, IdempotencyKey, Message
from chat_service.repository import chats, messages
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key, message_range
from chat_service.repository.unit_of_work import UnitOfWork

BATCH_MESSAGES = 1_000
"""Messages fetched at once. The server's default is 16 MB, which grew the worker by 116 MB; this one by 2."""

FETCH_SECONDS = 10.0
"""For one batch. A reader may take its time between two of them, the database may not."""

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


class Exports:
    """Whole chats."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def open(self, tenant_id: str, chat_id: str) -> Iterator[tuple[Chat, Iterator[list[Row]]]]:
        """Give the chat and its messages in batches, oldest first, as they all are at this moment.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            ExportCutError (from the iterator): the rest could not be read.
        """
        with self._database.snapshot() as tx:
            with self._database.operation():
                document = tx.chats.find_one({"_id": chat_key(tenant_id, chat_id)})
            if document is None:
                raise ChatNotFoundError
            yield chats.from_document(document, 0), self._batches(tx, tenant_id, document)

    def _batches(self, tx: UnitOfWork, tenant_id: str, chat: dict[str, Any]) -> Iterator[list[Row]]:
        wanted = {"_id": message_range(tenant_id, chat["_id"]["chat_id"], chat["first_seq"])}
        pipeline: list[Row] = [{"$match": wanted}, {"$sort": {"_id": ASCENDING}}, {"$project": _ROW}]

        with _or_cut():
            cursor = tx.messages.aggregate_raw_batches(pipeline, batchSize=BATCH_MESSAGES)
        # The server prepares the next batch while this one is decoded and written.
        run = contextvars.copy_context().run  # in which the request's commands are counted
        with cursor, ThreadPoolExecutor(1, thread_name_prefix="export") as ahead:
            coming = ahead.submit(run, _fetch, cursor, threading.Event())
            while batch := coming.result():
                # Waited for, because a thread that is only submitted would get its first turn when this one rests.
                started = threading.Event()
                coming = ahead.submit(run, _fetch, cursor, started)
                started.wait()
                yield decode_all(batch, self._database.database.codec_options)

    def create(self, tenant_id: str, chat: Chat, kept: Sequence[Message], key: IdempotencyKey | None = None) -> Chat:
        """Create a chat with these messages, all or nothing, and return it. The id must be a fresh random one.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before.
        """
        chat = replace(chat, message_count=len(kept))
        document = chats.to_document(tenant_id, chat)
        document["next_seq"] = kept[-1].seq + 1 if kept else 1

        def work(tx: UnitOfWork) -> Chat:
            tx.chats.insert_one(document)
            if kept:
                tx.messages.insert_many([messages.to_document(tenant_id, chat.id, message) for message in kept])
            return chat

        def recall(facts: dict[str, Any]) -> Chat:
            return replace(chat, id=facts["id"])

        work_once = once(key, work, lambda made: {"id": made.id}, recall)
        return self._database.transaction(work_once)


def _fetch(cursor: Any, started: threading.Event) -> bytes:
    """Return the next batch as BSON, or nothing at the end."""
    started.set()
    with _or_cut():
        found: bytes = next(cursor, b"")
        return found


@contextmanager
def _or_cut() -> Iterator[None]:
    try:
        with pymongo.timeout(FETCH_SECONDS):
            yield
    except PyMongoError:
        raise ExportCutError from None
