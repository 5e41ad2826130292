"""The database server's time, as this process knows it.

All leases are compared with one clock, the server's. So a worker whose wall clock is wrong neither blocks a delete nor
escapes one. Every heartbeat reports the server's time. Between heartbeats, the time that has passed is measured by this
process's monotonic clock, which no step of the wall clock changes.
"""

import time
from datetime import UTC, datetime, timedelta

from pymongo import monitoring


class ServerClock(monitoring.ServerHeartbeatListener):
    """Listens to heartbeats, and knows the primary's time from them."""

    def __init__(self) -> None:
        self._reading = (datetime.now(UTC), time.monotonic())

    def now(self) -> datetime:
        """Return the primary's time in UTC; until the first heartbeat, the time of this machine."""
        server_time, read_at = self._reading
        return server_time + timedelta(seconds=time.monotonic() - read_at)

    def started(self, event: monitoring.ServerHeartbeatStartedEvent) -> None:
        """Do nothing: a heartbeat that begins tells no time yet."""

    def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None:
        """Read the time from the heartbeat of a primary or a router; the clock of a secondary is ignored."""
        server_time = event.reply.document.get("localTime")
        if event.reply.is_writable and isinstance(server_time, datetime):
            self._reading = (server_time.replace(tzinfo=UTC), time.monotonic())

    def failed(self, event: monitoring.ServerHeartbeatFailedEvent) -> None:
        """Do nothing: the last reading stays in use."""
