"""What is wrong outside ends no service, is said in one line that helps, and is over when somebody mends it.

Each row is an environment: what `/readyz` says, what a request to the API gets, what stands in the log, and with what
`db init` ends. A request with a key that nobody has is 401 where the database could be asked, and 503 where not.
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

SECONDS = 90.0
"""Until the service is as it will be: workers have started, and the driver knows what it cannot reach."""


AT_ONCE = 4
"""Services that are looked at."""

SECRET = "secret-word"  # noqa: S105 - of a server that lives as long as the test


class World:
    """The servers that environments are made of."""

    def __init__(self, mongod: EmbeddedMongod, folder: Path) -> None:
        self._mongod = mongod
        self._folder = folder
        self._ends = ExitStack()
        self._secured: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def database(self, name: str, options: str = "replicaSet=rs0") -> str:
        """Return the address of an empty database on a good server."""
        self.client.drop_database(name)
        return f"mongodb://127.0.0.1:{self._mongod.port}/{name}?{options}"

    @cached_property
    def client(self) -> Any:
        client: Any = pymongo.MongoClient(self._mongod.uri)
        self._ends.callback(client.close)
        return client

    def listener(self) -> int:
        """Return a port where somebody listens, and never answers."""
        listening = self._ends.enter_context(socket.create_server(("127.0.0.1", 0)))
        return int(listening.getsockname()[1])

    def alone(self, *options: str) -> int:
        """Return the port of a server of its own, which is not made a set."""
        port, folder = free_port(), Path(tempfile.mkdtemp(dir=self._folder))
        process = launch(folder, port, options=options)
        self._ends.callback(stop, process, 15)
        wait_until(lambda: _listens(port), 60)
        return port

    def secured(self, user: str) -> str:
        """Return the address of the database `chat` on a server with users: `rw`, `ro`, and `other` of another one."""
        if self._secured is None:
            key_file = self._folder / "key"
            key_file.write_text("c29tZXRoaW5n" * 20)
            key_file.chmod(0o600)
            self._secured = self.alone("--replSet", "rs0", "--keyFile", str(key_file))
            _add_users(self._secured)
        at = f"{user}@" if user else ""
        return f"mongodb://{at}127.0.0.1:{self._secured}/chat?replicaSet=rs0&authSource=admin"


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


class Found(NamedTuple):
    """What was seen of an environment."""

    ready: int
    api: int
    log: str
    init_code: int
    init_said: str


class Wrong(NamedTuple):
    """An environment, and what is right in it."""

    name: str
    make: Callable[[World], str]
    """Returns MONGODB_URI."""
    ready: int
    api: int
    log: str
    """What stands in the log; empty for nothing that is an error."""
    init_code: int
    init_said: str
    mount: str = "true"
    """A command that changes a folder for the service."""
    variables: Mapping[str, str] = {}


def _made(world: World, name: str, make: Callable[[Any], object]) -> str:
    address = world.database(name)
    make(world.client[name])
    return address


def _view(database: Any) -> None:
    database.create_collection("others")
    database.command("create", "messages", viewOn="others", pipeline=[])


AWAY = "No primary of the replica set in MONGODB_URI answers at "
DNS = "DNS has no address for nowhere.invalid of MONGODB_URI."
REFUSED = "refuses the user or the password of MONGODB_URI"
ROLE = "refuses a command: the user of MONGODB_URI needs the role readWrite on chat"
ADDRESS = "MONGODB_URI is not a valid MongoDB address"
ENDS = 0
"""In place of a status: a setting that is wrong for good ends the service as it starts."""
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
"""These are only looked at by `make soak`: each of them has one of its kind beside it, and a service costs seconds."""

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
        lambda world: f"mongodb://127.0.0.1:{world.alone()}/chat",
        *(ENDS, ENDS, "is a standalone", 1, "is a standalone"),
    ),
    Wrong("no address", lambda _: "localhost:27017/chat", ENDS, ENDS, ADDRESS, 1, ADDRESS),
    Wrong(
        "a set that was never initiated",
        lambda world: f"mongodb://127.0.0.1:{world.alone('--replSet', 'rs0')}/chat?replicaSet=rs0",
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
        lambda world: _made(world, "chat_plain", lambda database: database.create_collection("messages")),
        *(503, 401, "messages is not clustered", 1, "messages is not clustered"),
    ),
    Wrong(
        "messages that are a view",
        lambda world: _made(world, "chat_view", _view),
        *(503, 401, "messages is a view", 1, "messages is a view"),
    ),
    Wrong(
        "an index with other options",
        lambda world: _made(
            world,
            "chat_index",
            lambda database: database["tickets"].create_index([("expires_at", ASCENDING)], expireAfterSeconds=60),
        ),
        *(503, 401, "expires_at_1 of tickets has other options", 1, "expires_at_1 of tickets has other options"),
    ),
    Wrong("an empty database", lambda world: world.database("chat_empty"), 200, 401, "", 0, IN_PLACE),
    Wrong(
        "an index that is missing",
        lambda world: _made(world, "chat_missing", lambda database: database.create_collection("purges")),
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
def looks(
    mongod: EmbeddedMongod, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Found]]]:
    """What is seen of each environment that is asked for, of several at once: most of the time is waiting."""
    here = [item for item in request.session.items if item.path == request.path]
    asked = {item.callspec.params["wrong"].name for item in here}
    folder = tmp_path_factory.mktemp("world")
    with World(mongod, folder) as world, ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            wrong.name: pool.submit(look, wrong.make(world), wrong, folder / f"output-{number}")
            for number, wrong in enumerate(ENVIRONMENTS)
            if wrong.name in asked
        }


def ask(port: int, path: str) -> int:
    headers = {"X-API-Key": "chat_" + "x" * 43}
    return requests.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=SECONDS).status_code


def settled(port: int, path: str, expected: int) -> int:
    """Return what is answered once it is what is expected, or what it is at the end."""
    found = 0

    def is_expected() -> bool:
        nonlocal found
        found = ask(port, path)
        return found == expected

    with suppress(AssertionError):
        wait_until(is_expected, SECONDS, every=0.2)
    return found


def init(uri: str) -> tuple[int, str]:
    """Return with what `db init` ends, and what it says."""
    with tempfile.TemporaryFile() as said:
        code = start("flask", "--app", "wsgi", "db", "init", output=said, MONGODB_URI=uri).wait(60)
        said.seek(0)
        return code, said.read().decode()


def look(uri: str, wrong: Wrong, output: Path) -> Found:
    with output.open("wb") as sink, ThreadPoolExecutor() as pool:
        done = pool.submit(init, uri)
        variables = {"WEB_CONCURRENCY": "1", **wrong.variables}
        service = InOwnMounts(wrong.mount, uri, free_port(), output=sink, **variables)
        if wrong.ready == ENDS:
            ready = api = ENDS if service.start().wait(SECONDS) else 200
        else:
            with service:
                later = [
                    pool.submit(settled, service.port, *one) for one in (("/readyz", wrong.ready), (CHATS, wrong.api))
                ]
                ready, api = (one.result() for one in later)
        return Found(ready, api, output.read_text(), *done.result())


@pytest.mark.parametrize(
    "wrong",
    [pytest.param(one, id=one.name, marks=[pytest.mark.soak] if one.name in SOAK else []) for one in ENVIRONMENTS],
)
def test_what_is_wrong_outside_is_said(looks: dict[str, Future[Found]], wrong: Wrong) -> None:
    found = looks[wrong.name].result()
    assert (found.ready, found.api, found.init_code) == (wrong.ready, wrong.api, wrong.init_code), found
    assert wrong.init_said in found.init_said
    assert wrong.log in found.log
    assert wrong.log or '"level":"error"' not in found.log, found.log
    said = found.log + found.init_said
    assert "Traceback" not in said
    assert SECRET not in said
