"""Databases of earlier versions, brought into today's form while the service runs.

Today's code reads both forms, so it does not matter when this is done, or where it was killed: it is begun again, and
ends when there is nothing left in the old form.
"""

from collections.abc import Iterator
from typing import Any

from pymongo import ASCENDING, UpdateOne

from chat_service.repository.database import Database
from chat_service.repository.receipts import split

BATCH = 500
"""Documents that are written at once: some milliseconds."""


def migrate(database: Database) -> Iterator[int]:
    """Bring everything into today's form, in batches; give how many documents each has had."""
    found = True
    while found:  # what a process of an earlier version has written meanwhile is found by another pass
        found = False
        for receipts in _old_receipts(database):
            _split(database, receipts)
            yield len(receipts)
            found = True


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
    """Take what changes out of the receipts, into completions of their own."""
    completions, changes = [], []
    for receipt in receipts:
        kept, completion = split(receipt)
        if completion is not None:
            completions.append(UpdateOne({"_id": kept["_id"]}, {"$setOnInsert": completion}, upsert=True))
        as_read = {"_id": kept["_id"], "completed_at": receipt["completed_at"]}
        change = {"$set": {"staged": kept["staged"]}, "$unset": {"purged": "", "completed_at": ""}}
        changes.append(UpdateOne(as_read, change))
    with database.operation(writes=True):
        if completions:
            database.completions.bulk_write(completions, ordered=False)
        database.deletions.bulk_write(changes, ordered=False)
