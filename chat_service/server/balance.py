"""Connections are spread over the workers: one that holds more than another lets that one take the next.

All workers wait at one listening socket, and the kernel wakes them in a fixed order. Left alone, the first of them
takes every connection until it is too busy to, also the WebSockets that stay for hours (measured: 40 of 40).

Each worker writes how many connections it holds where all can see it. Whoever holds more than another looks away for a
moment. A connection that is still there afterwards is taken all the same, so a worker that hangs costs that moment and
nothing else.
"""

import asyncio
import errno
import mmap
import socket
from collections.abc import Callable
from typing import Any

import uvloop

SLOTS = 64
"""For workers at once: in a reload the old ones are there beside the new ones."""

MOMENT_SECONDS = 0.002
"""Long enough for another worker to wake up, and less than a request takes."""

SEND_BUFFER_BYTES = 128 * 2**10
"""In the kernel, which doubles it. Left alone it grows to 4 MiB: what a slow reader of an export still gets after its
chat was deleted, and memory that no limit of ours counts. 10 MB/s reach a reader that is 25 ms away."""

EXHAUSTED_SECONDS = 1.0
"""Until accepting is tried again after the process has run out of files."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_NOBODY = -1


class Counts:
    """How many connections each worker holds, shared with the master by memory."""

    def __init__(self) -> None:
        """Make the memory; in the master, before it forks."""
        self._counts = memoryview(mmap.mmap(-1, SLOTS * 4)).cast("i")
        for slot in range(SLOTS):
            self._counts[slot] = _NOBODY
        self._taken: set[int] = set()
        self.own: int | None = None
        """The slot of this process, if it is a worker that has one."""
        self.is_leaving = False

    def assign_slot(self) -> int | None:
        """Return a slot for a worker that is about to be forked; None if there is none left."""
        slot = next((slot for slot in range(SLOTS) if slot not in self._taken), None)
        if slot is not None:
            self._taken.add(slot)
        return slot

    def free_slot(self, slot: int | None) -> None:
        """Take note that the worker has ended, however it did."""
        if slot is not None:
            self._taken.discard(slot)
            self._counts[slot] = _NOBODY

    def publish(self, connections: int) -> None:
        """Let the other workers know how many connections this one holds, for as long as it takes new ones."""
        if self.own is not None and not self.is_leaving:
            self._counts[self.own] = connections

    def leave(self) -> None:
        """Take note that this worker takes no more connections."""
        self.publish(_NOBODY)
        self.is_leaving = True

    def is_fewest(self) -> bool:
        """Tell whether no worker holds fewer than this one."""
        mine = None if self.own is None else self._counts[self.own]
        return mine is None or all(count == _NOBODY or count >= mine for count in self._counts)


counts = Counts()
"""Of the workers of this master, which imports this before it forks."""


class Acceptor:
    """Takes connections from a listening socket, as a server of the loop does, but only when it is its turn."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, connect: Any, is_my_turn: Callable[[], bool]
    ) -> None:
        """Prepare to take from `listener`; `connect` is called with each connection."""
        self._loop = loop
        self._listener = listener
        self._connect = connect
        self._is_my_turn = is_my_turn
        self._later: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[Any]] = set()
        listener.setblocking(False)
        loop.add_reader(listener, self._look)

    def _look(self) -> None:
        if self._is_my_turn():
            self._accept()
        else:
            self._pause(MOMENT_SECONDS)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener, self._look)
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was quicker, or the client has left
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
        """Take no more."""
        counts.leave()
        if self._later is not None:
            self._later.cancel()
        else:
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Return at once: nothing is left to wait for."""


class Loop(uvloop.Loop):
    """uvloop's event loop, whose servers are acceptors."""

    async def create_server(  # type: ignore[override]  # the one way in which uvicorn calls it
        self, protocol: Any, *, sock: socket.socket, ssl: Any = None, **_: Any
    ) -> Acceptor:
        """Return what takes connections from `sock`, which listens already."""

        async def connect(connection: socket.socket) -> None:
            await self.connect_accepted_socket(protocol, connection, ssl=ssl)

        return Acceptor(self, sock, connect, counts.is_fewest)
