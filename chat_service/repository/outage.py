"""Outages of the database: what the driver's heartbeats know of them, and which errors pass without a code change."""

import time
from collections.abc import Callable
from typing import TypeGuard

from pymongo import monitoring
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)
from pymongo.topology_description import TopologyDescription


class Outage(monitoring.TopologyListener):
    """Listens to the driver's monitoring of the servers, and keeps since when there is no primary."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def seconds(self) -> float:
        """Return for how many seconds there has been no primary; 0 while there is one, or nothing is known yet."""
        since = self._since
        return 0.0 if since is None else max(self._clock() - since, 1e-9)

    def opened(self, event: monitoring.TopologyOpenedEvent) -> None:
        """Ignore the start: nothing is known yet."""

    def description_changed(self, event: monitoring.TopologyDescriptionChangedEvent) -> None:
        """Update the start of the outage."""
        if event.new_description.has_writable_server():
            self._since = None
        elif self._since is None and _is_conclusive(event.new_description):
            self._since = self._clock()

    def closed(self, event: monitoring.TopologyClosedEvent) -> None:
        """Ignore that the client was closed: the last known state stays."""


def _is_conclusive(description: TopologyDescription) -> bool:
    """Return whether any server has answered or failed: before that, a missing primary means nothing."""
    return any(
        server.is_server_type_known or server.error is not None for server in description.server_descriptions().values()
    )


PASSING = {
    # Shutdown, step-down, no primary: another member takes over (the driver's "not writable primary" errors).
    *(91, 189, 216, 10058, 10107, 11600, 11601, 11602, 13435, 13436),
    # The network between members, or between router and shard.
    *(6, 7, 89, 133, 202, 9001),
    # Timeouts, also of a lock.
    *(24, 46, 50, 64, 262),
    # The transaction or the snapshot is too old, was aborted by the server, or conflicts with another.
    *(112, 225, 239, 244, 246, 251, 290),
    # A lost cursor, as when collections move between shards.
    *(43, 136, 150, 175, 234, 237, 13388),
    # The server is overloaded: cache full, no tickets, sessions, files or disk left, or a rate limit reached.
    *(261, 264, 365, 462, 14031),
    # MongoDB Atlas' own layer: more connections or operations than the plan allows.
    8000,
}
"""The server's error codes (its error_codes.yml) that pass by themselves: answered with 503, and worth a retry."""

REFUSED = {
    11: "MongoDB at {hosts} does not know the user of MONGODB_URI.",
    13: "MongoDB at {hosts} refuses a command: the user of MONGODB_URI needs the role readWrite on {database}.",
    18: "MongoDB at {hosts} refuses the user or the password of MONGODB_URI.",
}
"""Error codes that last until somebody fixes users, passwords or roles: also 503, with a log line that says why."""


def is_outage(error: PyMongoError) -> bool:
    """Return whether an error passes by itself, or when the environment is fixed: 503, and never 500."""
    # A name that DNS does not resolve is a ConfigurationError: the driver resolves mongodb+srv with the first command.
    if isinstance(error, ConnectionFailure | WTimeoutError | ConfigurationError) or error.timeout:
        return True
    return is_refused(error) or (isinstance(error, OperationFailure) and error.code in PASSING)


def is_refused(error: PyMongoError) -> TypeGuard[OperationFailure]:
    """Return whether the server refuses the user of this service."""
    return isinstance(error, OperationFailure) and error.code in REFUSED


def reasons(error: PyMongoError, hosts: str, database: str) -> list[str]:
    """Return a log line that says what is wrong in the environment, or nothing if the error does not say."""
    if is_refused(error):
        return [REFUSED[error.code or 0].format(hosts=hosts, database=database)]
    if isinstance(error, ConfigurationError):
        return [f"DNS has no address for {hosts} of MONGODB_URI."]
    if isinstance(error, ServerSelectionTimeoutError):
        return [f"No primary of the replica set in MONGODB_URI answers at {hosts}."]
    return []
