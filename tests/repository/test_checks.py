"""`check` finds and repairs each inconsistency, and finds nothing in a sound database."""

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


def findings(checks: Checks, **options: bool) -> list[tuple[str, str]]:
    return [(finding.kind, finding.chat_id) for finding in checks.run(**options)]


def repaired(checks: Checks, database: Database) -> bool:
    """Repair, purge, and return whether `check` then finds nothing."""
    findings(checks, repair=True)
    purge_all(database)
    return findings(checks) == []


def test_a_sound_database_has_no_findings(database, checks, chats, messages, chat_id, monkeypatch) -> None:
    """Chats in several windows, some deleted, emptied, connected or waiting for a purge, are no findings."""
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
    assert findings(checks) == []


@pytest.mark.parametrize("windows", [1, 500])
def test_orphaned_messages(database, checks, chats, chat_id, windows, monkeypatch) -> None:
    """Messages without a chat are found wherever they are between the chats, and are purged."""
    monkeypatch.setattr(checks_module, "WINDOW_CHATS", windows)
    chats.create("a", None, {}), chats.create("z", None, {})
    database.chats.delete_one({"_id.chat_id": chat_id})
    assert findings(checks) == [("orphaned_messages", chat_id)]
    assert repaired(checks, database)
    assert database.messages.count_documents({}) == 0


def test_a_wrong_count(database, checks, chats, chat_id) -> None:
    """A wrong message_count is corrected."""
    database.chats.update_one({}, {"$set": {"message_count": 7}})
    assert findings(checks) == [("wrong_count", chat_id)]
    assert repaired(checks, database)
    assert chats.get(TENANT, chat_id).message_count == 3


def test_messages_that_an_emptying_left(database, checks, messages, chat_id) -> None:
    """Messages below first_seq without a purge are purged, and later ones stay."""
    messages.append(TENANT, chat_id, [NewMessage(Role.USER, "later", None, {})])
    database.chats.update_one({}, {"$set": {"message_count": 1, "first_seq": 4}})
    assert findings(checks) == [("orphaned_messages", chat_id)]
    assert repaired(checks, database)
    assert [message["content"] for message in database.messages.find()] == ["later"]


def test_an_orphaned_presence(database, checks, chat_id) -> None:
    """The lease of a chat that does not exist is removed."""
    Presence(database).open(TENANT, chat_id, "connection", "worker")
    database.presence.update_one({}, {"$set": {"chat_id": "gone"}})
    assert findings(checks) == [("orphaned_presence", "gone")]
    assert repaired(checks, database)


def test_a_receipt_without_completion_or_purge(database, checks, chat_id, receipts) -> None:
    """A new purge is opened, and completes it."""
    deletions = Deletions(database, inline_limit=0)
    deletions.delete(TENANT, chat_id, "key")
    database.purges.delete_many({})
    assert findings(checks) == [("orphaned_messages", chat_id), ("endless_receipt", chat_id)]
    assert repaired(checks, database)
    assert receipts.get(TENANT, chat_id).purged == 3


def test_a_stalled_purge(database, checks, chat_id) -> None:
    """It is reported, and ends only when a worker purges."""
    Deletions(database, inline_limit=0).delete(TENANT, chat_id, "key")
    database.purges.update_one({}, {"$set": {"lease_until": database.now() - STALLED - timedelta(seconds=1)}})
    assert findings(checks) == [("stalled_purge", chat_id)]
    assert repaired(checks, database)
