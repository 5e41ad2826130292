"""A cheap HTTP client: it shares two cores with the service that is measured.

Python's own http.client takes 0.2 ms for a response, most of it for headers that are not needed here.
"""

import re
import socket
from typing import Any

import orjson

from benchmarks.service import KEY, Address

_STATUS = slice(9, 12)
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
_READ_BYTES = 2**16


class Client:
    """Sends requests over one connection, which is kept alive."""

    def __init__(self, address: Address, key: str = KEY) -> None:
        self._address = address
        self._key = key
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the connection, as the service does with one that is idle too long; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def send(self, method: str, path: str, body: Any = None) -> bytes:
        """Send a request to `/api/v1{path}`, with `body` as JSON, and return the body of the response.

        Raises:
            AssertionError: its status is not 200, 201 or 204.
        """
        content = b"" if body is None else orjson.dumps(body)
        head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {self._key}\r\n"
        if content:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        connection = self._connected()
        connection.sendall(head.encode() + b"\r\n" + content)
        return _read_response(connection)


def _read_response(connection: socket.socket) -> bytes:
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _receive(connection)
    assert received[_STATUS] in {b"200", b"201", b"204"}, received[:end]
    if received[_STATUS] == b"204":
        return b""
    length = _LENGTH.search(received, 0, end + 2)
    assert length is not None, received[:end]
    size = end + 4 + int(length[1])
    while len(received) < size:
        received += _receive(connection)
    return received[end + 4 :]


def _receive(connection: socket.socket) -> bytes:
    part = connection.recv(_READ_BYTES)
    assert part, "the service has hung up"
    return part
