"""Keeps the leases of this process's connections, and closes the connections whose lease it has lost.

A lease is lost if this process was suspended for longer than the lease lasts, if the database was unavailable for that
long, or if the chat was deleted. The connection then no longer prevents a delete, so it must not stay open. Invariants:

- A connection whose lease could not be renewed is closed while the lease is still valid, early enough to be gone by its
  end. That needs no database: it is checked every second, also while a renewal waits for a response. And it needs only
  our own clock: a lease that was not renewed for so long is lost, also if the database's clock was set back meanwhile.
- A process that was suspended closes expired connections within a second after it resumes.
- A lease without a connection in this process is found by the next renewal, and given up.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from chat_service.realtime import frames
from chat_service.realtime.closing import DELETED, NO_KEY, RECONNECT, TOO_SLOW
from chat_service.realtime.connection import Socket
from chat_service.realtime.hub import Hub
from chat_service.repository.presence import LEASE, Presence

LOOK_SECONDS = 1.0
LOOK = timedelta(seconds=LOOK_SECONDS)
"""Between two checks for leases that end and readers that stall."""

RENEW_SECONDS = 5.0
"""Between two renewals: a fifth of a lease, so that a few may fail."""

MARGIN = timedelta(seconds=6)
"""How long before the end of its lease a connection is closed. From the check to the end of the transport it takes 5 s
at most, with queued frames, a close that is not answered, and bytes that are not read."""

RENEW_AT_ONCE = 500
"""More leases than this are renewed in sixteen parts, with pauses: 5,000 at once would hold up requests."""

EARLY_SECONDS = 0.001
"""How early a timer of the loop may fire."""

REST_SECONDS = 0.2

FEED_SECONDS = 1.0
"""For the feed to say why a lease is gone."""

ALL_IDS = ("", "g")
ID_RANGES = list(itertools.pairwise("0123456789abcdefg"))
"""Ranges of connection ids, by their first digit."""

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
        self._may_have_strays = False
        self._renewing: asyncio.Task[None] | None = None

    def expect_strays(self) -> None:
        """Note that there may be leases without a connection in this process."""
        self._may_have_strays = True

    def is_lost(self, socket: Socket, now: datetime | None = None) -> bool:
        """Return whether the connection's lease is about to end, or has ended."""
        if socket.leased_until is None:
            return False
        unrenewed = time.monotonic() - socket.renewed_at
        return socket.leased_until <= (now or self._now()) + MARGIN or unrenewed >= (LEASE - MARGIN).total_seconds()

    async def keep(self) -> None:
        """Renew leases and check connections, until cancelled."""
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._check_connections()
            is_free = self._renewing is None or self._renewing.done()
            is_due = is_free and time.monotonic() - renewed_at >= RENEW_SECONDS
            if is_due and (len(self._hub) or self._may_have_strays):
                renewed_at = time.monotonic()
                self._renewing = asyncio.create_task(self._renew())

    def _check_connections(self) -> None:
        now, monotonic = self._now(), time.monotonic()
        for socket in self._hub:
            if self.is_lost(socket, now):
                socket.close(RECONNECT)
            elif socket.key_ends_at is not None and socket.key_ends_at <= now:
                socket.close(NO_KEY)
            elif socket.is_stalled(monotonic):
                socket.close(TOO_SLOW)
            elif socket.ends_at is not None and (left := socket.ends_at - now) <= 2 * LOOK:
                # To the millisecond. The end may have changed by then.
                asyncio.get_running_loop().call_later(
                    left.total_seconds() + EARLY_SECONDS, self._close_if_expired, socket
                )

    def _close_if_expired(self, socket: Socket) -> None:
        """Close a connection whose chat has expired."""
        if socket.ends_at is not None and socket.ends_at <= self._now():
            socket.close(DELETED, frames.chat_deleted(socket.chat_id))

    async def _renew(self) -> None:
        self._may_have_strays = False
        for id_range in ID_RANGES if len(self._hub) > RENEW_AT_ONCE else [ALL_IDS]:
            try:
                await self._renew_range(*id_range)
            except Exception as error:  # noqa: BLE001 - any error: the leases last for some more attempts
                self.expect_strays()
                _log.warning("Leases of connections were not renewed: %s", type(error).__name__)
                return
            if id_range is not ALL_IDS:
                await asyncio.sleep(REST_SECONDS)

    async def _renew_range(self, first: str, end: str) -> None:
        sockets = [socket for socket in self._hub if socket.leased_until and first <= socket.connection_id < end]
        began, renewed_at = self._now(), time.monotonic()
        held = await self._run(self._presence.renew, self._worker_id, first, end)
        for socket in sockets:
            if socket.connection_id in held:
                socket.leased_until, socket.renewed_at = began + LEASE, renewed_at
            else:
                # Most likely its chat was deleted, and the feed is about to say so. Only the first close counts.
                asyncio.get_running_loop().call_later(FEED_SECONDS, socket.close, RECONNECT)
        strays = held - {socket.connection_id for socket in self._hub}
        if strays:
            # Their sockets have ended, and the database was unavailable when their leases were to be given up.
            self.expect_strays()
            await self.give_up(strays)

    async def give_up(self, connection_ids: set[str]) -> None:
        """Give up the leases of ended connections. A lease that cannot be given up now is found again, or expires."""
        try:
            await self._run(self._presence.close, self._worker_id, connection_ids)
        except Exception as error:  # noqa: BLE001 - as above
            self.expect_strays()
            _log.warning("Leases of connections were not released: %s", type(error).__name__)

    async def give_up_all(self) -> None:
        """Give up all leases of this process, because it ends."""
        try:
            await self._run(self._presence.close_worker, self._worker_id)
        except Exception as error:  # noqa: BLE001 - as above
            _log.warning("Leases of connections were not released: %s", type(error).__name__)
