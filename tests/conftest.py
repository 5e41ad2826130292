"""Fixtures: one mongod for the whole run, one gunicorn for the live tests, and empty collections for every test."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from flask import Flask
from pymongo.read_concern import ReadConcern

from chat_service.api.context import Repositories
from chat_service.app import create_app
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.proof.notes import SigningKey
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.limits import RateLimits
from chat_service.repository.messages import Messages
from chat_service.repository.presence import ConnectionCaps, Presence
from chat_service.repository.purges import INLINE_LIMIT
from chat_service.repository.receipts import Receipts
from chat_service.repository.sealing import Sealer, new_key
from chat_service.repository.shape import COLLECTIONS
from chat_service.repository.tenants import Tenants
from chat_service.server.shared_files import MEMORY
from chat_service.settings import Settings
from chat_service.telemetry import metrics
from tests.client import Client, TenantAccess
from tests.failpoint import FailPoint
from tests.forked import ForkedGunicorn
from tests.mock_database import MockDatabase
from tests.numbering import numbering

MAX_BODY_BYTES = 2**20

DATABASE_BYTES = 6 * 2**30
"""The databases of all processes of a run take less."""


SLOW_FOLDERS = [
    "soak",
    "faults",
    "deploy",
    "live",
    "telemetry",
    "webhooks",
    "recovery",
    "realtime",
    "jobs",
    "races",
    "page",
    "api",
]
"""Folders with slow tests, which start first: else one process would still run one when the others have finished."""


HOW_TO_RUN_ALL = (
    "`apt-get install chromium chromium-driver nginx systemd prometheus`, or Chrome and its chromedriver, and again"
)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, where nobody reads the output, fail a run in which a test was skipped."""
    if "CI" in os.environ and _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print as the last line how many tests did not run, and why."""
    if skipped := _skipped(config):
        print(f"{skipped} tests did not run, because a program that they need is not here: {HOW_TO_RUN_ALL}.")  # noqa: T201


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow tests first."""
    order = {folder: number for number, folder in enumerate(SLOW_FOLDERS)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(SLOW_FOLDERS)))


@pytest.fixture(scope="session")
def mongod() -> Iterator[EmbeddedMongod]:
    """A real mongod, a one-node replica set with failpoints allowed."""
    with (
        tempfile.TemporaryDirectory(prefix="chat-service-mongod-", dir=_folder_for_databases()) as folder,
        EmbeddedMongod(Path(folder), parameters=("enableTestCommands=1",)) as running,
    ):
        yield running


def _folder_for_databases() -> str | None:
    """Return shared memory if it has room, for a commit waits there for no disk; None is the system's choice."""
    has_room = Path(MEMORY).is_dir() and shutil.disk_usage(MEMORY).free > DATABASE_BYTES
    return MEMORY if has_room else None


@pytest.fixture(scope="session")
def real_database(mongod: EmbeddedMongod) -> Iterator[Database]:
    """The database of the session; tests use `database`, which is empty."""
    database = Database(mongod.uri)
    database.prepare()
    yield database
    database.close()


@pytest.fixture(scope="session")
def control(mongod: EmbeddedMongod) -> Iterator[pymongo.MongoClient[dict[str, Any]]]:
    """A client that failpoints do not affect."""
    with pymongo.MongoClient(mongod.uri) as client:
        yield client


@pytest.fixture
def failpoint(control: pymongo.MongoClient[dict[str, Any]]) -> Iterator[FailPoint]:
    """The failpoint for commands of the service; it is disarmed after the test."""
    point = FailPoint(control)
    yield point
    point.disarm()


@pytest.fixture
def database(real_database: Database) -> Iterator[Database]:
    """An empty database on the real mongod. The guard of a ledger ends with the test, as the ledger's file does."""
    empty(real_database)
    yield real_database
    real_database.guard = lambda: None


def empty(database: Database) -> None:
    """Remove every document, and the cached rules of tenants. One command finds the collections that are not empty."""
    pipelines = {name: [{"$limit": 1}, {"$project": {"_id": 0, "in": {"$literal": name}}}] for name in COLLECTIONS}
    first, *others = ({"$unionWith": {"coll": name, "pipeline": pipeline}} for name, pipeline in pipelines.items())
    first_collection = database.database.with_options(read_concern=ReadConcern("local"))[first["$unionWith"]["coll"]]
    for row in first_collection.aggregate([*first["$unionWith"]["pipeline"], *others]):
        database.collections[row["in"]].delete_many({})
    database.rules._tenants.clear()


@pytest.fixture
def patient_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give rate limits a long deadline: on a busy machine they would miss theirs, and let the request through."""
    monkeypatch.setattr("chat_service.repository.limits.DEADLINE_SECONDS", 10)


@pytest.fixture
def chats(database: Database) -> Chats:
    return Chats(database)


@pytest.fixture
def deletions(database: Database) -> Deletions:
    return Deletions(database)


@pytest.fixture
def receipts(database: Database) -> Receipts:
    return Receipts(database)


@pytest.fixture
def messages(database: Database) -> Messages:
    return Messages(database)


@pytest.fixture
def presence(database: Database) -> Presence:
    return Presence(database)


@pytest.fixture(params=["mongomock", "mongod"])
def either_database(request: pytest.FixtureRequest) -> Database:
    """An empty database, once on mongomock and once on a real mongod."""
    if request.param == "mongomock":
        return MockDatabase()
    real: Database = request.getfixturevalue("database")
    return real


@pytest.fixture(scope="session")
def routes() -> Flask:
    """The application without its state. It is made once, because that takes as long as most tests."""
    return create_app(Settings("unused", MAX_BODY_BYTES, threads=8, log_format="json"), MockDatabase())


@pytest.fixture
def app(routes: Flask, either_database: Database) -> Flask:
    """The application with fresh state, once on mongomock and once on a real mongod."""
    begin(either_database).install(routes.extensions)
    return routes


def begin(database: Database, inline_limit: int = INLINE_LIMIT, **more: Any) -> Repositories:
    """Return the repositories of a process that has just started; `more` replaces or adds arguments."""
    limits, caps, sealer = RateLimits(database, {}, metrics.count_unlimited), ConnectionCaps(), Sealer(())
    defaults = {"limits": limits, "caps": caps, "sealer": sealer, "private_networks": False}
    return Repositories.on(database, inline_limit, **{**defaults, **more})


@pytest.fixture
def new_tenant(either_database: Database) -> Callable[..., TenantAccess]:
    """A function that makes tenants, each with a key of the given scopes (default: read, write, delete)."""
    return tenant_maker(either_database)


def tenant_maker(database: Database) -> Callable[..., TenantAccess]:
    numbers = itertools.count(1)

    def make(*scopes: str) -> TenantAccess:
        tenant = Tenants(database).create(f"tenant {next(numbers)}")
        key, record = ApiKeys(database).create(tenant.id, "test", scopes or ("read", "write", "delete"))
        return TenantAccess(tenant.id, key, record.id)

    return make


@pytest.fixture
def alice(app: Flask, new_tenant: Callable[..., TenantAccess]) -> Client:
    """A client of a tenant, with the scopes read, write and delete."""
    return Client(app, new_tenant())


@pytest.fixture
def bob(app: Flask, new_tenant: Callable[..., TenantAccess]) -> Client:
    """A client of another tenant."""
    return Client(app, new_tenant())


@pytest.fixture(scope="session")
def gunicorn(mongod: EmbeddedMongod, real_database: Database) -> Iterator[ForkedGunicorn]:
    """The real service, two workers, on the session's mongod."""
    del real_database  # its collections are in place
    keys = {"SIGNING_KEY": SigningKey.new(), "WEBHOOK_SECRET_KEY": new_key()}
    with ForkedGunicorn(mongod.uri, free_port(), MAX_BODY_BYTES=str(MAX_BODY_BYTES), **keys) as running:
        yield running


@pytest.fixture
def sequencer(database: Database) -> Iterator[None]:
    """A sequencer beside the service, as `jobs run` has one: commits get into the log soon."""
    with numbering(database):
        yield


@pytest.fixture
def live(gunicorn: ForkedGunicorn, database: Database) -> tuple[ForkedGunicorn, Callable[..., TenantAccess]]:
    """The running service on an empty database, and a maker of tenants with keys."""
    return gunicorn, tenant_maker(database)


@pytest.fixture(scope="session")
def project() -> Path:
    """The folder of the project."""
    return Path(__file__).parent.parent
