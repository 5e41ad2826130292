"""Receipts as they are read while the load runs, beside what lies on the disk."""

import json
from collections.abc import Callable
from contextlib import suppress

import pymongo
from pymongo.errors import PyMongoError

from chat_service.repository.database import Database
from chat_service.repository.keys import message_range
from tests.soak.record import Receipt, Record
from tests.soak.wire import Wire

COUNT_SECONDS = 5.0

CountOnDisk = Callable[[str], int | None]
"""How many messages of a chat the database holds; None if it does not say."""


def counting(database: Database, tenant_id: str) -> CountOnDisk:
    """Return what counts the messages of a tenant's chats, past the service."""

    def count(chat_id: str) -> int | None:
        with suppress(PyMongoError), pymongo.timeout(COUNT_SECONDS):
            return int(database.messages.count_documents({"_id": message_range(tenant_id, chat_id)}))
        return None

    return count


def read_receipt(wire: Wire, chat_id: str, operation: str, count: CountOnDisk | None = None) -> Record:
    """Read a receipt, and then count: what is complete then has nothing left."""
    answer = wire.send("GET", f"/api/v1/deletions/{chat_id}")
    seen = None
    if answer.status == 200:
        told = json.loads(answer.body)
        state, deleted = told["purge"]["state"], told["purge"]["deleted"]
        seen = Receipt(state, told["message_count"], deleted, told["deleted_at"], count(chat_id) if count else None)
    return Record("receipt", chat_id, operation, answer.began, answer.ended, answer.status, answer.code, seen=seen)
