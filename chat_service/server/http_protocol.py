"""HTTP on one connection: uvicorn's protocol on httptools, with limits, refusals in the one shape, and a clean end.

What is not HTTP never becomes a request of the application, so it is answered here. The hooks of the base class that
are used (all of them public): connection_made, connection_lost, data_received, eof_received, pause_writing,
resume_writing, on_url, on_header, on_headers_complete, on_message_complete, on_response_complete, send_400_response,
handle_websocket_upgrade, shutdown, timeout_keep_alive_handler. tests/server/test_foreign_names.py holds them against
the pinned uvicorn.
"""

import array
import asyncio
import fcntl
import re
import termios
from asyncio import Transport
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chat_service.api.refusals import Header, refusal
from chat_service.server.balance import counts
from chat_service.server.bridge import HAS_NO_END
from chat_service.server.deadlines import TimeLimit
from chat_service.server.stand_ins import IdleTimers, ResponseWriter

TARGET_BYTES = 4_094
"""Of a request's target: many times what any of ours needs."""

HEAD_BYTES = 64 * 2**10
"""Of a whole head: it lies in memory before anybody is known to have a key."""

BODY_AHEAD_BYTES = 64 * 2**10
"""Of a body that may arrive before the application asks for it; no more is read from the connection until it does."""

LAST_REQUESTS_SECONDS = 1.0
"""For requests that are on their way when the worker is told to end; then idle connections are closed."""

VERSIONS = {"1.0", "1.1"}

_HEAD = TimeLimit(15.0)
"""For a request's head, from the first byte of the connection or after the answer before."""

READER_SECONDS = 60.0
"""For a reader to take most of the 64 KiB that wait for it; then it is hung up on, and what it holds is freed."""

REST_SECONDS = 30.0
"""For the rest of a body that was answered before it was read: many clients look for an answer only once they have sent
everything, and a connection that is closed before loses it for them. It is read, and thrown away."""

_REST = TimeLimit(REST_SECONDS)
_READER = TimeLimit(READER_SECONDS)

# RFC 9112, section 3.2.2: the scheme and the authority of a target in absolute form.
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)

# RFC 6455, section 4.1: 16 bytes in base64.
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class _RefusedError(Exception):
    """Ends the parsing of a head; why is noted in the protocol."""


class Http(HttpToolsProtocol):
    """One connection."""

    max_fields = 100
    max_field_bytes = 16 * 2**10
    """Of header fields, and of each with its name; the worker sets what gunicorn.conf.py says."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Begin as uvicorn does."""
        super().__init__(*arguments, **named)
        self.loop: Any = IdleTimers(self.loop)
        self._refused_with = 400
        self._head_bytes = 0
        self._is_in_body = False
        self._is_ending = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin; who sends no request in time is hung up on."""
        super().connection_made(transport)
        counts.publish(len(self.connections))
        _HEAD.start(self, transport.close)
        if counts.is_leaving:  # it was accepted in the last moment
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        counts.publish(len(self.connections))
        for limit in (_HEAD, _REST, _READER):
            limit.stop(self)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, within the limits of a head."""
        if not self._is_busy() and not self._is_in_body:
            self._head_bytes += len(data)
            _HEAD.start(self, self.transport.close)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._refused_with = 431 if self.headers else 414
            self.send_400_response("")

    def eof_received(self) -> bool:  # type: ignore[override]  # None in uvicorn, which is the same as False
        """Let a client that has sent a whole request, and says that it sends no more, have its answer, if that ends."""
        if self._is_busy() and not self.cycle.more_body and not self.scope.get(HAS_NO_END):
            self.cycle.keep_alive = False
            return True
        return False

    def _is_busy(self) -> bool:
        """Tell whether a request is being read or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > TARGET_BYTES:
            self._refuse(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= self.max_fields or len(name) + len(value) > self.max_field_bytes:
            self._refuse(431)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request. Of a large body nothing more is read before the application asks for it."""
        self._head_bytes = 0
        _HEAD.stop(self)
        self._check_head()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is before:  # it is a handshake
            return
        self._is_in_body = True
        has_body = self.scope["method"] != "HEAD"
        self.cycle.transport = ResponseWriter(self.transport, self._end, has_body=has_body)  # type: ignore[assignment]
        if self._is_ending:
            self.cycle.keep_alive = False
        if _may_be_long(self.headers):
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Take note that the whole request is there; where it was answered before, the next one may come now."""
        super().on_message_complete()
        was_answered = self._is_in_body and not self._is_busy()  # the rest of a handshake is no body
        self._is_in_body = False
        if was_answered:
            _REST.stop(self)
            if self.cycle.keep_alive:
                self._wait_for_next()
            else:
                self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_busy() or self.transport.is_closing():
            return
        if self._is_in_body:
            _REST.start(self, self.transport.close)
        if self._is_ending:
            self._close_soon()

    def _wait_for_next(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _end(self) -> None:
        """Close the connection after an answer, once everything is written and what is on its way has come."""
        if self._is_in_body and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _check_head(self) -> None:
        absolute = _ABSOLUTE.match(self.url)
        if absolute:
            rest = self.url[absolute.end() :]
            self.url = rest if rest.startswith(b"/") else b"/" + rest
        names = [name for name, _ in self.headers]
        version = self.parser.get_http_version()
        # RFC 9112, sections 3.2 and 6.1: chunks are of version 1.1, and a request has one Host.
        if version not in VERSIONS or names.count(b"host") > 1 or (version == "1.0" and b"transfer-encoding" in names):
            self._refuse(400)

    def _refuse(self, status: int) -> None:
        """Have the parser give up; `send_400_response` then answers with `status`."""
        self._refused_with = status
        raise _RefusedError

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; `msg` is not passed on, because it may quote it.

        What follows a good request is not answered before that is. What spoils a request that has begun ends it.
        """
        del msg
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (cycle.response_started or not cycle.more_body):
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        self._answer_and_close(self._refused_with)

    def _answer_and_close(self, status: int, *more: Header) -> None:
        if not self.transport.is_closing():
            self.transport.write(refusal(status, more))
            self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        """Go on as a WebSocket, if the handshake is one."""
        problem = _problem_of_handshake(self.scope["method"], dict(self.headers))
        if self._is_busy():
            self.send_400_response("")
        elif problem is not None:
            self._answer_and_close(*problem)
        else:
            _HEAD.stop(self)
            super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """Give the reader some time to take what waits."""
        super().pause_writing()
        _READER.start(self, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has taken most of it."""
        _READER.stop(self)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Hang up on an idle connection, unless something has come that may be a request, which must not be dropped."""
        if not _has_unread(self.transport):
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """End after the request in flight, or after one that is on its way.

        Whose answer has begun was not told that it is the last, and may send another request as soon as it has read it.
        """
        self._is_ending = True
        self.app_state["drain"]()
        if not self._is_busy():
            self._close_soon()
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False

    def _close_soon(self) -> None:
        asyncio.get_running_loop().call_later(LAST_REQUESTS_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._is_busy():
            return
        if _has_unread(self.transport):
            asyncio.get_running_loop().call_soon(self._close_if_idle)
        else:
            self.transport.close()


def _may_be_long(headers: list[tuple[bytes, bytes]]) -> bool:
    """Tell whether a body may be longer than what is read ahead."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) > BODY_AHEAD_BYTES
        if name == b"transfer-encoding":
            return True
    return False


def _problem_of_handshake(method: str, headers: dict[bytes, bytes]) -> tuple[int, *tuple[Header, ...]] | None:
    """Return the status, and further headers, with which to refuse a handshake that is none (RFC 6455, section 4.2)."""
    if method != "GET":
        return 405, ("Allow", "GET, HEAD, OPTIONS")
    if headers.get(b"sec-websocket-version") != b"13":
        return 426, ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")
    if not _WEBSOCKET_KEY.fullmatch(headers.get(b"sec-websocket-key", b"")):
        return (400,)
    return None


def _has_unread(transport: Transport) -> bool:
    """Tell whether bytes have arrived that the event loop has not come to."""
    size = array.array("i", [0])
    with suppress(AttributeError, OSError, ValueError):  # it is closed
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, size)
    return size[0] > 0
