"""`check` finds each thing that must never be, mends it, and finds nothing in a sound database."""

from datetime import timedelta

import pytest

from chat_service.models import NewMessage, Role
from chat_service.repository import checks as checks_module
from chat_service.repository.chats import Chats
from chat_service.repository.checks import STALLED, Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.messages import Messages
from chat_service.repository.presence import Presence
from tests.purging import purge_all

TENANT = "tenant"


@pytest.fixture
def checks(database: Database) -> Checks:
    return Checks(database)


@pytest.fixture
def chat_id(chats: Chats, messages: Messages) -> str:
    """A chat of three messages."""
    chat_id = chats.create(TENANT, None, {}).id
    messages.append(TENANT, chat_id, [NewMessage(Role.USER, "x", None, {})] * 3)
    return chat_id


def found(checks: Checks, **options: bool) -> list[tuple[str, str]]:
    return [(finding.kind, finding.chat_id) for finding in checks.run(**options)]


def mended(checks: Checks, database: Database) -> bool:
    """Repair, purge, and tell whether nothing is left."""
    found(checks, repair=True)
    purge_all(database)
    return found(checks) == []


def test_a_sound_database_has_no_findings(database, checks, chats, messages, chat_id, monkeypatch) -> None:
    """Chats of several windows, deleted, emptied, connected and being purged."""
    monkeypatch.setattr(checks_module, "WINDOW_CHATS", 4)
    for tenant_id in ("a", "b", "c"):
        for _ in range(3):
            chat = chats.create(tenant_id, None, {})
            messages.append(tenant_id, chat.id, [NewMessage(Role.USER, "x", None, {})] * 2)
    Presence(database).open(TENANT, chat_id, "connection", "worker")
    Messages(database, inline_limit=0).clear("c", chat.id, "key")
    for chat in chats.page("a", 2, None):
        Deletions(database, inline_limit=0).delete("a", chat.id, "key")
    assert database.purges.count_documents({}) == 3
    assert found(checks) == []


@pytest.mark.parametrize("windows", [1, 500])
def test_orphaned_messages(database, checks, chats, chat_id, windows, monkeypatch) -> None:
    """Wherever they lie among the chats; they are purged."""
    monkeypatch.setattr(checks_module, "WINDOW_CHATS", windows)
    chats.create("a", None, {}), chats.create("z", None, {})
    database.chats.delete_one({"_id.chat_id": chat_id})
    assert found(checks) == [("orphaned_messages", chat_id)]
    assert mended(checks, database)
    assert database.messages.count_documents({}) == 0


def test_a_wrong_count(database, checks, chats, chat_id) -> None:
    """It is set right."""
    database.chats.update_one({}, {"$set": {"message_count": 7}})
    assert found(checks) == [("wrong_count", chat_id)]
    assert mended(checks, database)
    assert chats.get(TENANT, chat_id).message_count == 3


def test_messages_that_an_emptying_forgot(database, checks, messages, chat_id) -> None:
    """They are purged, and later ones stay."""
    messages.append(TENANT, chat_id, [NewMessage(Role.USER, "later", None, {})])
    database.chats.update_one({}, {"$set": {"message_count": 1, "first_seq": 4}})
    assert found(checks) == [("orphaned_messages", chat_id)]
    assert mended(checks, database)
    assert [message["content"] for message in database.messages.find()] == ["later"]


def test_an_orphaned_presence(database, checks, chat_id) -> None:
    """It is removed."""
    Presence(database).open(TENANT, chat_id, "connection", "worker")
    database.presence.update_one({}, {"$set": {"chat_id": "gone"}})
    assert found(checks) == [("orphaned_presence", "gone")]
    assert mended(checks, database)


def test_a_receipt_without_end(database, checks, chat_id, receipts) -> None:
    """Its purge is opened again, and completes it."""
    deletions = Deletions(database, inline_limit=0)
    deletions.delete(TENANT, chat_id, "key")
    database.purges.delete_many({})
    assert found(checks) == [("orphaned_messages", chat_id), ("endless_receipt", chat_id)]
    assert mended(checks, database)
    assert receipts.get(TENANT, chat_id).purged == 3


def test_a_stalled_purge(database, checks, chat_id) -> None:
    """It is told; only a worker mends it."""
    Deletions(database, inline_limit=0).delete(TENANT, chat_id, "key")
    database.purges.update_one({}, {"$set": {"lease_until": database.now() - STALLED - timedelta(seconds=1)}})
    assert found(checks) == [("stalled_purge", chat_id)]
    assert mended(checks, database)
