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

KILL_MARGIN_SECONDS = 3
"""Taken off `graceful_timeout`, after which gunicorn kills a worker. Requests in flight have the rest."""


class Worker(UvicornWorker):  # type: ignore[misc]  # it ships no types
    """The worker class that gunicorn.conf.py names."""

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
        # Each request has a log line of the application. What uvicorn would log besides quotes requests.
        "access_log": False,
        "log_level": "error",
    }

    slot: int | None = None
    """Where this worker publishes how many connections it holds. The master assigns it before the fork."""

    def init_process(self) -> None:
        """Serve until told to end."""
        counts.own = self.slot
        Http.max_fields, Http.max_field_bytes = self.cfg.limit_request_fields, self.cfg.limit_request_field_size
        self.config.timeout_graceful_shutdown = max(self.cfg.graceful_timeout - KILL_MARGIN_SECONDS, 1)
        super().init_process()

    def init_signals(self) -> None:
        """End in good order at SIGTERM before uvicorn handles it, and also after: uvicorn raises the signal again."""
        super().init_signals()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, partial(end, self.phase))


def end(phase: mmap.mmap, *_: object) -> None:
    """End at once while the application is being loaded, and in good order once it has served.

    Otherwise a module that is being imported, or anything else that swallows SystemExit, could keep a worker alive.
    """
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        sys.exit(0)
    phase[0] = Phase.ENDED
    os._exit(0)
