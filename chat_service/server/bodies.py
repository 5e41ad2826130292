"""Reads request bodies whole, within limits on their size, on their time, and on all bodies together.

Bodies are kept in memory. An import that is larger than other bodies may be goes into a file as it arrives.
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
"""How long a body may take to arrive, its wait for room included: a minute, or longer if this rate gives it more."""

ALL_BODIES_BYTES = 64 * 2**20
TENANT_BODIES_BYTES = 24 * 2**20
"""Memory for all bodies in a process, and for those of one tenant, from their first byte to their response.
Backpressure: beyond it, a sender is not read from until others are answered; its connection holds 64 KiB meanwhile."""

ALL_UPLOADS, TENANT_UPLOADS = 8, 2
"""Uploads of the largest size that may be on the disk at once, in a process and of a tenant. Backpressure as above."""

IMPORT_PATH = "/api/v1/chats/import"
"""The path whose bodies have a limit of their own."""

_log = logging.getLogger(__name__)


class Budget:
    """Bytes for bodies, in memory or on the disk, shared between the tenants. Only one event loop uses it."""

    def __init__(self, total: int, share: int) -> None:
        """Allow `total` bytes at once, and `share` of them to one tenant."""
        self._total = total
        self._share = share
        self._reserved: Counter[str] = Counter()
        self._waiting: deque[tuple[str, int, asyncio.Future[None]]] = deque()

    async def reserve(self, tenant_id: str, size: int) -> None:
        """Wait until the tenant may have `size` more bytes, and reserve them. Its first may be more than its share."""
        if self._fits(tenant_id, size):
            self._reserved[tenant_id] += size
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
        """Give bytes back, and reserve them for those that have waited longest."""
        self._reserved[tenant_id] -= size
        self._reserved = +self._reserved
        still_waiting = deque[tuple[str, int, asyncio.Future[None]]]()
        for waiting_tenant_id, waiting_size, turn in self._waiting:
            if turn.done():  # its client has disconnected
                continue
            if self._fits(waiting_tenant_id, waiting_size):
                self._reserved[waiting_tenant_id] += waiting_size
                turn.set_result(None)
            else:
                still_waiting.append((waiting_tenant_id, waiting_size, turn))
        self._waiting = still_waiting

    def _fits(self, tenant_id: str, size: int) -> bool:
        own_bytes, all_bytes = self._reserved[tenant_id], self._reserved.total()
        return (not own_bytes or own_bytes + size <= self._share) and (not all_bytes or all_bytes + size <= self._total)


class _Body:
    """A body, from the first byte that is read of it until its request is answered.

    It is a class, because the event loop would register and unregister a generator with each request.
    """

    __slots__ = ("_bodies", "_budget", "_file", "_is_upload", "_limit", "_receive", "_size", "_tenant_id", "seconds")

    def __init__(self, bodies: "Bodies", receive: Receive, tenant_id: str, size: int, limit: int) -> None:
        self._bodies = bodies
        self._receive = receive
        self._tenant_id = tenant_id
        self._size = size
        self._limit = limit
        self._is_upload = size > bodies.max_bytes
        """Whether the body is too large for the memory, and goes into a file."""
        self._budget = bodies.disk if self._is_upload else bodies.memory
        self._file: BinaryIO | None = None
        self.seconds = 0.0
        """How long the body took to arrive, once there was room for it."""

    async def __aenter__(self) -> BinaryIO | None:
        """Read the body; return None if the client disconnected before its end.

        Raises:
            TimeoutError: the body did not arrive in time.
            UploadStorageError: it could not be stored.
        """
        if not self._size:
            return io.BytesIO()
        return await self._bodies.limit.wait_for(self._arrive(), max(BODY_SECONDS, self._size / BYTES_A_SECOND))

    async def _arrive(self) -> BinaryIO | None:
        await self._budget.reserve(self._tenant_id, self._size)
        began = time.monotonic()
        try:
            return await self._read()
        except BaseException:
            self._free()
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
            # The folder is not logged: asking for it fails where no folder can be written.
            _log.error("A request body could not be written to TMPDIR: %s", error.strerror)
            raise UploadStorageError from error
        return file

    async def __aexit__(self, *_: object) -> None:
        if self._size:
            self._free()

    def _free(self) -> None:
        self._budget.release(self._tenant_id, self._size)
        if self._file is not None:
            self._file.close()


def _new_file() -> BinaryIO:
    """Return a file that no other process sees, and that is gone with this process, however it ends."""
    return tempfile.TemporaryFile()


class Bodies:
    """Reads the bodies of requests."""

    def __init__(self, max_bytes: int, max_upload_bytes: int) -> None:
        """Read bodies of up to `max_bytes`, and uploads of up to `max_upload_bytes`."""
        self.max_bytes = max_bytes
        self._max_upload_bytes = max_upload_bytes
        self.memory = Budget(ALL_BODIES_BYTES, TENANT_BODIES_BYTES)
        self.disk = Budget(ALL_UPLOADS * max_upload_bytes, TENANT_UPLOADS * max_upload_bytes)
        self.limit = TimeLimit(BODY_SECONDS)
        self.threads = Threads(2, "upload")

    def read(self, environ: Environ, receive: Receive, tenant_id: str) -> _Body:
        """Return the body, a context manager to be held while its request is answered.

        Nothing is read of a body that is too large, or just more than the limit if its size was not known. The
        application refuses it by its Content-Length.
        """
        limit = self._max_upload_bytes if environ["PATH_INFO"] == IMPORT_PATH else self.max_bytes
        size = length_of(environ)
        if size is None:
            size = limit
        elif size > limit:
            size = 0
        return _Body(self, receive, tenant_id, size, limit)


def length_of(environ: Environ) -> int | None:
    """Return the length of a request's body according to its head; None if the head does not say."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    return int(environ.get("CONTENT_LENGTH", 0))


def attach(environ: Environ, body: BinaryIO) -> int:
    """Attach the body to its request, with a true Content-Length also if it came in chunks; return its size."""
    size = body.seek(0, io.SEEK_END)
    body.seek(0)
    environ["wsgi.input"] = body
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        del environ["HTTP_TRANSFER_ENCODING"]
        environ["CONTENT_LENGTH"] = str(size)
    return size
