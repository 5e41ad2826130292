"""The database's own time, as this process knows it.

Leases are compared with one clock, the server's, so that a worker whose wall clock is wrong neither blocks a delete nor
slips past one. The server tells its time in every heartbeat; between heartbeats the monotonic clock of this process
carries it on, which no step of the wall clock moves.
"""

import time
from datetime import UTC, datetime, timedelta

from pymongo import monitoring


class ServerClock(monitoring.ServerHeartbeatListener):
    """Listens to heartbeats and tells the primary's time."""

    def __init__(self) -> None:
        self._reading = (datetime.now(UTC), time.monotonic())

    def now(self) -> datetime:
        """Return the primary's time in UTC, or this machine's until the first heartbeat has come."""
        told, at = self._reading
        return told + timedelta(seconds=time.monotonic() - at)

    def started(self, event: monitoring.ServerHeartbeatStartedEvent) -> None:
        """A heartbeat begins: nothing is known yet."""

    def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None:
        """Take the time from a primary's (or a router's) heartbeat; a secondary's clock decides nothing."""
        told = event.reply.document.get("localTime")
        if event.reply.is_writable and isinstance(told, datetime):
            self._reading = (told.replace(tzinfo=UTC), time.monotonic())

    def failed(self, event: monitoring.ServerHeartbeatFailedEvent) -> None:
        """A heartbeat failed: the last reading is carried on."""
