"""gunicorn's worker: uvicorn's, with our protocols and an event loop that balances connections."""

import asyncio
import contextlib
import mmap
import os
import signal
import sys
from functools import partial

from uvicorn_worker import UvicornWorker

from chat_service.server.balance import counts
from chat_service.server.hooks import Phase
from chat_service.server.http_protocol import Http
from chat_service.server.websocket_protocol import FRAME_BYTES, PING_SECONDS, PONG_SECONDS, WebSocket

BEFORE_THE_KILL_SECONDS = 3
"""Kept of `graceful_timeout`, after which gunicorn kills a worker: requests in flight have what is left of it."""


class Worker(UvicornWorker):  # type: ignore[misc]  # it ships no types
    """The worker class to name in gunicorn.conf.py."""

    CONFIG_KWARGS = {  # noqa: RUF012 - declared so by uvicorn
        "loop": "chat_service.server.balance:Loop",
        "http": Http,
        "ws": WebSocket,
        "ws_max_size": FRAME_BYTES,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": PONG_SECONDS,
        # A compressed frame is small on the wire and of any size in memory.
        "ws_per_message_deflate": False,
        "interface": "asgi3",
        "lifespan": "on",
        "server_header": False,
        # Each request has a line of the application's own; what uvicorn would say besides quotes requests.
        "access_log": False,
        "log_level": "error",
    }

    slot: int | None = None
    """Where this worker says how many connections it holds; given by the master before the fork."""

    def init_process(self) -> None:
        """Serve until told to end."""
        counts.own = self.slot
        Http.max_fields, Http.max_field_bytes = self.cfg.limit_request_fields, self.cfg.limit_request_field_size
        self.config.timeout_graceful_shutdown = max(self.cfg.graceful_timeout - BEFORE_THE_KILL_SECONDS, 1)
        super().init_process()

    def init_signals(self) -> None:
        """End in good order at SIGTERM also before uvicorn listens to it, and after: it raises the signal once more."""
        super().init_signals()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, partial(end, self.phase))


def end(phase: mmap.mmap, *_: object) -> None:
    """End at once while the application is loaded, and in good order once it has served.

    A module that is being imported, and whatever else swallows SystemExit, could otherwise keep a worker going.
    """
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        sys.exit(0)
    phase[0] = Phase.ENDED
    os._exit(0)
