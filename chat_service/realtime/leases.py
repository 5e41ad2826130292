"""Keeps the leases of this process's connections, and closes the connections whose lease it has lost.

A lease is lost when this process was stopped for longer than it lasts, when the database was away for so long, or when
the chat was deleted. From then on a delete passes the connection, so it must not stay open.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from chat_service.errors import ChatServiceError
from chat_service.realtime.closing import RECONNECT, TOO_SLOW
from chat_service.realtime.hub import Hub
from chat_service.repository.presence import LEASE, Presence

RENEW_SECONDS = 5.0
"""Between two renewals: a fifth of a lease, so that a few may fail."""

Run = Callable[..., Awaitable[Any]]
"""Runs a blocking function in a thread."""

_log = logging.getLogger(__name__)


class Leases:
    """The leases of one process."""

    def __init__(self, presence: Presence, hub: Hub, worker_id: str, now: Callable[[], datetime], run: Run) -> None:
        self._presence = presence
        self._hub = hub
        self._worker_id = worker_id
        self._now = now
        self._run = run
        self._good_until = now()

    async def keep(self) -> None:
        """Renew, again and again, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for socket in self._hub:
                if socket.is_stalled(time.monotonic()):
                    socket.close(TOO_SLOW)
            if len(self._hub):
                await self._renew()

    async def _renew(self) -> None:
        expected = [socket for socket in self._hub if socket.is_leased]
        began = self._now()
        try:
            held = await self._run(self._presence.renew, self._worker_id)
            self._good_until = began + LEASE
        except ChatServiceError as error:
            _log.warning("Leases of connections were not renewed: %s", type(error).__name__)
            held = {socket.connection_id for socket in expected if self._now() < self._good_until}
        for socket in expected:
            if socket.connection_id not in held:
                socket.close(RECONNECT)
        strays = held - {socket.connection_id for socket in self._hub}
        if strays:
            # Their sockets have ended, and the database was away when their leases were to be given up.
            await self.give_up(strays)

    async def give_up(self, connection_ids: set[str]) -> None:
        """Give up the leases of connections that have ended; what cannot be given up now is found again, or expires."""
        try:
            await self._run(self._presence.close, self._worker_id, connection_ids)
        except ChatServiceError as error:
            _log.warning("Leases of connections were not given up: %s", type(error).__name__)

    async def give_up_all(self) -> None:
        """Give up everything this process holds, because it ends."""
        try:
            await self._run(self._presence.close_worker, self._worker_id)
        except ChatServiceError as error:
            _log.warning("Leases of connections were not given up: %s", type(error).__name__)
