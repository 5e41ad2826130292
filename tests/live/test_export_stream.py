"""Exports over real sockets: each is complete or recognisably cut, and a reader that leaves costs nothing."""

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from chat_service.models import NewMessage, Role
from chat_service.repository.database import Database
from chat_service.repository.messages import Messages
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn
from tests.purging import purge_all

THREADS = 16
"""The threads of both workers together: the 2 workers of gunicorn.conf.py times the default of 8 for THREADS."""


IN_FLIGHT_BYTES = 2 * 2**20
"""How much may be in flight already: a batch, and what the buffers of a connection hold."""


@pytest.fixture
def alice(live) -> TenantAccess:
    return live[1]()


def send(gunicorn: ForkedGunicorn, access: TenantAccess, method: str, path: str, body: bytes | None = None) -> Any:
    """Send one request on a connection of its own and return the answer's JSON."""
    with closing(http.client.HTTPConnection("127.0.0.1", gunicorn.port, timeout=30)) as connection:
        connection.request(method, path, body, {**access.headers, "Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status in {200, 201}
        return json.load(answer)


@contextmanager
def export(gunicorn: ForkedGunicorn, access: TenantAccess, chat_id: str) -> Iterator[http.client.HTTPResponse]:
    """Request an export and read only its first byte; a small receive buffer leaves the rest with the server."""
    with closing(http.client.HTTPConnection("127.0.0.1", gunicorn.port, timeout=30)) as connection:
        connection.sock = socket.socket()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sock.connect(("127.0.0.1", gunicorn.port))
        connection.request("GET", f"{CHATS}/{chat_id}/export?format=ndjson", headers=access.headers)
        with connection.getresponse() as answer:
            assert answer.status == 200
            assert answer.read(1) == b"{"
            yield answer


@pytest.fixture
def big_chat(gunicorn: ForkedGunicorn, database: Database, alice: TenantAccess) -> str:
    """A chat of 20,000 messages: too large for the buffers between server and client to hold its export."""
    chat_id: str = send(gunicorn, alice, "POST", CHATS, b"{}")["id"]
    batch = [NewMessage(Role.USER, "x" * 500, None, {})] * 1_000
    for _ in range(20):
        Messages(database).append(alice.tenant_id, chat_id, batch)
    return chat_id


def test_an_export_ends_when_its_chat_is_deleted(gunicorn, database, alice, big_chat) -> None:
    """A deleted chat leaves by no route: only what was in flight still arrives, and the stream is recognisably cut."""
    with export(gunicorn, alice, big_chat) as stream:
        assert send(gunicorn, alice, "DELETE", f"{CHATS}/{big_chat}")["success"]
        with pytest.raises(http.client.IncompleteRead) as cut:
            stream.read()
    received = cut.value.partial
    print(f"{len(received):,} bytes after the 200")  # noqa: T201 - shown when it fails
    assert len(received) < IN_FLIGHT_BYTES
    assert b'"type":"end"' not in received
    purge_all(database)
    assert database.messages.find_one() is None


def test_an_export_sees_nothing_of_what_comes_after_it_began(gunicorn, database, alice, big_chat) -> None:
    """The export is the whole chat as it was at the start, with the count and the digest of that state."""
    with export(gunicorn, alice, big_chat) as stream:
        Messages(database).append(alice.tenant_id, big_chat, [NewMessage(Role.USER, "later", None, {})])
        Messages(database).delete(alice.tenant_id, big_chat, 20_000, "key")
        lines = (b"{" + stream.read()).splitlines(keepends=True)
    end = json.loads(lines[-1])
    assert end["message_count"] == len(lines) - 2 == 20_000
    assert end["sha256"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()


def test_a_database_that_fails_meanwhile_cuts_the_stream(gunicorn, failpoint, alice, big_chat) -> None:
    """The stream has no clean end in HTTP, and no last line."""
    with export(gunicorn, alice, big_chat) as stream:
        failpoint.arm("aggregate", times=1, errorCode=1)
        with pytest.raises(http.client.IncompleteRead) as cut:
            stream.read()
    assert b'"end"' not in cut.value.partial[-200:]


def test_readers_that_leave_give_their_threads_back(gunicorn, alice, big_chat) -> None:
    """Clients abandon twice as many exports as there are threads, half read; the next request is served at once."""
    for _ in range(2 * THREADS):
        with export(gunicorn, alice, big_chat):
            pass
    began = time.monotonic()
    assert send(gunicorn, alice, "GET", f"{CHATS}/{big_chat}")["message_count"] == 20_000
    assert time.monotonic() - began < 5
