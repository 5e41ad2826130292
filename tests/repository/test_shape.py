"""The collections and indexes are checked, and each shortcoming is reported."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import ASCENDING

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.errors import WrongCollectionsError
from chat_service.repository.database import Database


@pytest.fixture
def fresh(mongod: EmbeddedMongod) -> Iterator[Database]:
    """An empty database of its own."""
    database = Database(mongod.uri.replace("/chat_service?", "/shape?"))
    database.client.drop_database("shape")
    yield database
    database.client.drop_database("shape")
    database.close()


def unclustered(database: Any) -> None:
    database.create_collection("messages")


def view(database: Any) -> None:
    database.command("create", "messages", viewOn="others", pipeline=[])


def other_options(database: Any) -> None:
    database["tickets"].create_index([("expires_at", ASCENDING)], expireAfterSeconds=60)


def other_order(database: Any) -> None:
    database["chats"].create_index(
        [("updated_at", ASCENDING)], name="_id.tenant_id_1_updated_at_-1__id.chat_id_1", unique=True
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unclustered, "messages is not clustered"),
        (view, "messages is a view"),
        (other_options, "expires_at_1 of tickets has other options"),
        (other_order, "of chats has other options"),
    ],
)
def test_a_wrong_collection_is_reported(fresh: Database, make: Callable[[Any], None], message: str) -> None:
    """`db init` fails and says what is wrong, and the service is not ready."""
    make(fresh.database)
    with pytest.raises(WrongCollectionsError, match=message):
        fresh.prepare()
    assert not fresh.is_ready()


def test_an_empty_database_is_not_ready_before_it_is_prepared(fresh: Database) -> None:
    """So no post creates a collection with wrong options; a missing index is reported too."""
    assert not fresh.is_ready()
    assert any("messages is missing" in sentence for sentence in fresh.shortcomings())
    fresh.prepare()
    assert fresh.shortcomings() == []
    assert fresh.is_ready()
    fresh.database["purges"].drop_indexes()
    assert [sentence[:9] for sentence in fresh.shortcomings()] == ["The index"]


def test_it_is_logged_only_once_in_a_while(fresh: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Repeated checks do not repeat the log line."""
    unclustered(fresh.database)
    for _ in range(5):
        fresh.is_ready()
    messages = [record.getMessage() for record in caplog.records if "not clustered" in record.getMessage()]
    assert len(messages) == 1


def test_a_renewal_removes_no_key_from_the_index_of_a_count(fresh: Database) -> None:
    """Readers would step over the removed keys of all connections for five minutes, in each GET and DELETE."""
    fresh.prepare()
    query = {"tenant_id": "t", "chat_id": {"$in": ["c"]}}
    plan = fresh.presence.find(query).explain()["queryPlanner"]["winningPlan"]
    assert list(plan["inputStage"]["keyPattern"]) == ["tenant_id", "chat_id"]


def test_an_index_of_the_version_before_is_dropped_only_on_request(fresh: Database) -> None:
    fresh.prepare()
    old_keys = [("tenant_id", ASCENDING), ("chat_id", ASCENDING), ("expires_at", ASCENDING)]
    name = fresh.presence.create_index(old_keys)
    fresh.prepare()
    assert fresh.old_indexes() == [f"presence.{name}"]
    assert fresh.is_ready()
    fresh.drop_old_indexes()
    fresh.drop_old_indexes()
    assert fresh.old_indexes() == []
    assert fresh.is_ready()
