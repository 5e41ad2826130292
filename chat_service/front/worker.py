"""gunicorn's ASGI worker, with its own refusals in our error shape, and a shutdown that waits for requests only.

What is not HTTP never reaches the application, so gunicorn answers it: in plain text that quotes the request. The one
method that writes such an answer is replaced here; a test holds it against the pinned gunicorn.
"""

import array
import asyncio
import fcntl
import math
import signal
import termios
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from gunicorn.asgi import websocket
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from chat_service.api import problems
from chat_service.front.balance import Counts, Loop
from chat_service.front.refusal import refusal
from chat_service.front.websocket import QUEUE_MOST, WebSocket
from chat_service.telemetry.request_ids import new_request_id

LAST_REQUESTS_SECONDS = 1.0
"""For requests that are on their way when the worker is told to end; then idle connections are closed."""

ROUND_SECONDS = 1.0
"""Between two looks at all connections: which of them are to be pinged, and which have been idle for too long.

A timer for each of them would be set and stopped with every request, and each of that is a turn of the event loop more,
in which it takes the interpreter from the thread that has just begun to work.
"""

READER_SECONDS = 60.0
"""For a reader to take most of the 64 KiB that wait for it; then it is hung up on, and what it holds is freed."""


counts = Counts()
"""Of the workers of this master, which imports this before it forks."""


class ProblemProtocol(ASGIProtocol):  # type: ignore[misc]  # gunicorn ships no types
    """One connection."""

    _hang_up: asyncio.TimerHandle | None = None
    _idle_since: float | None = None
    """On the monotonic clock; None while a request is being answered."""

    _patience = math.inf
    """Seconds that it may be idle for."""

    _request_ready: Any  # gunicorn's event; None once the connection is a WebSocket, which is never idle

    def pause_writing(self) -> None:
        """Give the reader some time to take what waits."""
        super().pause_writing()
        self._hang_up = self.worker.loop.call_later(READER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has taken most of it."""
        self._stop_hanging_up()
        super().resume_writing()

    def _stop_hanging_up(self) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None

    def connection_made(self, transport: Any) -> None:
        """Begin; who sends no request in the time of a keep-alive is hung up on."""
        self.worker.connections.add(self)
        self.worker.tell_connections()
        super().connection_made(transport)
        self._patience = self._keepalive or math.inf
        self._arm_keepalive_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.worker.connections.discard(self)
        self.worker.tell_connections()
        self._stop_hanging_up()
        super().connection_lost(exc)
        if self._websocket is not None and self._flow_control is not None:
            # gunicorn 27 leaves a send waiting whose reader has left.
            self._flow_control.resume_writing()

    def _arm_keepalive_timer(self) -> None:
        self._idle_since = time.monotonic()

    def _cancel_keepalive_timer(self) -> None:
        self._idle_since = None

    def look(self, now: float) -> None:
        """Hang up if it is idle for longer than the time of a keep-alive; ping the client of a WebSocket."""
        if self._websocket is not None:
            self._websocket.ping(now)
        elif self._idle_since is not None and now - self._idle_since >= self._patience and not self._has_news():
            self._keepalive_timeout()

    def _has_news(self) -> bool:
        """Tell whether something has come that may be a request, which must not be dropped."""
        return self._request_ready.is_set() or _has_unread(self.transport)

    def _build_websocket_scope(self, request: Any, sockname: Any, peername: Any) -> Any:
        """Return the scope, and keep nothing else of the request: the connection may live for hours."""
        scope = super()._build_websocket_scope(request, sockname, peername)
        self._current_request = self._request_ready = None
        request.headers = []
        return scope

    def end_soon(self) -> None:
        """Hang up as soon as no request is being answered."""
        self._patience = 0.0
        self.look(time.monotonic())

    def _send_error_response(self, status: int, message: str, extra_headers: Iterable[tuple[str, str]] = ()) -> None:
        del message  # it quotes the request
        self._safe_write(refusal(problems.HTTP.get(status, problems.INTERNAL), new_request_id(), extra_headers))


def _has_unread(transport: Any) -> bool:
    """Tell whether bytes have arrived that the event loop has not come to."""
    found = array.array("i", [0])
    with suppress(AttributeError, OSError):  # it is closed
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, found)
    return found[0] > 0


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]  # gunicorn ships no types
    """The worker class to name in gunicorn.conf.py."""

    slot: int | None = None
    """Where it tells how many connections it holds; given by the master before the fork."""

    def init_process(self) -> None:
        """Start the worker with our protocols: it has no setting for them, and looks them up by their names."""
        self.connections: set[ProblemProtocol] = set()
        gasgi.ASGIProtocol = ProblemProtocol
        websocket.WebSocketProtocol = WebSocket
        websocket.RECEIVE_QUEUE_HIGH_WATER = QUEUE_MOST
        super().init_process()

    def _setup_event_loop(self) -> None:
        self.loop = Loop()
        self.loop.is_my_turn = lambda: counts.is_fewest(self.slot)
        asyncio.set_event_loop(self.loop)

    def tell_connections(self) -> None:
        """Let the other workers know how many connections this one holds."""
        if self.alive:
            counts.tell(self.slot, len(self.connections))

    def init_signals(self) -> None:
        """Hear SIGTERM from the start: the event loop does so only once it runs.

        A worker that missed it while it was loading the application would be waited for until graceful_timeout.
        """
        super().init_signals()
        signal.signal(signal.SIGTERM, lambda *_: self.handle_exit_signal())

    async def _serve(self) -> None:
        self._round()
        self.tell_connections()
        await super()._serve()

    def _round(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.look(now)
        self.loop.call_later(ROUND_SECONDS, self._round)

    async def _shutdown(self) -> None:
        counts.leave(self.slot)
        draining = self.loop.create_task(self.asgi.drain())
        # Connections that are kept alive for a next request would be waited for as if they were requests.
        self.loop.call_later(LAST_REQUESTS_SECONDS, self._close_idle)
        await super()._shutdown()
        await draining

    def _close_idle(self) -> None:
        for connection in list(self.connections):
            connection.end_soon()
