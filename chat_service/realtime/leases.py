"""Keeps the leases of this process's connections, and closes the connections whose lease it has lost.

A lease is lost when this process was stopped for longer than it lasts, when the database was away for so long, or when
the chat was deleted. From then on a delete passes the connection, so it must not stay open. What this module keeps:

- A connection is closed while its lease is still good if that could not be renewed, early enough to be gone by its end.
  That needs no database: it is looked at every second, also while a renewal waits for an answer.
- A process that was stopped closes what has expired in the second in which it goes on.
- A lease that nobody here stands for is found by the next renewal, and given up.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from chat_service.realtime.closing import RECONNECT, TOO_SLOW
from chat_service.realtime.hub import Hub
from chat_service.realtime.socket import Socket
from chat_service.repository.presence import LEASE, Presence

LOOK_SECONDS = 1.0
"""Between two looks for leases that end and readers that stall."""

RENEW_SECONDS = 5.0
"""Between two renewals: a fifth of a lease, so that a few may fail."""

CLOSING = timedelta(seconds=6)
"""How long before its lease ends a connection is closed: from a look to the end of the transport it takes 5 s at most,
with last words, a close that is not answered, and bytes that are not read."""

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
        self._is_in_doubt = False
        self._renewing: asyncio.Task[None] | None = None

    def doubt(self) -> None:
        """Take note that there may be a lease which nobody here stands for."""
        self._is_in_doubt = True

    def is_lost(self, socket: Socket) -> bool:
        """Tell whether the connection's lease is about to end, or has ended."""
        return socket.leased_until is not None and socket.leased_until - CLOSING <= self._now()

    async def keep(self) -> None:
        """Renew, and look after the connections, until cancelled."""
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look()
            is_free = self._renewing is None or self._renewing.done()
            is_due = is_free and time.monotonic() - renewed_at >= RENEW_SECONDS
            if is_due and (len(self._hub) or self._is_in_doubt):
                renewed_at = time.monotonic()
                self._renewing = asyncio.create_task(self._renew())

    def _look(self) -> None:
        now = time.monotonic()
        for socket in self._hub:
            if self.is_lost(socket):
                socket.close(RECONNECT)
            elif socket.is_stalled(now):
                socket.close(TOO_SLOW)

    async def _renew(self) -> None:
        expected = [socket for socket in self._hub if socket.leased_until is not None]
        began = self._now()
        try:
            held = await self._run(self._presence.renew, self._worker_id)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next one may succeed; until then they are good
            _log.warning("Leases of connections were not renewed: %s", type(error).__name__)
            return
        for socket in expected:
            if socket.connection_id in held:
                socket.leased_until = began + LEASE
            else:
                socket.close(RECONNECT)
        strays = held - {socket.connection_id for socket in self._hub}
        self._is_in_doubt = bool(strays)
        if strays:
            # Their sockets have ended, and the database was away when their leases were to be given up.
            await self.give_up(strays)

    async def give_up(self, connection_ids: set[str]) -> None:
        """Give up the leases of connections that have ended; what cannot be given up now is found again, or expires."""
        try:
            await self._run(self._presence.close, self._worker_id, connection_ids)
        except Exception as error:  # noqa: BLE001 - as above
            self.doubt()
            _log.warning("Leases of connections were not given up: %s", type(error).__name__)

    async def give_up_all(self) -> None:
        """Give up everything this process holds, because it ends."""
        try:
            await self._run(self._presence.close_worker, self._worker_id)
        except Exception as error:  # noqa: BLE001 - as above
            _log.warning("Leases of connections were not given up: %s", type(error).__name__)
