"""Reads receipts while the load runs, and counts the messages that are still stored."""

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
"""Returns how many messages of a chat are stored; None if the database does not answer."""


def counting(database: Database, tenant_id: str) -> CountOnDisk:
    """Return a function that counts the messages of a tenant's chat in the database, without the service."""

    def count(chat_id: str) -> int | None:
        with suppress(PyMongoError), pymongo.timeout(COUNT_SECONDS):
            return int(database.messages.count_documents({"_id": message_range(tenant_id, chat_id)}))
        return None

    return count


def read_receipt(wire: Wire, chat_id: str, operation: str, count: CountOnDisk | None = None) -> Record:
    """Read a receipt, and then count the messages: if the receipt is complete, none may be left."""
    answer = wire.send("GET", f"/api/v1/deletions/{chat_id}")
    seen = None
    if answer.status == 200:
        body = json.loads(answer.body)
        state, deleted = body["purge"]["state"], body["purge"]["deleted"]
        seen = Receipt(state, body["message_count"], deleted, body["deleted_at"], count(chat_id) if count else None)
    return Record("receipt", chat_id, operation, answer.began, answer.ended, answer.status, answer.code, seen=seen)
