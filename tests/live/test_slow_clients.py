"""A client that sends or reads slowly costs only a socket: other clients do not notice it."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import requests

from chat_service.models import NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.messages import Messages
from chat_service.server.bodies import BODY_SECONDS
from chat_service.server.http_protocol import READER_SECONDS
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn

QUICK_SECONDS = 0.5
PROBES = 40


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


@pytest.fixture
def big_chat(database: Database, access: TenantAccess) -> str:
    """Return the id of a chat of 20,000 messages: more than the buffers between server and client hold."""
    chat_id = Chats(database).create(access.tenant_id, None, {}).id
    for _ in range(20):
        Messages(database).append(access.tenant_id, chat_id, [NewMessage(Role.USER, "x" * 500, None, {})] * 1_000)
    return chat_id


def head(access: TenantAccess, method: str, path: str, *fields: str) -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"X-API-Key: {access.key}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def connect(port: int) -> socket.socket:
    """Open a connection with a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    return connection


@contextmanager
def slow_clients(port: int, access: TenantAccess, chat_id: str, each: int) -> Iterator[list[socket.socket]]:
    """Open `each` partial heads, `each` slow bodies and `each` slow readers of an export; yield the readers."""
    body = head(access, "POST", CHATS, "Content-Type: application/json", "Content-Length: 1000") + b'{"title":'
    export = head(access, "GET", f"{CHATS}/{chat_id}/export?format=ndjson")
    with ExitStack() as stack:
        readers = []
        for request in (head(access, "GET", CHATS)[:-2], body, export):
            for _ in range(each):
                connection = stack.enter_context(connect(port))
                connection.sendall(request)
                if request is export:
                    readers.append(connection)
        # Producing every export's first part takes time: of very many at once, some may wait too long and be refused.
        statuses = Counter(reader.recv(12) for reader in readers)
        assert set(statuses) <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        assert statuses[b"HTTP/1.1 200"] >= min(each, 60)
        yield readers


def probe(url: str, headers: dict[str, str]) -> list[float]:
    """Return the sorted durations of several requests, each on its own connection, so that all workers serve some."""
    durations = []
    for _ in range(PROBES):
        began = time.monotonic()
        assert requests.get(url, headers=headers, timeout=30).status_code == 200
        durations.append(time.monotonic() - began)
    return sorted(durations)


@pytest.mark.parametrize("each", [60, pytest.param(170, marks=pytest.mark.soak)])
def test_slow_clients_are_not_noticed(gunicorn: ForkedGunicorn, access, big_chat, each) -> None:
    """With far more slow clients of each kind than threads, /healthz, a chat, and another export of it stay quick."""
    url = f"http://127.0.0.1:{gunicorn.port}"
    with slow_clients(gunicorn.port, access, big_chat, each):
        health = probe(f"{url}/healthz", {})
        chat = probe(f"{url}{CHATS}/{big_chat}", access.headers)
        began = time.monotonic()
        exported = requests.get(f"{url}{CHATS}/{big_chat}/export?format=ndjson", headers=access.headers, timeout=30)
        export_seconds = time.monotonic() - began
    print(f"health {health[-1]:.3f}, chat {chat[-1]:.3f}, export {export_seconds:.2f} s")  # noqa: T201 - shown when it fails
    assert health[-1] < QUICK_SECONDS
    # A request behind a blocked thread would wait for as long as that: seconds, and more often than once in forty.
    assert chat[len(chat) // 2] < QUICK_SECONDS
    assert chat[-1] < 10 * QUICK_SECONDS
    assert exported.text.splitlines()[-1].startswith('{"type":"end","message_count":20000')
    assert export_seconds < 10


def test_a_slow_reader_gets_it_all(gunicorn: ForkedGunicorn, access, big_chat) -> None:
    """The service waits for it, and loses or mixes up nothing between the threads that produced the parts."""
    with slow_clients(gunicorn.port, access, big_chat, 3) as readers:
        time.sleep(1)
        for reader in readers:
            received = bytearray()
            while b'"type":"end"' not in received[-300:]:
                part = reader.recv(2**16)
                assert part
                received += part
        lines = [line for line in received.split(b"\n") if line.startswith(b'{"type":"message"')]
        assert b'"message_count":20000' in received[-300:]
        assert len(lines) > 19_000, "the frames of the chunks cut a few"


def read_rest(connection: socket.socket) -> bytes:
    """Read and return what is left on a connection that the other side has closed."""
    received = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            received += part
    return received


@pytest.mark.soak
def test_nobody_is_waited_for_for_ever(gunicorn: ForkedGunicorn, access, big_chat) -> None:
    """A head has 15 s; a body has 60 s however steadily it arrives, or 30 s if its request was refused before.

    A reader has 60 s to read what is pending for it.
    """
    body = head(access, "POST", CHATS, "Content-Type: application/json", "Content-Length: 1000")
    with ExitStack() as stack:
        partial_head, slow_body, refused, reader = (stack.enter_context(connect(gunicorn.port)) for _ in range(4))
        refused.sendall(body.replace(access.key.encode(), b"unknown"))
        partial_head.sendall(head(access, "GET", CHATS)[:-2])
        slow_body.sendall(body)
        reader.sendall(head(access, "GET", f"{CHATS}/{big_chat}/export?format=ndjson"))
        began = time.monotonic()
        assert partial_head.recv(1) == b""
        assert 10 < time.monotonic() - began < 20
        while time.monotonic() - began < BODY_SECONDS - 1:
            slow_body.sendall(b" ")
            with suppress(OSError):
                refused.sendall(b" ")
            time.sleep(1)
        assert read_rest(refused).startswith(b"HTTP/1.1 401 ")
        answer = slow_body.recv(2**16)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "request_timeout"' in answer
        assert BODY_SECONDS - 1 < time.monotonic() - began < BODY_SECONDS + 5
        time.sleep(max(began + READER_SECONDS + 3 - time.monotonic(), 0))
        assert b'"type":"end"' not in read_rest(reader)[-300:]
