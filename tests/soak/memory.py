"""Measures the memory of one worker with the default settings, under crowds that keep their requests open.

    python -m tests.soak.memory                           all crowds; prints the table of docs/reliability.md
    SOAK_SERVICE=<folder> python -m tests.soak.memory     the same for another checkout

Each crowd gets a new service, so that no measurement includes what another crowd left behind. All clients run in one
thread, which keeps no more than a few KiB for each. A client that is refused tries again after a second.
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
"""How long a crowd calls, and how long after that the memory that the worker kept is read."""

LONGEST = "\N{GRINNING FACE}" * 32_768
"""The content of a message of 128 KiB: the longest that is accepted."""

BODY = memoryview(bytes(4 * MIB - 1))
PART = 64 * 2**10
PART_SECONDS = 0.15
"""A slow sender's pause between two parts: 4 MiB take it 10 s."""

SLOW_READ_BYTES = 4 * 2**10
SLOW_READ_SECONDS = 0.25
"""How many bytes a slow reader reads at a time, and how often."""

RETRY_SECONDS = 1.0
PROBE_SECONDS = 0.25
PROBE_TIMEOUT_SECONDS = 10.0
"""How long another tenant waits for an answer, at most; it reads a chat every quarter of a second."""


class Chat(NamedTuple):
    id: str
    access: TenantAccess


class Crowd(NamedTuple):
    """A number of clients that all do the same."""

    name: str
    clients: int
    request: Callable[[Chat], bytes]
    body: bool = False
    """Whether each client sends a body of 4 MiB without its last byte, which never comes."""
    pause: float | None = None
    """Seconds between two parts of what is sent or read. None: all is sent at once, and only the status is read."""
    messages: int = 0
    """How many the chat has, each of 128 KiB."""


class Usage(NamedTuple):
    """A worker's memory in MiB before, at its peak and after; and the answers to the crowd and to another tenant."""

    crowd: str
    before: int
    peak: int
    after: int
    answers: Counter[str]
    others: list[float]
    """Durations in seconds of the other tenant's requests that got a 200."""
    missed: int
    """How many of the other tenant's requests got another status, or no answer in time."""


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
    Crowd("100 read a page of 24 MiB slowly", 100, PAGE, pause=SLOW_READ_SECONDS, messages=192),
    Crowd("100 read nothing of an export of 24 MiB", 100, NDJSON, messages=192),
    Crowd("100 read an export of 24 MiB slowly", 100, NDJSON, pause=SLOW_READ_SECONDS, messages=192),
    Crowd("200 send 4 MiB less a byte without a key", 200, anonymous, body=True),
    Crowd("594 send 4 MiB less a byte without a key", 594, anonymous, body=True),
    Crowd("200 send 4 MiB less a byte slowly with a key", 200, posting, body=True, pause=PART_SECONDS),
    Crowd("594 send 4 MiB less a byte slowly with a key", 594, posting, body=True, pause=PART_SECONDS),
]


class Worker:
    """The only worker of a service, and its memory in MiB as the kernel counts it."""

    def __init__(self, master: int) -> None:
        children = Path(f"/proc/{master}/task/{master}/children")
        wait_until(lambda: children.read_text().split())
        self._pid = int(children.read_text().split()[0])

    def reset(self) -> None:
        """Let the kernel count the peak from now on."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    def resident(self) -> int:
        return self._read("VmRSS")

    def peak(self) -> int:
        """Return the peak since the last reset; the kernel counts it, so that no moment is missed."""
        return self._read("VmHWM")

    def _read(self, field: str) -> int:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))


class CrowdRun:
    """A crowd and another tenant that call a service for a limited time."""

    def __init__(self, port: int, crowd: Crowd, chat: Chat, other: Chat) -> None:
        self.answers: Counter[str] = Counter()
        self.others: list[float] = []
        self.missed = 0
        self._port = port
        self._crowd = crowd
        self._request = crowd.request(chat)
        self._probe = head("GET", f"{CHATS}/{other.id}", other.access)

    async def call_for(self, seconds: float) -> None:
        """Let all of them call for so many seconds; when this returns, their sockets are closed."""
        calls = [self._repeat(self._call, RETRY_SECONDS) for _ in range(self._crowd.clients)]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*calls, self._repeat(self._send_probe, PROBE_SECONDS))

    async def _repeat(self, call: Callable[[], Awaitable[None]], pause: float) -> None:
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
        """Read a little from time to time until the server closes; without a pause, wait until the time is over."""
        if self._crowd.pause is None:
            await asyncio.get_running_loop().create_future()  # which never completes
            return
        received = b"the status"
        while received:
            await asyncio.sleep(self._crowd.pause)
            received = await self._loop.sock_recv(connection, SLOW_READ_BYTES)

    async def _send_probe(self) -> None:
        began = time.monotonic()
        status = b""
        with suppress(OSError, TimeoutError), self._socket() as connection:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
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
        # Data must not lie in the buffers of the kernel: they would hide how much the worker reads.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_READ_BYTES)
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
    """Let the crowd call a new service, and return the memory and the answers."""
    chat, other = make_chat(database, crowd.messages), make_chat(database, 1)
    with service(uri, folder) as gunicorn:
        assert gunicorn.process is not None
        worker = Worker(gunicorn.process.pid)
        asyncio.run(CrowdRun(gunicorn.port, crowd._replace(clients=0), chat, other).call_for(1.0))  # loads all code
        worker.reset()
        before = worker.resident()
        run = CrowdRun(gunicorn.port, crowd, chat, other)
        asyncio.run(run.call_for(seconds))
        time.sleep(after)
        return Usage(crowd.name, before, worker.peak(), worker.resident(), run.answers, run.others, run.missed)


@contextmanager
def service(uri: str, folder: Path) -> Iterator[EmbeddedGunicorn]:
    with (
        (folder / "service.log").open("ab") as log_file,
        EmbeddedGunicorn(uri, free_port(), output=log_file, folder=other_checkout(), WEB_CONCURRENCY="1") as gunicorn,
    ):
        yield gunicorn


def make_chat(database: Database, messages: int) -> Chat:
    """Create a tenant with a chat of so many messages, each of the longest content."""
    tenant = Tenants(database).create("memory")
    key, api_key = ApiKeys(database).create(tenant.id, "memory", ["read", "write"])
    chat_id = Chats(database).create(tenant.id, None, {}).id
    for left in range(messages, 0, -64):
        longest = NewMessage(Role.USER, LONGEST, None, {})
        Messages(database).append(tenant.id, chat_id, [longest] * min(left, 64))
    return Chat(chat_id, TenantAccess(tenant.id, key, api_key.id))


def row(usage: Usage) -> str:
    """Return a row of the table."""
    answers = ", ".join(f"{number} x {status}" for status, number in sorted(usage.answers.items())) or "none"
    seconds = sorted(usage.others)
    times = f"{seconds[len(seconds) // 2] * 1000:.0f} / {seconds[-1] * 1000:.0f} ms" if seconds else "-"
    sizes = f"{usage.before} | {usage.peak} | {usage.after}"
    return f"| {usage.crowd} | {sizes} | {answers} | {times}, {usage.missed} of {len(seconds) + usage.missed} missed |"


def main(names: Sequence[str]) -> None:
    """Measure the crowds whose names contain one of `names`; without any names, all crowds."""
    print("| crowd | MiB before | peak | after | answers | another tenant: p50 / max |")  # noqa: T201 - its output
    print("| --- | --- | --- | --- | --- | --- |")  # noqa: T201
    with tempfile.TemporaryDirectory() as folder, EmbeddedMongod(Path(folder)) as mongod:
        database = Database(mongod.uri)
        database.prepare()
        for crowd in CROWDS:
            if not names or any(part in crowd.name for part in names):
                print(row(measure(crowd, database, mongod.uri, Path(folder))), flush=True)  # noqa: T201
        database.close()


if __name__ == "__main__":
    main(sys.argv[1:])
