"""Stand-ins for the event loop and transport of uvicorn's protocol. They save turns of the loop and system calls."""

import asyncio
import math
from asyncio import Transport
from collections.abc import Callable

from chat_service.server.deadlines import TimeLimit

_CONTINUE = b"HTTP/1.1 100 "

_IDLE = TimeLimit(math.inf)


class IdleTimers:
    """What uvicorn's protocol uses of the event loop. All idle connections share one `TimeLimit` instead of timers.

    A timer that is stopped with each request costs one more turn of the loop, and the loop takes the interpreter from
    the thread that has just begun to answer.
    """

    __slots__ = ("create_task",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.create_task = loop.create_task

    def call_later(self, seconds: float, on_idle: Callable[[], object]) -> "IdleTimers":
        """Call `on_idle()` later, unless this is cancelled before."""
        _IDLE.start(self, on_idle, seconds)
        return self

    def cancel(self) -> None:
        _IDLE.stop(self)


class ResponseWriter:
    """What a response is written to. It sends the head with the first part of the body, in one packet.

    Each write would be a system call here, and would wake the client once more.
    """

    __slots__ = ("_close", "_head", "_transport")

    def __init__(self, transport: Transport, end: Callable[[], None], *, has_body: bool) -> None:
        """Write to `transport`; `end()` closes the connection."""
        self._transport = transport
        self._close = end
        self._head = None if has_body else b""

    def write(self, data: bytes) -> None:
        """Keep the head, and write it with the data that comes next."""
        if self._head is None and not data.startswith(_CONTINUE):
            self._head = data
            return
        if self._head:
            self._head, data = b"", self._head + data
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Return whether the connection is being closed."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._transport.write(self._head or b"")
        self._close()
