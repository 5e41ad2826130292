"""The migration of receipts of version 0.1, which were updated by their purge: they read the same before and after."""

from datetime import timedelta

import pytest

from chat_service.models import Deletion, NewMessage, Role
from chat_service.repository import migration
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.messages import Messages
from chat_service.repository.migration import migrate
from chat_service.repository.receipts import Receipts
from tests.purging import purge_all

TENANT = "tenant"


@pytest.fixture
def old(database: Database) -> list[str]:
    """Chats that version 0.1 deleted: one inline, one staged with its purge done, and one with its purge running."""
    ids = [Chats(database).create(TENANT, None, {}).id for _ in range(3)]
    for chat_id in ids:
        Messages(database).append(TENANT, chat_id, [NewMessage(Role.USER, "x", None, {})] * 5)
    inline, staged, running = ids
    Deletions(database).delete(TENANT, inline, "key")
    Deletions(database, inline_limit=0).delete(TENANT, staged, "key")
    purge_all(database)
    Deletions(database, inline_limit=0).delete(TENANT, running, "key")
    write_as_before(database)
    return ids


def write_as_before(database: Database) -> None:
    """Rewrite all receipts in the form of version 0.1."""
    for receipt in list(database.deletions.find()):
        completion = database.completions.find_one_and_delete({"_id": receipt["_id"]})
        completed_at = completion["completed_at"] if completion else receipt["deleted_at"]
        if receipt.pop("staged") and completion is None:
            receipt.update(purged=0, completed_at=None)
        else:
            receipt.update(purged=receipt["message_count"], completed_at=completed_at)
        database.deletions.replace_one({"_id": receipt["_id"]}, receipt)


def receipts_of(database: Database, ids: list[str]) -> list[Deletion]:
    return [Receipts(database).get(TENANT, chat_id) for chat_id in ids]


def test_receipts_read_the_same_before_and_after(database: Database, old: list[str]) -> None:
    before = receipts_of(database, old)
    assert [receipt.completed_at is None for receipt in before] == [False, False, True]
    assert [receipt.purged for receipt in before] == [5, 5, 0]
    assert list(Checks(database).run()) == []
    assert sum(migrate(database)) == 3
    assert receipts_of(database, old) == before
    assert all(set(receipt) & {"purged", "completed_at"} == set() for receipt in database.deletions.find())
    assert list(migrate(database)) == [], "done once"
    assert list(Checks(database).run()) == []


def test_a_purge_that_was_open_completes_its_receipt(database: Database, old: list[str]) -> None:
    """It does so whether the receipt is in the old form or in the new one."""
    purge_all(database)
    running = receipts_of(database, old)[2]
    assert (running.purged, running.remaining, running.completed_at is None) == (5, 0, False)
    sum(migrate(database))
    assert receipts_of(database, old)[2] == running


def test_an_interrupted_migration_continues(database: Database, old: list[str], monkeypatch) -> None:
    monkeypatch.setattr(migration, "BATCH", 1)
    before = receipts_of(database, old)
    assert next(migrate(database)) == 1
    assert receipts_of(database, old) == before
    assert list(migrate(database)) == [1, 1]
    assert receipts_of(database, old) == before


def test_a_concurrent_write_of_the_old_version_is_not_lost(database: Database, old: list[str], monkeypatch) -> None:
    """A purge of version 0.1 ends between the migration's read and its write, and the completion is kept."""
    migration_split = migration.split
    later = database.now() + timedelta(seconds=1)

    def split_late(receipt):
        own = {"_id": receipt["_id"], "completed_at": None, "purged": {"$exists": True}}
        database.deletions.update_one(own, {"$set": {"purged": 5, "completed_at": later}})
        return migration_split(receipt)

    database.purges.delete_many({})
    monkeypatch.setattr(migration, "split", split_late)
    sum(migrate(database))
    assert receipts_of(database, old)[2].completed_at == later
    assert all("purged" not in receipt for receipt in database.deletions.find())
