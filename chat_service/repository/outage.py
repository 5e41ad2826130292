"""What passes by itself: a database that is away, as the driver's heartbeats and the server's errors tell it."""

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
    """Listens to what the driver knows of the servers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def seconds(self) -> float:
        """Return for how long it has been known that there is no primary; 0 while there is one, or nobody knows."""
        since = self._since
        return 0.0 if since is None else max(self._clock() - since, 1e-9)

    def opened(self, event: monitoring.TopologyOpenedEvent) -> None:
        """Nothing is known yet."""

    def description_changed(self, event: monitoring.TopologyDescriptionChangedEvent) -> None:
        """Take in what the driver has just learnt."""
        if event.new_description.has_writable_server():
            self._since = None
        elif self._since is None and _tells(event.new_description):
            self._since = self._clock()

    def closed(self, event: monitoring.TopologyClosedEvent) -> None:
        """The client was closed: what was known last is kept."""


def _tells(description: TopologyDescription) -> bool:
    """Tell whether a server has answered or failed; before that, that no primary is known says nothing."""
    return any(
        server.is_server_type_known or server.error is not None for server in description.server_descriptions().values()
    )


PASSING = {
    # Shutting down, stepping down, no primary: another member takes over (the driver's "not writable primary" errors).
    *(91, 189, 216, 10058, 10107, 11600, 11601, 11602, 13435, 13436),
    # The network between members, or between router and shard.
    *(6, 7, 89, 133, 202, 9001),
    # Out of time, or a lock that was not had in time.
    *(24, 46, 50, 64, 262),
    # The transaction or the snapshot is too old, was given up by the server, or met another.
    *(112, 225, 239, 244, 246, 251, 290),
    # A cursor that did not survive, as when collections move between shards.
    *(43, 136, 150, 175, 234, 237, 13388),
    # More than the server can do now: too much in its cache, no tickets, sessions, files or disk, a limit of the rate.
    *(261, 264, 365, 462, 14031),
    # MongoDB Atlas' own layer: connections or operations beyond what was booked.
    8000,
}
"""Error codes of the server (its error_codes.yml) that pass by themselves: 503, and worth another try."""

REFUSED = {
    11: "MongoDB at {hosts} does not know the user of MONGODB_URI.",
    13: "MongoDB at {hosts} does not let the user of MONGODB_URI work; it needs the role readWrite on {database}.",
    18: "MongoDB at {hosts} refuses the user or the password of MONGODB_URI.",
}
"""Error codes that pass when somebody mends users, passwords or roles: 503 too, and a line that says what is wrong."""


def is_outage(error: PyMongoError) -> bool:
    """Tell whether an error passes by itself, or when somebody mends what is outside: 503, and never 500."""
    # A name that cannot be resolved is a ConfigurationError: the driver looks mongodb+srv up with the first command.
    if isinstance(error, ConnectionFailure | WTimeoutError | ConfigurationError) or error.timeout:
        return True
    return is_refused(error) or (isinstance(error, OperationFailure) and error.code in PASSING)


def is_refused(error: PyMongoError) -> TypeGuard[OperationFailure]:
    """Tell whether the server refuses the user that we are."""
    return isinstance(error, OperationFailure) and error.code in REFUSED


def reasons(error: PyMongoError, hosts: str, database: str) -> list[str]:
    """Return what is wrong outside, in a sentence for the log, if the error tells."""
    if is_refused(error):
        return [REFUSED[error.code or 0].format(hosts=hosts, database=database)]
    if isinstance(error, ConfigurationError):
        return [f"DNS does not say where {hosts} of MONGODB_URI is."]
    if isinstance(error, ServerSelectionTimeoutError):
        return [f"No primary of the replica set in MONGODB_URI answers at {hosts}."]
    return []
