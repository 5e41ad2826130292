"""A receiver of webhooks that answers in the way that the test sets."""

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
    """A message that has arrived."""

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
    """Return an answer with this status and these headers, and without a body."""

    def answer(handler: "_Handler") -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hang(handler: "_Handler") -> None:
    """Do not answer for up to a minute."""
    handler.receiver.stopped.wait(60)


def drip(handler: "_Handler") -> None:
    """Answer one byte at a time, and do not finish."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
        if handler.receiver.stopped.wait(0.2):
            return
        handler.wfile.write(bytes([byte]))


def hang_up(handler: "_Handler") -> None:
    """Close the connection without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def flood(handler: "_Handler") -> None:
    """Answer 200 with a body that has no end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not handler.receiver.stopped.is_set():
        handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def receiver(self) -> "Receiver":
        owner: Receiver = self.server.receiver  # type: ignore[attr-defined]
        return owner

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.receiver.record(Message(dict(self.headers), body))
        try:
            self.receiver.answer(self)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 500


@dataclass
class Receiver:
    """Listens on loopback while the block runs."""

    answer: Answer = field(default_factory=lambda: status(204))
    messages: list[Message] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.receiver = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def record(self, message: Message) -> None:
        self.messages.append(message)

    def wait_for(self, number: int, seconds: float = 30.0) -> list[Message]:
        deadline = time.monotonic() + seconds
        while len(self.messages) < number:
            assert time.monotonic() < deadline, f"{len(self.messages)} of {number} messages"
            time.sleep(0.02)
        return self.messages
