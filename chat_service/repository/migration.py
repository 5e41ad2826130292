"""Migrates the documents of earlier versions while the service runs.

The service reads both forms, so it does not matter when the migration runs, or where it was killed: it can be started
again, and ends when no document is left in the old form.
"""

from collections.abc import Iterator
from typing import Any

from pymongo import ASCENDING, UpdateOne

from chat_service.repository.database import Database
from chat_service.repository.receipts import split

BATCH = 500
"""Documents that are written at once, in some milliseconds."""


def migrate(database: Database) -> Iterator[int]:
    """Migrate all documents in batches; yield the number of documents of each batch."""
    has_migrated = True
    while has_migrated:  # another pass finds what a process of an earlier version has written meanwhile
        has_migrated = False
        for receipts in _old_receipts(database):
            _split(database, receipts)
            yield len(receipts)
            has_migrated = True


def _old_receipts(database: Database) -> Iterator[list[dict[str, Any]]]:
    last: dict[str, Any] = {}
    while True:
        old = {"_id": {"$gt": last}, "purged": {"$exists": True}}
        with database.operation():
            receipts = list(database.deletions.find(old, sort=[("_id", ASCENDING)], limit=BATCH))
        if not receipts:
            return
        yield receipts
        last = receipts[-1]["_id"]


def _split(database: Database, receipts: list[dict[str, Any]]) -> None:
    """Move the fields that change from the receipts to their completions."""
    completions, changes = [], []
    for receipt in receipts:
        migrated, completion = split(receipt)
        if completion is not None:
            completions.append(UpdateOne({"_id": migrated["_id"]}, {"$setOnInsert": completion}, upsert=True))
        unchanged = {"_id": migrated["_id"], "completed_at": receipt["completed_at"]}
        change = {"$set": {"staged": migrated["staged"]}, "$unset": {"purged": "", "completed_at": ""}}
        changes.append(UpdateOne(unchanged, change))
    with database.operation(writes=True):
        if completions:
            database.completions.bulk_write(completions, ordered=False)
        database.deletions.bulk_write(changes, ordered=False)
