"""One WebSocket: uvicorn's protocol on websockets' sans-IO core, with bounds where that has none.

Bounded are the messages that wait for the application, a client's pings, the fragments of a message, and the time that
a close may take. This module uses these hooks of the base class, all of them public: connection_lost, data_received,
handle_cont, handle_ping, handle_close, handle_parser_exception, keepalive_timeout, on_task_complete, send, receive,
shutdown.
tests/server/test_foreign_names.py checks them against the pinned uvicorn.
"""

import asyncio
import time
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close

from chat_service.server.balance import counts

FRAME_BYTES = 64 * 2**10
"""The longest message. A client that sends a longer one is closed with 1009 before it is read."""

PING_SECONDS = 20.0
"""Between two pings. Routers close a connection that is silent for 55 s."""

PONG_SECONDS = 30.0
"""For a client's pong. A client that sends none is gone, though its network did not say so. It would hold a lease."""

PINGS, PINGS_SECONDS = 50, 10.0
"""How many pings of a client are answered in how many seconds. Each pong waits in memory until it is read."""

FRAGMENTS = 1_024
"""The most fragments of one message. Empty ones cost memory, and no limit on bytes counts them."""

CLOSE_SECONDS = 2.0
"""For the client's half of the closing handshake. A live client answers within its round trip."""

LINGER_SECONDS = 1.0
"""After that, for what the client has not read yet, and for what it still sends: bytes that we do not read would reset
the connection before the client reads our close."""

POLICY_VIOLATION, TOO_BIG = 1008, 1009


class WebSocket(WebSocketsSansIOProtocol):
    """One WebSocket. Backpressure: while a message waits for the application, no further frame is parsed."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Begin as uvicorn does."""
        super().__init__(*arguments, **named)
        self.close_timeout = CLOSE_SECONDS
        self._received = bytearray()
        """Bytes that have arrived and are not parsed yet."""
        self._rest_of_frame = 0
        self._is_lingering = False
        self._pings, self._pings_since = 0, 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        counts.publish(len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Buffer what has arrived, and parse what may be parsed now."""
        if not self.handshake_initiated:
            super().data_received(data)
        elif not self._is_lingering:
            self._received += data
            self._parse_frames()

    def _parse_frames(self) -> None:
        """Parse one frame after the other, up to the next message for the application."""
        if not self.handshake_complete:
            if len(self._received) > FRAME_BYTES:  # from a client that does not wait for the response to its handshake
                self.transport.abort()
            return
        while self._received and not (self.read_paused or self._is_lingering or self.transport.is_closing()):
            size = self._rest_of_frame or _size_of_frame(self._received)
            if size is None:
                return
            part = bytes(self._received[:size])
            del self._received[:size]
            self._rest_of_frame = size - len(part)
            super().data_received(part)

    async def receive(self) -> Any:
        """Return the next message for the application, and parse on."""
        message = await super().receive()
        self._parse_frames()
        return message

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) >= FRAGMENTS:
            self._fail(TOO_BIG, "too_many_fragments")
        else:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        now = time.monotonic()
        if now - self._pings_since > PINGS_SECONDS:
            self._pings, self._pings_since = 0, now
        self._pings += 1
        if self._pings > PINGS:
            self._fail(POLICY_VIOLATION, "too_many_pings")
        else:
            super().handle_ping()

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Close the connection, because of what the client has sent."""
        if self.conn.close_sent is None or self.close_sent:
            self.transport.abort()  # it is being closed already, or there is nothing to say
        else:
            self._disconnect(self.conn.close_sent)

    def handle_close(self, event: Any) -> None:
        """Answer the client's close, or note the answer to ours."""
        if self.close_sent or self.conn.close_rcvd is None:
            super().handle_close(event)
        else:
            self._disconnect(self.conn.close_rcvd)

    def _disconnect(self, close: Close) -> None:
        """Tell application and client that the connection is closed; hang up once the application has released it."""
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self._is_lingering = True
        self._received.clear()
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_SECONDS + LINGER_SECONDS, self.transport.abort)

    def on_task_complete(self, task: "asyncio.Task[None]") -> None:
        """Hang up. The application has given up the presence, so a client that sees this can delete the chat."""
        super().on_task_complete(task)
        if self._is_lingering and not self.transport.is_closing():
            self.transport.write_eof()

    def keepalive_timeout(self) -> None:
        """Disconnect a client that has answered no ping, also one that does not even read the close."""
        super().keepalive_timeout()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    async def send(self, message: Any) -> None:
        """Send the application's message. A close goes out behind what waits, and ends in bounded time.

        Raises:
            ClientDisconnected: the client has disconnected, or is being closed.
        """
        if self._is_lingering:
            raise ClientDisconnected
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.writable.set()
            self.loop.call_later(CLOSE_SECONDS + LINGER_SECONDS, self.transport.abort)
        await super().send(message)
        if message["type"] == "websocket.accept":
            self.scope.clear()  # type: ignore[attr-defined]  # no longer needed: it would stay in memory for hours
            del self.request, self.response
            self._parse_frames()

    def shutdown(self) -> None:
        """Let the application close every WebSocket, because the process ends. It also gives up their presence."""
        self.app_state["drain"]()


def _size_of_frame(data: bytearray) -> int | None:
    """Return the size of the frame that `data` begins with, header included; None if the header is not complete yet.

    RFC 6455, section 5.2. websockets gets one frame at a time, and finds what is wrong with it.
    """
    if len(data) < 2:  # noqa: PLR2004 - the flags, and the length or its form
        return None
    length, mask = data[1] & 0x7F, 4 * (data[1] >> 7)
    extra = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + extra:
        return None
    return 2 + extra + mask + (int.from_bytes(data[2 : 2 + extra]) if extra else length)
