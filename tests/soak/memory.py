"""How much memory one worker of the default settings takes, whoever calls: crowds that hold on to what they began.

    python -m tests.soak.memory                           all crowds; prints the table of docs/reliability.md
    SOAK_SERVICE=<folder> python -m tests.soak.memory     the same of another checkout

Each crowd meets a service of its own, so that none inherits what another left behind. All clients are one thread that
keeps no more than a few KiB for each, and whoever is refused comes back after a second.
"""

import asyncio
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.embedded.service import EmbeddedGunicorn
from chat_service.models import NewMessage, Role
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.messages import Messages
from chat_service.repository.tenants import Tenants
from tests.client import CHATS, TenantAccess
from tests.soak.campaign import other_checkout
from tests.wait import wait_until

MIB = 2**20

LOAD_SECONDS = 12.0
AFTER_SECONDS = 5.0
"""How long a crowd stays, and how long it has been away when what the worker kept is read."""

LONGEST = "\N{GRINNING FACE}" * 32_768
"""A message of 128 KiB: the longest there can be."""

BODY = memoryview(bytes(4 * MIB - 1))
PART = 64 * 2**10
PART_SECONDS = 0.15
"""A slow sender's pause between two parts: 4 MiB take it 10 s."""

SIP = 4 * 2**10
SIP_SECONDS = 0.25
"""What a slow reader reads, and how often."""

RETURN_SECONDS = 1.0
PROBE_SECONDS = 0.25
PATIENCE_SECONDS = 10.0
"""What another tenant, who reads a chat every quarter of a second, waits for at most."""


class Chat(NamedTuple):
    id: str
    access: TenantAccess


class Crowd(NamedTuple):
    """So many clients that do the same."""

    name: str
    clients: int
    request: Callable[[Chat], bytes]
    body: bool = False
    """Whether each sends 4 MiB less a byte, and never the last one."""
    pause: float | None = None
    """Between two parts of what is sent or read. None: it is sent at once, and nothing is read but the status."""
    messages: int = 0
    """Of the chat, each of 128 KiB."""


class Usage(NamedTuple):
    """MiB of a worker before, at the most and after; and what the crowd and another tenant were answered."""

    crowd: str
    before: int
    peak: int
    after: int
    answers: Counter[str]
    others: list[float]
    """Seconds of each request of another tenant that got its 200."""
    missed: int
    """Requests of the other tenant that got anything else, or nothing in time."""


def reading(path: str) -> Callable[[Chat], bytes]:
    return lambda chat: head("GET", f"{CHATS}/{chat.id}/{path}", chat.access)


def anonymous(_: Chat) -> bytes:
    return head("POST", CHATS, None)


def posting(chat: Chat) -> bytes:
    return head("POST", f"{CHATS}/{chat.id}/messages", chat.access)


def head(method: str, path: str, access: TenantAccess | None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"X-API-Key: {access.key}"] if access else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(BODY) + 1}"] if method == "POST" else []
    return "\r\n".join([*lines, "", ""]).encode()


NDJSON, JSON, PAGE = (reading(path) for path in ("export?format=ndjson", "export?format=json", "messages?limit=200"))

CROWDS = [
    Crowd("24 read nothing of an ndjson export of 64 MiB", 24, NDJSON, messages=512),
    Crowd("24 read nothing of a json export of 64 MiB", 24, JSON, messages=512),
    Crowd("100 read nothing of a page of 24 MiB", 100, PAGE, messages=192),
    Crowd("100 read a page of 24 MiB slowly", 100, PAGE, pause=SIP_SECONDS, messages=192),
    Crowd("100 read nothing of an export of 24 MiB", 100, NDJSON, messages=192),
    Crowd("100 read an export of 24 MiB slowly", 100, NDJSON, pause=SIP_SECONDS, messages=192),
    Crowd("200 send 4 MiB less a byte without a key", 200, anonymous, body=True),
    Crowd("594 send 4 MiB less a byte without a key", 594, anonymous, body=True),
    Crowd("200 send 4 MiB less a byte slowly with a key", 200, posting, body=True, pause=PART_SECONDS),
    Crowd("594 send 4 MiB less a byte slowly with a key", 594, posting, body=True, pause=PART_SECONDS),
]


class Worker:
    """The one worker of a service, as the kernel sees it."""

    def __init__(self, master: int) -> None:
        children = Path(f"/proc/{master}/task/{master}/children")
        wait_until(lambda: children.read_text().split())
        self._pid = int(children.read_text().split()[0])

    def reset(self) -> None:
        """Have the peak counted from now on."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    def resident(self) -> int:
        return self._read("VmRSS")

    def peak(self) -> int:
        """Return the most since the last reset; the kernel counts, so that no moment is missed."""
        return self._read("VmHWM")

    def _read(self, field: str) -> int:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))


class Visit:
    """A crowd and another tenant at a service, until they are asked to leave."""

    def __init__(self, port: int, crowd: Crowd, chat: Chat, other: Chat) -> None:
        self.answers: Counter[str] = Counter()
        self.others: list[float] = []
        self.missed = 0
        self._port = port
        self._crowd = crowd
        self._request = crowd.request(chat)
        self._probe = head("GET", f"{CHATS}/{other.id}", other.access)

    async def stay(self, seconds: float) -> None:
        """Let all of them call for so long; when this returns their sockets are closed."""
        calls = [self._again_and_again(self._call, RETURN_SECONDS) for _ in range(self._crowd.clients)]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*calls, self._again_and_again(self._look, PROBE_SECONDS))

    async def _again_and_again(self, call: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            await call()
            await asyncio.sleep(pause)

    async def _call(self) -> None:
        with suppress(OSError), self._socket() as connection:
            await self._loop.sock_connect(connection, ("127.0.0.1", self._port))
            await self._loop.sock_sendall(connection, self._request)
            sending = asyncio.create_task(self._send(connection))
            try:
                status = await self._loop.sock_recv(connection, 12)
                self.answers[status[9:].decode() or "cut"] += 1
                if status.endswith(b"200"):
                    await self._read(connection)
            finally:
                sending.cancel()

    async def _send(self, connection: socket.socket) -> None:
        with suppress(OSError):
            for start in range(0, len(BODY) if self._crowd.body else 0, PART):
                await self._loop.sock_sendall(connection, BODY[start : start + PART])
                await asyncio.sleep(self._crowd.pause or 0)

    async def _read(self, connection: socket.socket) -> None:
        """Read a little from time to time until the other side hangs up; or nothing, for as long as the crowd stays."""
        if self._crowd.pause is None:
            await asyncio.get_running_loop().create_future()  # which nobody completes
            return
        received = b"the status"
        while received:
            await asyncio.sleep(self._crowd.pause)
            received = await self._loop.sock_recv(connection, SIP)

    async def _look(self) -> None:
        began = time.monotonic()
        status = b""
        with suppress(OSError, TimeoutError), self._socket() as connection:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._loop.sock_connect(connection, ("127.0.0.1", self._port))
                await self._loop.sock_sendall(connection, self._probe)
                status = await self._loop.sock_recv(connection, 12)
        if status.endswith(b"200"):
            self.others.append(time.monotonic() - began)
        else:
            self.missed += 1

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def _socket(self) -> socket.socket:
        connection = socket.socket()
        # What is on its way must not lie in the kernel, which would hide how much the worker takes in.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SIP)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PART)
        connection.setblocking(False)
        return connection


def measure(
    crowd: Crowd,
    database: Database,
    uri: str,
    folder: Path,
    seconds: float = LOAD_SECONDS,
    after: float = AFTER_SECONDS,
) -> Usage:
    """Let the crowd at a fresh service, and return what it came to."""
    chat, other = make_chat(database, crowd.messages), make_chat(database, 1)
    with service(uri, folder) as running:
        assert running.process is not None
        worker = Worker(running.process.pid)
        asyncio.run(Visit(running.port, crowd._replace(clients=0), chat, other).stay(1.0))  # all is loaded after that
        worker.reset()
        before = worker.resident()
        visit = Visit(running.port, crowd, chat, other)
        asyncio.run(visit.stay(seconds))
        time.sleep(after)
        return Usage(crowd.name, before, worker.peak(), worker.resident(), visit.answers, visit.others, visit.missed)


@contextmanager
def service(uri: str, folder: Path) -> Iterator[EmbeddedGunicorn]:
    with (
        (folder / "service.log").open("ab") as said,
        EmbeddedGunicorn(uri, free_port(), output=said, folder=other_checkout(), WEB_CONCURRENCY="1") as running,
    ):
        yield running


def make_chat(database: Database, messages: int) -> Chat:
    """Make a tenant with a chat of so many messages, each as long as there can be."""
    tenant = Tenants(database).create("memory")
    key, made = ApiKeys(database).create(tenant.id, "memory", ["read", "write"])
    chat_id = Chats(database).create(tenant.id, None, {}).id
    for left in range(messages, 0, -64):
        longest = NewMessage(Role.USER, LONGEST, None, {})
        Messages(database).append(tenant.id, chat_id, [longest] * min(left, 64))
    return Chat(chat_id, TenantAccess(tenant.id, key, made.id))


def row(usage: Usage) -> str:
    """Return a row of the table."""
    answers = ", ".join(f"{number} x {status}" for status, number in sorted(usage.answers.items())) or "none"
    others = sorted(usage.others)
    slowest = f"{others[len(others) // 2] * 1000:.0f} / {others[-1] * 1000:.0f} ms" if others else "-"
    sizes = f"{usage.before} | {usage.peak} | {usage.after}"
    return f"| {usage.crowd} | {sizes} | {answers} | {slowest}, {usage.missed} of {len(others) + usage.missed} missed |"


def main(names: Sequence[str]) -> None:
    """Measure the crowds whose names contain one of these, or all."""
    print("| crowd | MiB before | peak | after | answers | another tenant: p50 / max |")  # noqa: T201 - its output
    print("| --- | --- | --- | --- | --- | --- |")  # noqa: T201
    with tempfile.TemporaryDirectory() as name, EmbeddedMongod(Path(name)) as mongod:
        database = Database(mongod.uri)
        database.prepare()
        for crowd in CROWDS:
            if not names or any(one in crowd.name for one in names):
                print(row(measure(crowd, database, mongod.uri, Path(name))), flush=True)  # noqa: T201
        database.close()


if __name__ == "__main__":
    main(sys.argv[1:])
