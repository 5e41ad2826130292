"""Spreads connections over the workers: a worker that holds more than another leaves the next connection to that one.

All workers wait on one listening socket, and the kernel wakes them in a fixed order. Without this module, the first of
them accepts every connection until it is too busy to, also the WebSockets that stay for hours (measured: 40 of 40).

Each worker writes how many connections it holds into memory that all workers share. A worker that holds more than
another one waits for a moment before it accepts. It accepts a connection that is still there afterwards, so a worker
that hangs costs that moment and nothing else.
"""

import asyncio
import errno
import mmap
import socket
from collections.abc import Callable
from typing import Any

import uvloop

SLOTS = 64
"""How many workers there may be at once: during a reload, the old ones and the new ones."""

YIELD_SECONDS = 0.002
"""How long a worker waits before it accepts: another worker can wake up in this time, and a request takes longer."""

SEND_BUFFER_BYTES = 128 * 2**10
"""Of a connection, in the kernel, which doubles it. By default it grows to 4 MiB: so much of an export would still
reach a slow reader after the chat was deleted, and no limit of ours counts this memory. With this size, 10 MB/s reach
a reader that is 25 ms away."""

EXHAUSTED_SECONDS = 1.0
"""Until accepting is tried again after the process has run out of file descriptors or memory."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_NOT_ACCEPTING = -1


class Counts:
    """How many connections each worker holds, in memory that the workers and the master share."""

    def __init__(self) -> None:
        """Allocate the memory; the master does that before it forks."""
        self._counts = memoryview(mmap.mmap(-1, SLOTS * 4)).cast("i")
        for slot in range(SLOTS):
            self._counts[slot] = _NOT_ACCEPTING
        self._assigned: set[int] = set()
        self.own: int | None = None
        """The slot of this process, if it is a worker that has one."""
        self.is_leaving = False

    def assign_slot(self) -> int | None:
        """Return a free slot for a worker that is about to be forked; None if there is none left."""
        slot = next((slot for slot in range(SLOTS) if slot not in self._assigned), None)
        if slot is not None:
            self._assigned.add(slot)
        return slot

    def free_slot(self, slot: int | None) -> None:
        """Free the slot of a worker that has ended, however it ended."""
        if slot is not None:
            self._assigned.discard(slot)
            self._counts[slot] = _NOT_ACCEPTING

    def publish(self, connections: int) -> None:
        """Tell the other workers how many connections this one holds, as long as it accepts new ones."""
        if self.own is not None and not self.is_leaving:
            self._counts[self.own] = connections

    def leave(self) -> None:
        """Note that this worker accepts no more connections."""
        self.publish(_NOT_ACCEPTING)
        self.is_leaving = True

    def is_fewest(self) -> bool:
        """Return whether no worker that accepts connections holds fewer than this one."""
        mine = None if self.own is None else self._counts[self.own]
        return mine is None or all(count == _NOT_ACCEPTING or count >= mine for count in self._counts)


counts = Counts()
"""The counts of this master's workers. The master imports this module before it forks."""


class Acceptor:
    """Accepts connections from a listening socket, as a server of the loop does, but only in this worker's turn."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, connect: Any, is_my_turn: Callable[[], bool]
    ) -> None:
        """Accept from `listener` from now on; `connect` is called with each connection."""
        self._loop = loop
        self._listener = listener
        self._connect = connect
        self._is_my_turn = is_my_turn
        self._resume_timer: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[Any]] = set()
        listener.setblocking(False)
        loop.add_reader(listener, self._on_readable)

    def _on_readable(self) -> None:
        if self._is_my_turn():
            self._accept()
        else:
            self._pause(YIELD_SECONDS)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._resume_timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._resume_timer = None
        self._loop.add_reader(self._listener, self._on_readable)
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was quicker, or the client has disconnected
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._pause(EXHAUSTED_SECONDS)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def close(self) -> None:
        """Accept no more connections."""
        counts.leave()
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        else:
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Return at once: there is nothing to wait for."""


class Loop(uvloop.Loop):
    """uvloop's event loop, with an `Acceptor` for each server."""

    async def create_server(  # type: ignore[override]  # the one way in which uvicorn calls it
        self, protocol: Any, *, sock: socket.socket, ssl: Any = None, **_: Any
    ) -> Acceptor:
        """Return an acceptor for `sock`, which listens already."""

        async def connect(connection: socket.socket) -> None:
            await self.connect_accepted_socket(protocol, connection, ssl=ssl)

        return Acceptor(self, sock, connect, counts.is_fewest)
