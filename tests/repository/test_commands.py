"""What a request costs in database commands."""

from collections.abc import Iterator

import pytest
from pymongo import monitoring

from chat_service.app import create_app
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.repository.database import Database
from chat_service.repository.tenants import Tenants
from config import Config
from tests.client import CHATS, Client, TenantAccess


class Recorder(monitoring.CommandListener):
    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Only starts are counted."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Only starts are counted."""


@pytest.fixture
def recorded(mongod: EmbeddedMongod, database: Database) -> Iterator[tuple[Client, Recorder]]:
    """A client whose key is cached, and what its requests send to mongod."""
    recorder = Recorder()
    listening = Database(mongod.uri, listeners=(recorder,))
    tenants = Tenants(database)
    tenant = tenants.create("t")
    key, made = tenants.create_key(tenant.id, "test", ["read", "write", "delete"])
    app = create_app(Config("unused", 2**20, threads=8, log_format="json"), listening)
    yield Client(app, TenantAccess(tenant.id, key, made.id)), recorder
    listening.close()


def cost(recorded: tuple[Client, Recorder], method: str, path: str, **kwargs: object) -> list[str]:
    client, recorder = recorded
    recorder.names.clear()
    client.send(method, path, **kwargs)
    return list(recorder.names)


def test_a_delete_costs_five_commands(recorded) -> None:
    """Presence, chat, messages, receipt, commit; the key comes from the cache."""
    chat_id = recorded[0].new_chat("a", "b")
    expected = ["find", "findAndModify", "delete", "insert", "commitTransaction"]
    assert cost(recorded, "DELETE", f"{CHATS}/{chat_id}") == expected
    assert cost(recorded, "DELETE", f"{CHATS}/{chat_id}") == ["find", "findAndModify", "commitTransaction"]


def test_the_other_operations_cost_what_the_data_model_says(recorded) -> None:
    """As in the table of docs/data-model.md."""
    chat_id = recorded[0].new_chat()
    assert len(cost(recorded, "POST", CHATS, json={})) == 2
    assert len(cost(recorded, "POST", f"{CHATS}/{chat_id}/messages", json={"content": "x"})) == 3
    assert len(cost(recorded, "GET", f"{CHATS}/{chat_id}")) == 2
    assert len(cost(recorded, "GET", f"{CHATS}/{chat_id}/messages")) == 2
