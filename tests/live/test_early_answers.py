"""A request that is refused for its head is answered before its body is read, and the answer still arrives."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.client import CHATS, TenantAccess
from tests.conftest import MAX_BODY_BYTES

BODY = b"x" * (5 * MAX_BODY_BYTES)
"""More than the buffers of a connection hold: a client can send all of it only if the service reads it."""

LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


@pytest.fixture
def connection(live) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", live[0].port), 20)) as client:
        yield client


def send_all(connection: socket.socket, *fields: str) -> tuple[int, str]:
    """Send a whole request, and only then read the answer; return its status and its problem's code."""
    chunked = CHUNKED in fields
    head = [f"POST {CHATS} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *fields, "", ""]
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) if chunked else BODY
    connection.sendall("\r\n".join(head).encode() + body)
    return read(connection)


def read(connection: socket.socket) -> tuple[int, str]:
    """Return the status of the next answer, and its problem's code, or an empty text."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read()).get("code", "")


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
def test_a_client_that_first_sends_everything_has_its_answer(connection, access, framing) -> None:
    """It gets its answer without a key, and with too large a body; then the connection serves the next request."""
    with_key = f"X-API-Key: {access.key}"
    for _ in range(3):
        assert send_all(connection, framing) == (401, "invalid_api_key")
    if framing == LENGTH:
        assert send_all(connection, framing, with_key) == (413, "content_too_large")
    connection.sendall(f"GET {CHATS} HTTP/1.1\r\nHost: localhost\r\n{with_key}\r\n\r\n".encode())
    assert read(connection) == (200, "")


def test_what_a_front_end_brings_along_is_not_refused(connection, access) -> None:
    """A request with the cookies of a domain and the headers that proxies add is served."""
    fields = [
        f"X-API-Key: {access.key}",
        f"Cookie: session={'c' * 15_000}",
        *(f"X-Hop-{number}: x" for number in range(90)),
    ]
    connection.sendall("\r\n".join([f"GET {CHATS} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode())
    assert read(connection) == (200, "")


def test_so_has_one_that_ends_its_connection(connection) -> None:
    """With `Connection: close`, it gets its answer; the connection is closed once the whole body has arrived."""
    assert send_all(connection, LENGTH, "Connection: close") == (401, "invalid_api_key")
    assert connection.recv(1) == b""
