"""What uvicorn's protocol is given in place of the event loop and the transport, for fewer turns and system calls."""

import asyncio
import math
from asyncio import Transport
from collections.abc import Callable

from chat_service.server.deadlines import TimeLimit

_CONTINUE = b"HTTP/1.1 100 "

_IDLE = TimeLimit(math.inf)


class IdleTimers:
    """What uvicorn's protocol uses of the event loop: its timer for an idle connection becomes an entry of one limit.

    A timer that is stopped with each request is one more turn of the loop, in which it takes the interpreter from the
    thread that has just begun to answer.
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
    """What an answer is written to: its head goes out with the first part of its body, in one packet.

    Each write is a system call here, and on the other side one more time that the client wakes up.
    """

    __slots__ = ("_end", "_head", "_transport")

    def __init__(self, transport: Transport, end: Callable[[], None], *, has_body: bool) -> None:
        """Write to `transport`; `end()` closes the connection."""
        self._transport = transport
        self._end = end
        self._head = None if has_body else b""

    def write(self, data: bytes) -> None:
        """Keep the head, and write it with what comes next."""
        if self._head is None and not data.startswith(_CONTINUE):
            self._head = data
            return
        if self._head:
            self._head, data = b"", self._head + data
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Tell whether the connection is being closed."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._transport.write(self._head or b"")
        self._end()
