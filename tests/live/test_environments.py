"""A fault in its environment does not end the service, is reported in one helpful line, and is over once repaired.

Each row is an environment: what `/readyz` says, what a request to the API gets, what the log says, and how `db init`
ends. A request with an unknown key is a 401 if the service can ask the database, and a 503 if it cannot.
"""

import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import pymongo
import pytest
import requests
from pymongo import ASCENDING

from chat_service.embedded.mongod import EmbeddedMongod, launch
from chat_service.embedded.process import free_port, stop
from chat_service.server.shared_files import MEMORY
from tests.client import CHATS
from tests.forked import start
from tests.mounts import InOwnMounts
from tests.wait import wait_until

SETTLE_SECONDS = 90.0
"""How long a service may take to settle: workers start, and the driver learns which servers it cannot reach."""


CONCURRENT = 4
"""How many services run at the same time."""

SECRET = "secret-word"  # noqa: S105 - of a server that lives as long as the test


class World:
    """The servers that the environments use."""

    def __init__(self, mongod: EmbeddedMongod, folder: Path) -> None:
        self._mongod = mongod
        self._folder = folder
        self._cleanup = ExitStack()
        self._secured_port: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def database(self, name: str, options: str = "replicaSet=rs0") -> str:
        """Return the address of an empty database on a server that works."""
        self.client.drop_database(name)
        return f"mongodb://127.0.0.1:{self._mongod.port}/{name}?{options}"

    @cached_property
    def client(self) -> Any:
        client: Any = pymongo.MongoClient(self._mongod.uri)
        self._cleanup.callback(client.close)
        return client

    def listener(self) -> int:
        """Return a port that accepts connections and never answers."""
        server = self._cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        return int(server.getsockname()[1])

    def new_server(self, *options: str) -> int:
        """Start another server, without initiating a replica set, and return its port."""
        port, folder = free_port(), Path(tempfile.mkdtemp(dir=self._folder))
        mongod = launch(folder, port, options=options)
        self._cleanup.callback(stop, mongod, 15)
        wait_until(lambda: _listens(port), 60)
        return port

    def secured(self, user: str) -> str:
        """Return the address of `chat` on a server with users: `rw`, `ro`, and `other` of another database."""
        if self._secured_port is None:
            key_file = self._folder / "key"
            key_file.write_text("c29tZXRoaW5n" * 20)
            key_file.chmod(0o600)
            self._secured_port = self.new_server("--replSet", "rs0", "--keyFile", str(key_file))
            _add_users(self._secured_port)
        login = f"{user}@" if user else ""
        return f"mongodb://{login}127.0.0.1:{self._secured_port}/chat?replicaSet=rs0&authSource=admin"


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _add_users(port: int) -> None:
    options = {"directConnection": True, "serverSelectionTimeoutMS": 20_000}
    with pymongo.MongoClient[Any]("127.0.0.1", port, **options) as client:
        member = {"_id": 0, "host": f"127.0.0.1:{port}"}
        client.admin.command({"replSetInitiate": {"_id": "rs0", "members": [member]}})
        wait_until(lambda: client.admin.command("hello")["isWritablePrimary"], 30)
        client.admin.command("createUser", "root", pwd=SECRET, roles=["root"])
    with pymongo.MongoClient[Any](f"mongodb://root:{SECRET}@127.0.0.1:{port}/?directConnection=true") as client:
        for name, role, database in (("rw", "readWrite", "chat"), ("ro", "read", "chat"), ("other", "readWrite", "x")):
            client.admin.command("createUser", name, pwd=SECRET, roles=[{"role": role, "db": database}])


class Observation(NamedTuple):
    """What the service and `db init` did in an environment."""

    ready: int
    api: int
    log: str
    init_code: int
    init_output: str


class Wrong(NamedTuple):
    """An environment, and the right behaviour in it."""

    name: str
    make: Callable[[World], str]
    """Prepares the environment, and returns its MONGODB_URI."""
    ready: int
    api: int
    log: str
    """What the log contains; if empty, the log has no error."""
    init_code: int
    init_output: str
    mount: str = "true"
    """A command that changes a folder for the service."""
    variables: Mapping[str, str] = {}


def _prepared(world: World, name: str, prepare: Callable[[Any], object]) -> str:
    address = world.database(name)
    prepare(world.client[name])
    return address


def _create_view(database: Any) -> None:
    database.create_collection("others")
    database.command("create", "messages", viewOn="others", pipeline=[])


AWAY = "No primary of the replica set in MONGODB_URI answers at "
DNS = "DNS has no address for nowhere.invalid of MONGODB_URI."
REFUSED = "refuses the user or the password of MONGODB_URI"
ROLE = "refuses a command: the user of MONGODB_URI needs the role readWrite on chat"
ADDRESS = "MONGODB_URI is not a valid MongoDB address"
ENDS = 0
"""Stands in place of a status: a setting that cannot become right ends the service as it starts."""
IN_PLACE = "Collections and indexes are in place."

SOAK = {
    "no such host",
    "nobody listens",
    "unknown user",
    "no user where one is asked for",
    "a user of another database",
    "no address",
    "a set that was never initiated",
    "TLS where there is none",
    "a member that is away beside one that is there",
    "messages that are a view",
    "an index with other options",
    "an index that is missing",
    "a /dev/shm that nobody may write to",
}
"""Only `make soak` tests these: each resembles one that is always tested, and a service costs seconds."""

ENVIRONMENTS = [
    Wrong("no such host", lambda _: "mongodb://nowhere.invalid/chat?replicaSet=rs0", 503, 503, AWAY, 1, AWAY),
    Wrong("no such service in DNS", lambda _: "mongodb+srv://nowhere.invalid/chat", 503, 503, DNS, 1, DNS),
    Wrong(
        "nobody listens",
        lambda _: f"mongodb://127.0.0.1:{free_port()}/chat?replicaSet=rs0",
        *(503, 503, AWAY, 1, AWAY),
    ),
    Wrong(
        "somebody listens who never answers",
        lambda world: f"mongodb://127.0.0.1:{world.listener()}/chat?replicaSet=rs0",
        *(503, 503, AWAY, 1, AWAY),
    ),
    Wrong("wrong password", lambda world: world.secured("rw:wrong"), 503, 503, REFUSED, 1, REFUSED),
    Wrong("unknown user", lambda world: world.secured(f"nobody:{SECRET}"), 503, 503, REFUSED, 1, REFUSED),
    Wrong("no user where one is asked for", lambda world: world.secured(""), 503, 503, ROLE, 1, ROLE),
    Wrong("a user who may only read", lambda world: world.secured(f"ro:{SECRET}"), 503, 401, ROLE, 1, ROLE),
    Wrong("a user of another database", lambda world: world.secured(f"other:{SECRET}"), 503, 503, ROLE, 1, ROLE),
    Wrong(
        "a set of another name",
        lambda world: world.database("chat_wrong_set", "replicaSet=other"),
        *(503, 503, AWAY, 1, AWAY),
    ),
    Wrong(
        "a standalone",
        lambda world: f"mongodb://127.0.0.1:{world.new_server()}/chat",
        *(ENDS, ENDS, "is a standalone", 1, "is a standalone"),
    ),
    Wrong("no address", lambda _: "localhost:27017/chat", ENDS, ENDS, ADDRESS, 1, ADDRESS),
    Wrong(
        "a set that was never initiated",
        lambda world: f"mongodb://127.0.0.1:{world.new_server('--replSet', 'rs0')}/chat?replicaSet=rs0",
        *(503, 503, AWAY, 1, AWAY),
    ),
    Wrong(
        "TLS where there is none",
        lambda world: world.database("chat_tls", "replicaSet=rs0&tls=true"),
        *(503, 503, AWAY, 1, AWAY),
    ),
    Wrong(
        "a member that is away beside one that is there",
        lambda world: world.database("chat_member").replace("/chat_member", f",127.0.0.1:{free_port()}/chat_member"),
        *(200, 401, "", 0, IN_PLACE),
    ),
    Wrong(
        "messages that are not clustered",
        lambda world: _prepared(world, "chat_plain", lambda database: database.create_collection("messages")),
        *(503, 401, "messages is not clustered", 1, "messages is not clustered"),
    ),
    Wrong(
        "messages that are a view",
        lambda world: _prepared(world, "chat_view", _create_view),
        *(503, 401, "messages is a view", 1, "messages is a view"),
    ),
    Wrong(
        "an index with other options",
        lambda world: _prepared(
            world,
            "chat_index",
            lambda database: database["tickets"].create_index([("expires_at", ASCENDING)], expireAfterSeconds=60),
        ),
        *(503, 401, "expires_at_1 of tickets has other options", 1, "expires_at_1 of tickets has other options"),
    ),
    Wrong("an empty database", lambda world: world.database("chat_empty"), 200, 401, "", 0, IN_PLACE),
    Wrong(
        "an index that is missing",
        lambda world: _prepared(world, "chat_missing", lambda database: database.create_collection("purges")),
        *(200, 401, "", 0, IN_PLACE),
    ),
    Wrong(
        "a /dev/shm that is full",
        lambda world: world.database("chat_shm"),
        *(200, 401, MEMORY, 0, IN_PLACE),
        mount="mount -t tmpfs -o size=64k tmpfs /dev/shm",
    ),
    Wrong(
        "a /dev/shm that nobody may write to",
        lambda world: world.database("chat_shm_ro"),
        *(200, 401, MEMORY, 0, IN_PLACE),
        mount="mount -t tmpfs -o ro tmpfs /dev/shm",
    ),
    Wrong(
        "a TMPDIR that is not there",
        lambda world: world.database("chat_tmp"),
        *(200, 401, "", 0, IN_PLACE),
        variables={"TMPDIR": "/nowhere"},
    ),
]


@pytest.fixture(scope="module")
def observations(
    mongod: EmbeddedMongod, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Observation]]]:
    """Return the observation of each selected environment; several run at once, as most of the time is waiting."""
    items = [item for item in request.session.items if item.path == request.path]
    selected = {item.callspec.params["wrong"].name for item in items}
    folder = tmp_path_factory.mktemp("world")
    with World(mongod, folder) as world, ThreadPoolExecutor(CONCURRENT) as pool:
        yield {
            wrong.name: pool.submit(observe, wrong.make(world), wrong, folder / f"output-{number}")
            for number, wrong in enumerate(ENVIRONMENTS)
            if wrong.name in selected
        }


def status_of(port: int, path: str) -> int:
    """Return the status of a request with an unknown key."""
    headers = {"X-API-Key": "chat_" + "x" * 43}
    return requests.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=SETTLE_SECONDS).status_code


def settled_status(port: int, path: str, expected: int) -> int:
    """Return the expected status as soon as it is answered, or the last status that was answered in time."""
    status = 0

    def is_expected() -> bool:
        nonlocal status
        status = status_of(port, path)
        return status == expected

    with suppress(AssertionError):
        wait_until(is_expected, SETTLE_SECONDS, every=0.2)
    return status


def init(uri: str) -> tuple[int, str]:
    """Run `db init`; return its exit code and its output."""
    with tempfile.TemporaryFile() as output:
        exit_code = start("flask", "--app", "wsgi", "db", "init", output=output, MONGODB_URI=uri).wait(60)
        output.seek(0)
        return exit_code, output.read().decode()


def observe(uri: str, wrong: Wrong, output: Path) -> Observation:
    """Run a service and `db init` in an environment."""
    with output.open("wb") as sink, ThreadPoolExecutor() as pool:
        init_run = pool.submit(init, uri)
        variables = {"WEB_CONCURRENCY": "1", **wrong.variables}
        service = InOwnMounts(wrong.mount, uri, free_port(), output=sink, **variables)
        if wrong.ready == ENDS:
            ready = api = ENDS if service.start().wait(SETTLE_SECONDS) else 200
        else:
            with service:
                pending = [
                    pool.submit(settled_status, service.port, *arguments)
                    for arguments in (("/readyz", wrong.ready), (CHATS, wrong.api))
                ]
                ready, api = (future.result() for future in pending)
        return Observation(ready, api, output.read_text(), *init_run.result())


@pytest.mark.parametrize(
    "wrong",
    [pytest.param(row, id=row.name, marks=[pytest.mark.soak] if row.name in SOAK else []) for row in ENVIRONMENTS],
)
def test_what_is_wrong_outside_is_said(observations: dict[str, Future[Observation]], wrong: Wrong) -> None:
    """Statuses, exit code, output and log are those of the row, without a traceback or the secret."""
    observed = observations[wrong.name].result()
    assert (observed.ready, observed.api, observed.init_code) == (wrong.ready, wrong.api, wrong.init_code), observed
    assert wrong.init_output in observed.init_output
    assert wrong.log in observed.log
    assert wrong.log or '"level":"error"' not in observed.log, observed.log
    output = observed.log + observed.init_output
    assert "Traceback" not in output
    assert SECRET not in output
