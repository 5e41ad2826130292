"""A receiver of webhooks that behaves as it is told."""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self


@dataclass
class Message:
    """What has arrived."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[["_Handler"], None]


def status(code: int, **headers: str) -> Answer:
    """Answer with a status, and nothing else."""

    def answer(handler: "_Handler") -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hang(handler: "_Handler") -> None:
    """Say nothing."""
    handler.receiver.over.wait(60)


def drip(handler: "_Handler") -> None:
    """Answer byte by byte, and never be done."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
        if handler.receiver.over.wait(0.2):
            return
        handler.wfile.write(bytes([byte]))


def hang_up(handler: "_Handler") -> None:
    """Close the connection without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def flood(handler: "_Handler") -> None:
    """Answer 200 with a body that has no end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not handler.receiver.over.is_set():
        handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def receiver(self) -> "Receiver":
        found: Receiver = self.server.receiver  # type: ignore[attr-defined]
        return found

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.receiver.take(Message(dict(self.headers), body))
        try:
            self.receiver.answer(self)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 500


@dataclass
class Receiver:
    """Listens on loopback while the block runs."""

    answer: Answer = field(default_factory=lambda: status(204))
    messages: list[Message] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.receiver = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def take(self, message: Message) -> None:
        self.messages.append(message)

    def wait_for(self, number: int, seconds: float = 30.0) -> list[Message]:
        until = time.monotonic() + seconds
        while len(self.messages) < number:
            assert time.monotonic() < until, f"{len(self.messages)} of {number} messages"
            time.sleep(0.02)
        return self.messages
