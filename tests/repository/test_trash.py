"""Chats in the trash during background work: purges, checks, expiry, exports."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest

from chat_service.api.exports import ndjson
from chat_service.errors import ChatNotFoundError, ExportEndedError
from chat_service.jobs.turns import Expiry
from chat_service.models import Caller, NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.expired import Expired
from chat_service.repository.exports import Exports
from chat_service.repository.keys import chat_key, message_range
from chat_service.repository.messages import Messages
from chat_service.repository.trash import Trash
from tests.purging import purge_all

TENANT = "tenant"
CALLER = Caller(TENANT, "key", frozenset())
LIMIT = 10
DAY = timedelta(days=1)


@pytest.fixture
def messages(database: Database) -> Messages:
    return Messages(database, LIMIT)


@pytest.fixture
def deletions(database: Database) -> Deletions:
    return Deletions(database, LIMIT)


@pytest.fixture
def trash(database: Database) -> Trash:
    return Trash(database)


def new_chat(database: Database, number: int, tenant_id: str = TENANT) -> str:
    chat_id = Chats(database).create(tenant_id, "title", {"a": 1}).id
    if number:
        Messages(database).append(tenant_id, chat_id, [NewMessage(Role.USER, "x", None, {})] * number)
    return chat_id


def make_due(database: Database) -> None:
    database.trash.update_many({}, {"$set": {"purge_at": database.now()}})


def test_the_purge_of_an_emptying_continues_in_the_trash(database, messages, deletions, trash) -> None:
    """After that purge a delete counts as that of a small chat: its receipt is complete at once."""
    chat_id = new_chat(database, 50)
    messages.clear(TENANT, chat_id, "key")
    deletions.move_to_trash(TENANT, chat_id, "key", DAY)
    purge_all(database)
    assert list(Checks(database).run()) == []
    trash.restore(TENANT, chat_id, "key")
    assert deletions.delete(TENANT, chat_id, "key").completed_at is not None


@pytest.mark.parametrize("number", [5, 50], ids=["few", "many"])
def test_a_delete_out_of_the_trash_counts_messages_that_an_emptying_left(
    database, messages, deletions, receipts, number
) -> None:
    chat_id = new_chat(database, 50)
    messages.clear(TENANT, chat_id, "key")
    messages.append(TENANT, chat_id, [NewMessage(Role.USER, "x", None, {})] * number)
    deletions.move_to_trash(TENANT, chat_id, "key", DAY)
    deletions.delete(TENANT, chat_id, "key")
    purge_all(database)
    receipt = receipts.get(TENANT, chat_id)
    assert (receipt.message_count, receipt.purged) == (50 + number, 50 + number)
    assert database.messages.count_documents({"_id": message_range(TENANT, chat_id)}) == 0


def test_a_wrong_count_is_found_and_repaired_in_the_trash(database, deletions) -> None:
    chat_id = new_chat(database, 3)
    deletions.move_to_trash(TENANT, chat_id, "key", DAY)
    assert list(Checks(database).run()) == []
    database.trash.update_one({}, {"$set": {"chat.message_count": 2}})
    assert [finding.kind for finding in Checks(database).run(repair=True)] == ["wrong_count"]
    assert list(Checks(database).run()) == []
    assert database.trash.find_one({})["chat"]["message_count"] == 3


def test_a_trashed_chat_beside_its_receipt_is_deleted(database, deletions) -> None:
    """After a restore of the database a delete removes what is left of it, and so does a repair."""
    for finish in (lambda id_: deletions.delete(TENANT, id_, "key"), lambda _: list(Checks(database).run(repair=True))):
        chat_id = new_chat(database, 3)
        kept = {"messages": list(database.messages.find({"_id.chat_id": chat_id}))}
        deletions.move_to_trash(TENANT, chat_id, "key", DAY)
        kept["trash"] = list(database.trash.find({}))
        deletions.delete(TENANT, chat_id, "key")
        for name, documents in kept.items():
            database.database[name].insert_many(documents)
        with suppress(ChatNotFoundError):
            finish(chat_id)
        purge_all(database)
        assert database.trash.find_one({"_id": chat_key(TENANT, chat_id)}) is None
        assert list(Checks(database).run()) == []


def test_the_expiry_gives_tenants_turns_and_leaves_chats_that_are_not_due(database, deletions) -> None:
    ids = {tenant: [new_chat(database, 2, tenant) for _ in range(70)] for tenant in ("a", "b")}
    for tenant, chats in ids.items():
        for chat_id in chats:
            deletions.move_to_trash(tenant, chat_id, f"key of {tenant}", DAY)
    make_due(database)
    kept = new_chat(database, 2)
    deletions.move_to_trash(TENANT, kept, "key", DAY)
    expiry = Expiry(Expired(database, deletions))
    assert [expiry.run_once() for _ in range(5)] == [64, 64, 6, 6, None]
    assert expiry.is_done()
    assert {receipt["requested_by"] for receipt in database.deletions.find()} == {"key of a", "key of b"}
    assert [document["_id"]["chat_id"] for document in database.trash.find()] == [kept]
    assert list(Checks(database).run()) == []


def test_exports_before_and_after_differ_only_in_the_revision(database, deletions, trash) -> None:
    """The exports are the same byte for byte, except for the revision in the last line."""
    chat_id = new_chat(database, 30)

    def export() -> bytes:
        with Exports(database).open(CALLER, chat_id) as (chat, batches):
            return b"".join(ndjson(chat, batches))

    *before, end_before = export().splitlines()
    deletions.move_to_trash(TENANT, chat_id, "key", DAY)
    trash.restore(TENANT, chat_id, "key")
    *after, end = export().splitlines()
    assert after == before
    revision = json.loads(end_before)["revision"]
    assert json.loads(end) == {**json.loads(end_before), "revision": revision + 1}


def test_an_export_ends_when_its_chat_goes_to_the_trash(database, deletions) -> None:
    """From then on no content of it is sent."""
    chat_id = Chats(database).create(TENANT, None, {}).id
    for _ in range(4):
        Messages(database).append(TENANT, chat_id, [NewMessage(Role.USER, "x" * 30_000, None, {})] * 30)
    with Exports(database).open(CALLER, chat_id) as (_, batches):
        next(batches)
        deletions.move_to_trash(TENANT, chat_id, "key", DAY)
        with pytest.raises(ExportEndedError):
            list(batches)
