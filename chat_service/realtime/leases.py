"""Keeps the leases of this process's connections, and closes the connections whose lease it has lost.

A lease is lost when this process was stopped for longer than it lasts, when the database was away for so long, or when
the chat was deleted. From then on a delete passes the connection, so it must not stay open. What this module keeps:

- A connection is closed while its lease is still good if that could not be renewed, early enough to be gone by its end.
  That needs no database: it is looked at every second, also while a renewal waits for an answer. And no clock but our
  own: what was not renewed for so long is closed also if the database's clock was set back meanwhile.
- A process that was stopped closes what has expired in the second in which it goes on.
- A lease that nobody here stands for is found by the next renewal, and given up.
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
"""Between two looks for leases that end and readers that stall."""

RENEW_SECONDS = 5.0
"""Between two renewals: a fifth of a lease, so that a few may fail."""

CLOSING = timedelta(seconds=6)
"""How long before its lease ends a connection is closed: from a look to the end of the transport it takes 5 s at most,
with last words, a close that is not answered, and bytes that are not read."""

RENEW_AT_ONCE = 500
"""More leases are renewed in sixteen parts, spread over the time: 5,000 at once would hold up requests."""

MOMENT = 0.001
"""By which the loop may be early."""

REST_SECONDS = 0.2

FEED_SECONDS = 1.0
"""For the feed to tell why a lease is gone."""

EVERYTHING = ("", "g")
SPANS = list(itertools.pairwise("0123456789abcdefg"))
"""Of connection ids, by their first digit."""

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

    def expect_strays(self) -> None:
        """Take note that there may be a lease which nobody here stands for."""
        self._is_in_doubt = True

    def is_lost(self, socket: Socket, now: datetime | None = None) -> bool:
        """Tell whether the connection's lease is about to end, or has ended."""
        if socket.leased_until is None:
            return False
        unrenewed = time.monotonic() - socket.renewed_at
        return socket.leased_until <= (now or self._now()) + CLOSING or unrenewed >= (LEASE - CLOSING).total_seconds()

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
        now, clock = self._now(), time.monotonic()
        for socket in self._hub:
            if self.is_lost(socket, now):
                socket.close(RECONNECT)
            elif socket.key_ends_at is not None and socket.key_ends_at <= now:
                socket.close(NO_KEY)
            elif socket.is_stalled(clock):
                socket.close(TOO_SLOW)
            elif socket.ends_at is not None and (left := socket.ends_at - now) <= 2 * LOOK:
                # To the millisecond; it may have got another end until then.
                asyncio.get_running_loop().call_later(left.total_seconds() + MOMENT, self._end, socket)

    def _end(self, socket: Socket) -> None:
        """Close a connection whose chat's time is over."""
        if socket.ends_at is not None and socket.ends_at <= self._now():
            socket.close(DELETED, frames.chat_deleted(socket.chat_id))

    async def _renew(self) -> None:
        self._is_in_doubt = False
        for span in SPANS if len(self._hub) > RENEW_AT_ONCE else [EVERYTHING]:
            try:
                await self._renew_span(*span)
            except Exception as error:  # noqa: BLE001 - whatever it was: the leases are good for some more tries
                self.expect_strays()
                _log.warning("Leases of connections were not renewed: %s", type(error).__name__)
                return
            if span is not EVERYTHING:
                await asyncio.sleep(REST_SECONDS)

    async def _renew_span(self, first: str, end: str) -> None:
        expected = [socket for socket in self._hub if socket.leased_until and first <= socket.connection_id < end]
        began, renewed_at = self._now(), time.monotonic()
        held = await self._run(self._presence.renew, self._worker_id, first, end)
        for socket in expected:
            if socket.connection_id in held:
                socket.leased_until, socket.renewed_at = began + LEASE, renewed_at
            else:
                # Most likely its chat was deleted, and the feed is about to say so; the first close is the one.
                asyncio.get_running_loop().call_later(FEED_SECONDS, socket.close, RECONNECT)
        strays = held - {socket.connection_id for socket in self._hub}
        if strays:
            # Their sockets have ended, and the database was away when their leases were to be given up.
            self.expect_strays()
            await self.give_up(strays)

    async def give_up(self, connection_ids: set[str]) -> None:
        """Give up the leases of connections that have ended; what cannot be given up now is found again, or expires."""
        try:
            await self._run(self._presence.close, self._worker_id, connection_ids)
        except Exception as error:  # noqa: BLE001 - as above
            self.expect_strays()
            _log.warning("Leases of connections were not given up: %s", type(error).__name__)

    async def give_up_all(self) -> None:
        """Give up everything this process holds, because it ends."""
        try:
            await self._run(self._presence.close_worker, self._worker_id)
        except Exception as error:  # noqa: BLE001 - as above
            _log.warning("Leases of connections were not given up: %s", type(error).__name__)
