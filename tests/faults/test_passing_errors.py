"""A database error that passes by itself becomes 503 with Retry-After on every route, and nothing is changed."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from chat_service.app import create_app
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.errors import DatabaseUnavailableError
from chat_service.models import NewMessage, Role
from chat_service.repository import exports
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deadline import set_deadline
from chat_service.repository.messages import Messages
from chat_service.repository.outage import PASSING
from chat_service.repository.transaction import TransactionRunner
from chat_service.repository.unit_of_work import UnitOfWork
from chat_service.settings import Settings
from tests.client import CHATS, Client, TenantAccess

REQUEST_SECONDS = 0.15
"""The time of each request: until it is over, the driver retries a command."""

CODES = [365, 290, 225, 246, 14031, 8000, 91]
"""Codes that were once answered with 500, and one that the driver knows."""

NEEDS_DETAILS = {13388}
"""Codes that a failpoint cannot make the server return: it says that something is missing."""

ALL_CODES = [
    *CODES,
    *(pytest.param(code, marks=pytest.mark.soak) for code in sorted(PASSING - {*CODES} - NEEDS_DETAILS)),
]

ROUTES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "list chats": ("GET", "", {}),
    "a chat": ("GET", "/{chat}", {}),
    "change a chat": ("PATCH", "/{chat}", {"json": {"title": "y"}}),
    "create a chat": ("POST", "", {"json": {}}),
    "messages": ("GET", "/{chat}/messages", {}),
    "post": ("POST", "/{chat}/messages", {"json": {"content": "y"}}),
    "edit": ("PATCH", "/{chat}/messages/1", {"json": {"content": "y"}}),
    "delete a message": ("DELETE", "/{chat}/messages/1", {}),
    "empty": ("DELETE", "/{chat}/messages", {}),
    "delete": ("DELETE", "/{chat}", {}),
    "preview": ("GET", "/{chat}/deletion-preview", {}),
    "connections": ("GET", "/{chat}/connections", {}),
    "a ticket": ("POST", "/{chat}/tickets", {}),
    "an export": ("GET", "/{chat}/export?format=ndjson", {}),
    "an export as json": ("GET", "/{chat}/export", {}),
}
COMMANDS = ("find", "aggregate", "findAndModify", "insert", "update", "delete")


@pytest.fixture
def hasty_database(mongod: EmbeddedMongod, database: Database) -> Iterator[Database]:
    """A database that does not retry a transaction for long: that would only make these tests slow."""
    del database  # it is empty
    opened = Database(mongod.uri, runner=lambda client: TransactionRunner(client, total_seconds=0.1))
    yield opened
    opened.close()


@pytest.fixture
def app(hasty_database: Database) -> Flask:
    return create_app(Settings("unused", 2**20, threads=8, log_format="json"), hasty_database)


@pytest.fixture
def either_database(database: Database) -> Database:
    """The real database: mongomock has no failpoints."""
    return database


def test_a_transaction_whose_time_is_over_is_not_committed(hasty_database: Database) -> None:
    """As when a process was stopped between its check of the holds and its commit."""

    def work(tx: UnitOfWork) -> None:
        tx.tenants.insert_one({"_id": "late"})
        time.sleep(0.2)

    with pytest.raises(DatabaseUnavailableError):
        hasty_database.transaction(work)
    assert hasty_database.tenants.find_one({"_id": "late"}) is None
    assert hasty_database.tenants.insert_one({"_id": "late"}).acknowledged, "nothing is locked"


@pytest.mark.parametrize("code", ALL_CODES)
def test_it_is_503_on_every_route(app, new_tenant, database, failpoint, code) -> None:
    access: TenantAccess = new_tenant()
    client = Client(app, access)
    # Not through the application, whose transactions have too little time.
    chat = Chats(database).create(access.tenant_id, None, {}).id
    Messages(database).append(access.tenant_id, chat, [NewMessage(Role.USER, "x", None, {})])
    database_state = digest(database)
    failpoint.arm(*COMMANDS, errorCode=code)
    for name, (method, path, options) in ROUTES.items():
        set_deadline(time.monotonic() + REQUEST_SECONDS)
        try:
            answer = client.send(method, CHATS + path.format(chat=chat), **options)
        finally:
            set_deadline(None)
        body = json.loads(answer.data)
        assert (answer.status_code, body["success"]) == (503, False), (name, body)
        assert body["code"] in {"database_unavailable", "outcome_unknown"}, name
        assert answer.headers["Retry-After"], name
        assert answer.headers["Content-Type"] == "application/problem+json", name
    failpoint.disarm()
    assert digest(database) == database_state


def digest(database: Database) -> str:
    md5: str = database.database.command("dbHash")["md5"]
    return md5


def test_there_are_only_so_many_exports_at_once(app, new_tenant, database, monkeypatch) -> None:
    """One more gets 429; an export that ends, or that its client leaves, makes room."""
    monkeypatch.setattr(exports, "MOST_PER_KEY", 2)
    access: TenantAccess = new_tenant()
    client, chat = Client(app, access), Chats(database).create(access.tenant_id, None, {}).id
    Messages(database).append(access.tenant_id, chat, [NewMessage(Role.USER, "x", None, {})])
    path = f"{CHATS}/{chat}/export"
    running = [client.send("GET", path, buffered=False) for _ in range(2)]
    refused = client.send("GET", path)
    assert (refused.status_code, refused.get_json()["code"]) == (429, "too_many_exports")
    assert refused.headers["Retry-After"]
    assert client.send("GET", f"{CHATS}/{UNKNOWN}/export").status_code == 429
    running.pop().close()
    assert client.send("GET", path).status_code == 200
    for export in running:
        assert export.get_data().endswith(b"]}\n")
    assert client.send("HEAD", path).status_code == 200
    for _ in range(3):
        assert client.send("GET", f"{CHATS}/{UNKNOWN}/export").status_code == 404


UNKNOWN = "11111111-2222-4333-8444-555555555555"
