"""Leases are live until they expire; their worker renews live ones, and never expired ones."""

from datetime import datetime, timedelta

import pytest

from chat_service.errors import ActiveConnectionsError, ChatNotFoundError
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.presence import LEASE, Presence
from chat_service.repository.unit_of_work import UnitOfWork

TENANT = "t"


@pytest.fixture
def presence(either_database: Database) -> Presence:
    return Presence(either_database)


@pytest.fixture
def chat_id(either_database: Database) -> str:
    return Chats(either_database).create(TENANT, None, {}).id


def expire(database: Database, connection_id: str) -> None:
    past = database.now() - timedelta(milliseconds=1)
    database.presence.update_one({"_id": connection_id}, {"$set": {"expires_at": past}})


def test_a_lease_counts_until_it_expires(either_database, presence, chat_id) -> None:
    def at(now: datetime) -> UnitOfWork:
        return UnitOfWork(either_database.database, either_database.collections, either_database.rules, None, now)

    lease, last_seq, _ = presence.open(TENANT, chat_id, "c", "w")
    assert last_seq == 0
    assert lease.expires_at - lease.connected_at == LEASE
    assert presence.count(at(lease.expires_at - timedelta(milliseconds=1)), TENANT, chat_id) == (1, 0)
    assert presence.count(at(lease.expires_at), TENANT, chat_id) == (0, 1)
    assert presence.count(at(lease.connected_at), "another", chat_id) == (0, 0)


def test_a_closed_lease_is_gone(either_database, presence, chat_id) -> None:
    presence.open(TENANT, chat_id, "c", "w")
    presence.close("another", ["c"])
    assert presence.count(either_database.unbound(), TENANT, chat_id).live == 1
    presence.close("w", ["c"])
    presence.close("w", ["c"])
    assert presence.count(either_database.unbound(), TENANT, chat_id) == (0, 0)


def test_a_worker_renews_its_own_leases(either_database, presence, chat_id) -> None:
    for connection, worker in (("a", "w"), ("b", "w"), ("c", "other")):
        presence.open(TENANT, chat_id, connection, worker)
    assert presence.renew("w") == {"a", "b"}
    assert presence.close_worker("w") == 2
    assert presence.count(either_database.unbound(), TENANT, chat_id).live == 1


def test_an_expired_lease_is_never_renewed(either_database, presence, chat_id) -> None:
    """A delete may already have counted it as expired."""
    presence.open(TENANT, chat_id, "c", "w")
    expire(either_database, "c")
    assert presence.renew("w") == set()
    Deletions(either_database).delete(TENANT, chat_id, "key")
    assert presence.renew("w") == set()
    assert either_database.presence.count_documents({}) == 0, "the delete removes expired leases"


def test_a_live_lease_refuses_the_delete(either_database, presence, chat_id) -> None:
    presence.open(TENANT, chat_id, "c", "w")
    with pytest.raises(ActiveConnectionsError) as refused:
        Deletions(either_database).delete(TENANT, chat_id, "key")
    assert refused.value.count == 1


def test_a_connection_needs_an_existing_chat(either_database, presence) -> None:
    with pytest.raises(ChatNotFoundError):
        presence.open(TENANT, "gone", "c", "w")
    assert either_database.presence.count_documents({}) == 0
