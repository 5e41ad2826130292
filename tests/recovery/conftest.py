"""A service with a ledger, which can be set back to an earlier state of its database."""

from collections.abc import Callable, Iterator
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
def either_database(database: Database) -> Iterator[Database]:
    """Only a real server has what a log is written from."""
    yield database
    database.guard = lambda: None


@pytest.fixture
def ledger(tmp_path: Path) -> LedgerFile:
    return LedgerFile(tmp_path / "ledger.db")


def serve(app: Flask, database: Database, ledger: LedgerFile, *keys: str) -> Repositories:
    """Have the application begin anew, with this ledger."""
    signing_keys = [SigningKey(key) for key in keys or (KEY,)]
    found = begin(database, INLINE_LIMIT, ledger=ledger, signing_keys=signing_keys)
    found.install(app.extensions)
    return found


@pytest.fixture
def app(routes: Flask, either_database: Database, ledger: LedgerFile) -> Flask:
    serve(routes, either_database, ledger)
    return routes


@pytest.fixture
def governor(app: Flask, new_tenant: Callable[..., TenantAccess]) -> Client:
    """A client that may do everything."""
    return Client(app, new_tenant(*Scope))


def kept(app: Flask) -> Ledger:
    found = Repositories.of(app.extensions).ledger
    assert found is not None
    return found


def keep_all(app: Flask, database: Database) -> None:
    """Return when what is committed is in the log, and in the ledger."""
    number_all(database)
    while kept(app).copy_some():
        pass
    database.rules._tenants.clear()  # as after their 5 s


class Backup:
    """All documents, as they were."""

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
