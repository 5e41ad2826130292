"""Bodies, read whole: within their size and their time, and within what all bodies together may take of the memory."""

import asyncio
import io
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import partial

from chat_service.server.bridge import Environ, Receive
from chat_service.server.deadlines import TimeLimit

BODY_SECONDS = 60.0
"""For a body to arrive, with its wait for memory: the largest that is read by default needs 70 KB/s."""

ALL_BODIES_BYTES = 64 * 2**20
TENANT_BODIES_BYTES = 24 * 2**20
"""What the bodies under way in a process may take, and those of one tenant, from their first byte to their answer.
Backpressure: a sender beyond it is not read from until others are answered; its connection holds 64 KiB meanwhile."""


class BodyMemory:
    """What is left for bodies, shared out by tenant; used by one event loop."""

    def __init__(self, total: int = ALL_BODIES_BYTES, share: int = TENANT_BODIES_BYTES) -> None:
        self._total = total
        self._share = share
        self._taken: Counter[str] = Counter()
        self._waiting: deque[tuple[str, int, asyncio.Future[None]]] = deque()

    async def take(self, tenant_id: str, size: int) -> None:
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
                self.give_back(tenant_id, size)
            raise

    def give_back(self, tenant_id: str, size: int) -> None:
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

    __slots__ = ("_limit", "_memory", "_receive", "_size", "_tenant_id")

    def __init__(
        self,
        receive: Callable[[], Awaitable[bytes | None]],
        limit: TimeLimit,
        memory: BodyMemory,
        tenant_id: str,
        size: int,
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._memory = memory
        self._tenant_id = tenant_id
        self._size = size

    async def __aenter__(self) -> bytes | None:
        """Read it; return None if it was cut off.

        Raises:
            TimeoutError: it did not arrive in time.
        """
        return await self._limit.keep(self._arrive()) if self._size else b""

    async def _arrive(self) -> bytes | None:
        await self._memory.take(self._tenant_id, self._size)
        try:
            return await self._receive()
        except BaseException:
            self._memory.give_back(self._tenant_id, self._size)
            raise

    async def __aexit__(self, *_: object) -> None:
        if self._size:
            self._memory.give_back(self._tenant_id, self._size)


class Bodies:
    """Reads the bodies of requests."""

    def __init__(self, max_bytes: int) -> None:
        """Read bodies of up to `max_bytes` bytes."""
        self._max_bytes = max_bytes
        self._memory = BodyMemory()
        self._limit = TimeLimit(BODY_SECONDS)

    def read(self, environ: Environ, receive: Receive, tenant_id: str) -> "_Body":
        """Return the body, to be entered while its request is answered.

        Of one that is too large nothing is read, or one byte too many where its size was not known: the application
        refuses it by its Content-Length.
        """
        size = length_of(environ)
        if size is None:
            size = self._max_bytes
        elif size > self._max_bytes:
            size = 0
        return _Body(partial(self._receive, receive), self._limit, self._memory, tenant_id, size)

    async def _receive(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while len(body) <= self._max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(body)


def length_of(environ: Environ) -> int | None:
    """Return how long a request's body is by its head, None if that does not say."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    return int(environ.get("CONTENT_LENGTH", 0))


def attach(environ: Environ, body: bytes) -> None:
    """Give a request its body, with a Content-Length that is true, whatever framing it came in."""
    environ["wsgi.input"] = io.BytesIO(body)
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        del environ["HTTP_TRANSFER_ENCODING"]
        environ["CONTENT_LENGTH"] = str(len(body))
