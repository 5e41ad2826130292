"""Bodies, read whole: within their size and their time, and within what all bodies together may take.

They are kept in memory; an import that is larger than other bodies may be goes into a file as it arrives.
"""

import asyncio
import io
import logging
import tempfile
import time
from collections import Counter, deque
from typing import BinaryIO

from chat_service.errors import UploadStorageError
from chat_service.server.bridge import Environ, Receive
from chat_service.server.deadlines import TimeLimit
from chat_service.server.threads import Threads

BODY_SECONDS = 60.0
BYTES_A_SECOND = 70_000
"""For a body to arrive, with its wait for room: a minute, or longer where it is so large that it needs this pace."""

ALL_BODIES_BYTES = 64 * 2**20
TENANT_BODIES_BYTES = 24 * 2**20
"""What the bodies under way in a process may take of the memory, and those of one tenant, from their first byte to
their answer. Backpressure: a sender beyond it is not read from until others are answered; its connection holds 64 KiB
meanwhile."""

ALL_UPLOADS, TENANT_UPLOADS = 8, 2
"""How many of the largest uploads may lie on the disk at once, of a process and of a tenant. Backpressure likewise."""

UPLOADS = "/api/v1/chats/import"
"""Whose bodies have a limit of their own."""

_log = logging.getLogger(__name__)


class Budget:
    """What is left for bodies, in memory or on the disk, shared out by tenant; used by one event loop."""

    def __init__(self, total: int, share: int) -> None:
        """Hold up to `total` bytes at once, and up to `share` of one tenant."""
        self._total = total
        self._share = share
        self._taken: Counter[str] = Counter()
        self._waiting: deque[tuple[str, int, asyncio.Future[None]]] = deque()

    async def reserve(self, tenant_id: str, size: int) -> None:
        """Wait until the tenant may have `size` bytes, and take them. One that holds none need not wait for itself."""
        if self._fits(tenant_id, size):
            self._taken[tenant_id] += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tenant_id, size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(tenant_id, size)
            raise

    def release(self, tenant_id: str, size: int) -> None:
        """Return what was taken, and let those have it who have waited longest."""
        self._taken[tenant_id] -= size
        self._taken = +self._taken
        still = deque[tuple[str, int, asyncio.Future[None]]]()
        for owner, wish, turn in self._waiting:
            if turn.done():  # its client has left
                continue
            if self._fits(owner, wish):
                self._taken[owner] += wish
                turn.set_result(None)
            else:
                still.append((owner, wish, turn))
        self._waiting = still

    def _fits(self, tenant_id: str, size: int) -> bool:
        own, all_of_them = self._taken[tenant_id], self._taken.total()
        return (not own or own + size <= self._share) and (not all_of_them or all_of_them + size <= self._total)


class _Body:
    """A body, from the first byte that is read of it until its request is answered.

    A class, because a generator would be entered in a register of the event loop and taken out again with each request.
    """

    __slots__ = ("_bodies", "_file", "_is_upload", "_limit", "_receive", "_room", "_size", "_tenant_id", "seconds")

    def __init__(self, bodies: "Bodies", receive: Receive, tenant_id: str, size: int, limit: int) -> None:
        self._bodies = bodies
        self._receive = receive
        self._tenant_id = tenant_id
        self._size = size
        self._limit = limit
        self._is_upload = size > bodies.max_bytes
        """Whether it is too large for the memory, and goes into a file."""
        self._room = bodies.disk if self._is_upload else bodies.memory
        self._file: BinaryIO | None = None
        self.seconds = 0.0
        """How long it took to arrive, once there was room for it."""

    async def __aenter__(self) -> BinaryIO | None:
        """Read it; return None if it was cut off.

        Raises:
            TimeoutError: it did not arrive in time.
            UploadStorageError: there was no place to keep it.
        """
        if not self._size:
            return io.BytesIO()
        return await self._bodies.limit.wait_for(self._arrive(), max(BODY_SECONDS, self._size / BYTES_A_SECOND))

    async def _arrive(self) -> BinaryIO | None:
        await self._room.reserve(self._tenant_id, self._size)
        began = time.monotonic()
        try:
            return await self._read()
        except BaseException:
            self._leave()
            raise
        finally:
            self.seconds = time.monotonic() - began

    async def _read(self) -> BinaryIO | None:
        try:
            file = await self._bodies.threads.run(_new_file) if self._is_upload else io.BytesIO()
            self._file = file
            received = 0
            while received <= self._limit:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                received += len(part)
                if self._is_upload:  # a disk that hangs must not hold up the event loop
                    await self._bodies.threads.run(file.write, part)
                else:
                    file.write(part)
                if not message.get("more_body", False):
                    break
        except OSError as error:
            # Not where: to ask for the folder fails where there is none that can be written.
            _log.error("A body could not be kept in TMPDIR: %s", error.strerror)
            raise UploadStorageError from error
        return file

    async def __aexit__(self, *_: object) -> None:
        if self._size:
            self._leave()

    def _leave(self) -> None:
        self._room.release(self._tenant_id, self._size)
        if self._file is not None:
            self._file.close()


def _new_file() -> BinaryIO:
    """Return a file that nobody else sees, and that is gone with the process whatever ends it."""
    return tempfile.TemporaryFile()


class Bodies:
    """Reads the bodies of requests."""

    def __init__(self, max_bytes: int, max_upload_bytes: int) -> None:
        """Read bodies of up to `max_bytes` bytes, and uploads of up to `max_upload_bytes`."""
        self.max_bytes = max_bytes
        self._max_upload_bytes = max_upload_bytes
        self.memory = Budget(ALL_BODIES_BYTES, TENANT_BODIES_BYTES)
        self.disk = Budget(ALL_UPLOADS * max_upload_bytes, TENANT_UPLOADS * max_upload_bytes)
        self.limit = TimeLimit(BODY_SECONDS)
        self.threads = Threads(2, "upload")

    def read(self, environ: Environ, receive: Receive, tenant_id: str) -> _Body:
        """Return the body, to be entered while its request is answered.

        Of one that is too large nothing is read, or one byte too many where its size was not known: the application
        refuses it by its Content-Length.
        """
        limit = self._max_upload_bytes if environ["PATH_INFO"] == UPLOADS else self.max_bytes
        size = length_of(environ)
        if size is None:
            size = limit
        elif size > limit:
            size = 0
        return _Body(self, receive, tenant_id, size, limit)


def length_of(environ: Environ) -> int | None:
    """Return how long a request's body is by its head, None if that does not say."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    return int(environ.get("CONTENT_LENGTH", 0))


def attach(environ: Environ, body: BinaryIO) -> int:
    """Give a request its body, with a Content-Length that is true, whatever framing it came in; return that."""
    size = body.seek(0, io.SEEK_END)
    body.seek(0)
    environ["wsgi.input"] = body
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        del environ["HTTP_TRANSFER_ENCODING"]
        environ["CONTENT_LENGTH"] = str(size)
    return size
