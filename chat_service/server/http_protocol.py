"""HTTP on one connection: uvicorn's protocol on httptools, with limits, uniform refusals, and a clean end.

What is not HTTP never becomes a request of the application, so it is answered here. This module uses these hooks of the
base class, all of them public: connection_made, connection_lost, data_received, eof_received, pause_writing,
resume_writing, on_url, on_header, on_headers_complete, on_message_complete, on_response_complete, send_400_response,
handle_websocket_upgrade, shutdown, timeout_keep_alive_handler. tests/server/test_foreign_names.py checks them against
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
"""The longest target of a request: many times what any of ours needs."""

HEAD_BYTES = 64 * 2**10
"""The longest head. It is in memory before the caller's key is checked."""

BODY_AHEAD_BYTES = 64 * 2**10
"""How much of a body is read before the application asks for it. Until then, the connection is not read further."""

LAST_REQUESTS_SECONDS = 1.0
"""For requests that are on their way when the worker is told to end. Then idle connections are closed."""

VERSIONS = {"1.0", "1.1"}

_HEAD_LIMIT = TimeLimit(15.0)
"""For a request's head, from the start of the connection, or from the first byte after the previous response."""

READER_SECONDS = 60.0
"""For a reader to take most of the 64 KiB that wait for it. Then the connection is aborted, and its memory freed."""

REST_SECONDS = 30.0
"""For the rest of a body whose response came before its end. It is read and thrown away: many clients read the response
only when they have sent everything, and would lose it with a connection that was closed before."""

_REST_LIMIT = TimeLimit(REST_SECONDS)
_READER_LIMIT = TimeLimit(READER_SECONDS)

# RFC 9112, section 3.2.2: the scheme and the authority of a target in absolute form.
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)

# RFC 6455, section 4.1: 16 bytes in base64.
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class _RefusedError(Exception):
    """Ends the parsing of a head. The protocol has noted the status to answer with."""


class Http(HttpToolsProtocol):
    """One HTTP connection."""

    max_fields = 100
    max_field_bytes = 16 * 2**10
    """Of header fields, and of one with its name. The worker sets what gunicorn.conf.py says."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Begin as uvicorn does, but with `IdleTimers` for the idle timeout."""
        super().__init__(*arguments, **named)
        self.loop: Any = IdleTimers(self.loop)
        self._refused_with = 400
        self._head_bytes = 0
        self._is_in_body = False
        self._is_ending = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin. A client that sends no request in time is disconnected."""
        super().connection_made(transport)
        counts.publish(len(self.connections))
        _HEAD_LIMIT.start(self, transport.close)
        if counts.is_leaving:  # it was accepted just before the worker stopped accepting
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        counts.publish(len(self.connections))
        for limit in (_HEAD_LIMIT, _REST_LIMIT, _READER_LIMIT):
            limit.stop(self)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, within the limits of a head."""
        if not self._is_busy() and not self._is_in_body:
            self._head_bytes += len(data)
            _HEAD_LIMIT.start(self, self.transport.close)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._refused_with = 431 if self.headers else 414
            self.send_400_response("")

    def eof_received(self) -> bool:  # type: ignore[override]  # None in uvicorn, which is the same as False
        """Let a client that has sent a whole request and closed its side have the response, unless that is endless."""
        if self._is_busy() and not self.cycle.more_body and not self.scope.get(HAS_NO_END):
            self.cycle.keep_alive = False
            return True
        return False

    def _is_busy(self) -> bool:
        """Return whether a request is being read or answered."""
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
        """Begin the request. A large body is not read further before the application asks for it."""
        self._head_bytes = 0
        _HEAD_LIMIT.stop(self)
        self._check_head()
        previous_cycle = self.cycle
        super().on_headers_complete()
        if self.cycle is previous_cycle:  # it is a handshake of a WebSocket
            return
        self._is_in_body = True
        has_body = self.scope["method"] != "HEAD"
        self.cycle.transport = ResponseWriter(self.transport, self._end, has_body=has_body)  # type: ignore[assignment]
        if self._is_ending:
            self.cycle.keep_alive = False
        if _may_be_long(self.headers):
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Note that the whole request has arrived. If it was answered before that, the next one may come now."""
        super().on_message_complete()
        was_answered = self._is_in_body and not self._is_busy()  # the rest of a handshake is no body
        self._is_in_body = False
        if was_answered:
            _REST_LIMIT.stop(self)
            if self.cycle.keep_alive:
                self._wait_for_next()
            else:
                self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_busy() or self.transport.is_closing():
            return
        if self._is_in_body:
            _REST_LIMIT.start(self, self.transport.close)
        if self._is_ending:
            self._close_soon()

    def _wait_for_next(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _end(self) -> None:
        """Close the connection after a response; if the request is still arriving, only our side of it."""
        if self._is_in_body and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _check_head(self) -> None:
        scheme_and_authority = _ABSOLUTE.match(self.url)
        if scheme_and_authority:
            rest = self.url[scheme_and_authority.end() :]
            self.url = rest if rest.startswith(b"/") else b"/" + rest
        names = [name for name, _ in self.headers]
        version = self.parser.get_http_version()
        # RFC 9112, sections 3.2 and 6.1: chunks are of version 1.1, and a request has one Host.
        if version not in VERSIONS or names.count(b"host") > 1 or (version == "1.0" and b"transfer-encoding" in names):
            self._refuse(400)

    def _refuse(self, status: int) -> None:
        """Stop the parser; `send_400_response` then answers with `status`."""
        self._refused_with = status
        raise _RefusedError

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not a request. `msg` is not passed on, because it may quote what was sent.

        While a good request is being answered, its response is finished, and the connection is closed after it. Bytes
        that make the body of a request invalid before its response has begun end that request.
        """
        del msg
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (cycle.response_started or not cycle.more_body):
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        self._answer_and_close(self._refused_with)

    def _answer_and_close(self, status: int, *headers: Header) -> None:
        if not self.transport.is_closing():
            self.transport.write(refusal(status, headers))
            self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        """Continue as a WebSocket, if the handshake is valid."""
        problem = _problem_of_handshake(self.scope["method"], dict(self.headers))
        if self._is_busy():
            self.send_400_response("")
        elif problem is not None:
            self._answer_and_close(*problem)
        else:
            _HEAD_LIMIT.stop(self)
            super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """Start the time in which the reader has to take what waits."""
        super().pause_writing()
        _READER_LIMIT.start(self, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue: the reader has taken most of it."""
        _READER_LIMIT.stop(self)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless bytes have arrived: they may be a request, which must not be dropped."""
        if not _has_unread(self.transport):
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """End after the request in flight, or after one that is on its way.

        A client whose response has begun was not told that it is the last, and may send another request after it.
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
    """Return whether the body may be longer than what is read ahead."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) > BODY_AHEAD_BYTES
        if name == b"transfer-encoding":
            return True
    return False


def _problem_of_handshake(method: str, headers: dict[bytes, bytes]) -> tuple[int, *tuple[Header, ...]] | None:
    """Return the status and headers to refuse an invalid handshake with (RFC 6455, section 4.2), or None."""
    if method != "GET":
        return 405, ("Allow", "GET, HEAD, OPTIONS")
    if headers.get(b"sec-websocket-version") != b"13":
        return 426, ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")
    if not _WEBSOCKET_KEY.fullmatch(headers.get(b"sec-websocket-key", b"")):
        return (400,)
    return None


def _has_unread(transport: Transport) -> bool:
    """Return whether bytes have arrived that the event loop has not read yet."""
    size = array.array("i", [0])
    with suppress(AttributeError, OSError, ValueError):  # it is closed
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, size)
    return size[0] > 0
