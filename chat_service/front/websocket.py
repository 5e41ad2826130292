"""gunicorn's WebSocket, with what it leaves open: pings, limits, refusals in our error shape, and an end in any case.

It is replaced by name in front/worker.py, like the protocol around it; tests hold it against the pinned gunicorn.
"""

import asyncio
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from gunicorn.asgi import websocket

from chat_service.api import problems
from chat_service.front.refusal import refusal
from chat_service.front.waiting import Flag, Mailbox
from chat_service.telemetry.request_ids import new_request_id

PING_SECONDS = 20.0
"""Between two pings: routers hang up on a connection that is silent for 55 s."""

SILENT_SECONDS = 50.0
"""A client that answered no ping for so long is gone, though its network did not say so. It would hold a lease."""

PINGS_MOST, PINGS_SECONDS = 50, 10.0
"""How many pings of a client are answered in so many seconds: each answer waits in memory until it is read."""

FRAGMENTS_MOST = 1_024
"""Of one message: empty ones cost memory, and no limit on its bytes counts them."""

CLOSE_SECONDS = 2.0
"""For the client's half of the closing handshake. A client that is there answers in its round trip."""

LINGER_SECONDS = 1.0
"""After the closing handshake, or after it was waited for in vain, for what the client has not read yet."""

UNREAD_BYTES = 2**20
"""More than the largest frame: so much waits only for a client that reads nothing but makes us answer its pings."""

QUEUE_MOST = 2
"""Messages that wait for the application: each may have 64 KiB, and a post takes its time when the database does."""

POLICY_VIOLATION = 1008


class WebSocket(websocket.WebSocketProtocol):  # type: ignore[misc]  # gunicorn ships no types
    """One WebSocket."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Begin, with ASGI's extension for a refusal that has a body."""
        super().__init__(*arguments, **named)
        self._close_event, self._queue_space, self._data_event = Flag(), Flag(), Flag()
        self._queue_space.set()
        self._receive_queue = Mailbox()
        self.scope["extensions"] = {"websocket.http.response": {}}
        self._denied: bool
        self._heard_at = self._pinged_at = time.monotonic()
        self._pings = 0
        self._pings_since = 0.0

    async def run(self) -> None:
        """Run to the end, and a little longer: bytes that nobody read would reset the connection under our close."""
        await super().run()
        if self.accepted and not self.transport.is_closing():
            self._buffer.clear()
            self._resume_reading()
            self._data_event.clear()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._data_event.wait(), LINGER_SECONDS)

    def feed_data(self, data: bytes) -> None:
        """Take what has arrived; after the end it is of no interest, and would only lie in memory."""
        self._heard_at = time.monotonic()
        if not self.closed:
            super().feed_data(data)

    def feed_eof(self) -> None:
        """Take note that the connection is gone: nothing more comes, also no answer to a close."""
        super().feed_eof()
        self._close_event.set()

    def ping(self, now: float) -> None:
        """Ping the client if it is time to; hang up on one that has answered none. `now` is of the monotonic clock."""
        if not self.accepted or self.closed:
            return
        if now - self._heard_at > SILENT_SECONDS or self.transport.get_write_buffer_size() > UNREAD_BYTES:
            self.transport.abort()
        elif now - self._pinged_at >= PING_SECONDS:
            self._pinged_at = now
            self.transport.write(b"\x89\x00")

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if self._eof or self.transport.is_closing():
            raise websocket.WebSocketDisconnected
        match message["type"]:
            case "websocket.http.response.start":
                # ASGI's extension for a refusal with a status; the body is always the problem of that status.
                self._deny(message["status"], "")
            case "websocket.http.response.body":
                pass
            case "websocket.accept":
                await super()._send(message)
                self.scope.clear()  # what was asked is answered, and would lie in memory for hours
            case "websocket.send" if self.accepted:
                await self._drain()
                if self.closed or self._close_sent or self._eof:
                    raise websocket.WebSocketDisconnected
                await self._send_frame(websocket.OPCODE_TEXT, message["text"])
            case "websocket.close" if self.accepted:
                await self._close(message["code"], message["reason"])
            case _:
                await super()._send(message)

    async def _close(self, code: int, reason: str) -> None:
        """Close in both directions, in bounded time also if the client answers nothing or reads nothing."""
        await self._send_close(code, reason)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._close_event.wait(), CLOSE_SECONDS)
        self.closed = True
        self._close_event.set()
        self.transport.close()
        # A reader that takes nothing would keep what waits for it, and its lease, for ever.
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)

    def _deny(self, status: int, reason: str) -> None:
        """Answer the handshake with a problem instead of an empty body."""
        del reason
        if not self._denied:
            self._denied = self.closed = True
            self._close_event.set()
            self.transport.write(refusal(problems.HTTP.get(status, problems.INTERNAL), new_request_id()))
            self.transport.close()

    async def _send_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == websocket.OPCODE_PONG and not self._may_ping(time.monotonic()):
            await self._send_close(POLICY_VIOLATION, "too_many_pings")
            self._eof = True
            return
        await super()._send_frame(opcode, payload)

    def _may_ping(self, now: float) -> bool:
        if now - self._pings_since > PINGS_SECONDS:
            self._pings, self._pings_since = 0, now
        self._pings += 1
        return self._pings <= PINGS_MOST

    async def _read_frame(self) -> Any:
        frame = await super()._read_frame()
        if len(self._fragments) > FRAGMENTS_MOST:
            await self._send_close(websocket.CLOSE_MESSAGE_TOO_BIG, "too_many_fragments")
            return None
        return frame

    def _unmask(self, payload: bytes, masking_key: bytes) -> bytes:
        """Return what the client meant; at once, where gunicorn goes byte by byte (5 ms for 64 KiB)."""
        size = len(payload)
        mask = (masking_key * (size // 4 + 1))[:size]
        return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)
