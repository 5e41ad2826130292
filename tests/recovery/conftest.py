"""Fixtures: a service with a ledger, and a backup to which its database can be set back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from chat_service.api.context import Repositories
from chat_service.models import Scope
from chat_service.proof.ledger_file import LedgerFile
from chat_service.proof.notes import SigningKey
from chat_service.repository.database import Database
from chat_service.repository.ledger import Ledger
from tests.client import Client, TenantAccess
from tests.conftest import begin
from tests.numbering import number_all

KEY = SigningKey.new()

INLINE_LIMIT = 50


@pytest.fixture
def either_database(database: Database) -> Database:
    """The real database: mongomock has no change stream, from which the log is written."""
    return database


@pytest.fixture
def ledger(tmp_path: Path) -> LedgerFile:
    return LedgerFile(tmp_path / "ledger.db")


def serve(app: Flask, database: Database, ledger: LedgerFile, *keys: str) -> Repositories:
    """Give the application fresh state with this ledger, as a restart does."""
    signing_keys = [SigningKey(key) for key in keys or (KEY,)]
    repositories = begin(database, INLINE_LIMIT, ledger=ledger, signing_keys=signing_keys)
    repositories.install(app.extensions)
    return repositories


@pytest.fixture
def app(routes: Flask, either_database: Database, ledger: LedgerFile) -> Flask:
    serve(routes, either_database, ledger)
    return routes


@pytest.fixture
def governor(app: Flask, new_tenant: Callable[..., TenantAccess]) -> Client:
    """A client with every scope."""
    return Client(app, new_tenant(*Scope))


def ledger_of(app: Flask) -> Ledger:
    repository = Repositories.of(app.extensions).ledger
    assert repository is not None
    return repository


def copy_all_to_ledger(app: Flask, database: Database) -> None:
    """Number everything that is committed, and copy it to the ledger."""
    number_all(database)
    while ledger_of(app).copy_some():
        pass
    database.rules._tenants.clear()  # as when the cached rules end after 5 s


class Backup:
    """A copy of all documents, which can be restored."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents: dict[str, list[dict[str, Any]]] = {
            name: list(collection.find()) for name, collection in database.collections.items()
        }

    def restore(self) -> None:
        for name, documents in self._documents.items():
            self._database.collections[name].delete_many({})
            if documents:
                self._database.collections[name].insert_many(documents)
        self._database.rules._tenants.clear()
