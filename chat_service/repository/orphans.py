"""Transactions whose process is dead: found, and killed, so that the chats they hold can be used again.

The server gives such a transaction up by itself after 90 s. What this module keeps: no transaction of a living process
is killed. One is taken for an orphan only if

- its process is named as dead by somebody who knows: its parent, which has reaped it; or
- the server has no connection of that process any more, not even those of the driver's heartbeats, which are never
  idle, and it has rested for a second; or
- it has rested for longer than any attempt of ours lives, as when a whole machine is gone and nobody hung up.
"""

from collections.abc import Collection, Iterable
from typing import Any

from bson import Binary
from pymongo.read_concern import ReadConcern

from chat_service.repository import processes
from chat_service.repository.database import APP_NAME, Database
from chat_service.repository.transaction import ATTEMPT_SECONDS

DISCONNECTED_SECONDS = 1.0
"""A process that loses all its connections has new ones after this, or cannot reach the database."""

ABANDONED_SECONDS = 2.5 * ATTEMPT_SECONDS
"""The longest rest of a living transaction is an attempt's time; the rest is for a machine that is short of CPU."""

LOOK_SECONDS = 2.0
"""For one look, and for one kill: the next comes soon."""

Operation = dict[str, Any]


class Orphans:
    """Looks for the open transactions of dead processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reap(self, dead: Collection[str] = ()) -> int:
        """Kill the transactions of processes that are gone, among them those named in `dead`; return how many.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the database could not be asked; look again later.
        """
        with self._database.operation(seconds=LOOK_SECONDS):
            found = self._look()
        sessions = orphaned(found, dead)
        if sessions:
            with self._database.operation(writes=True, seconds=LOOK_SECONDS):
                self._database.client.admin.command({"killSessions": [{"id": session} for session in sessions]})
        return len(sessions)

    def is_gone(self, process: str) -> bool:
        """Tell whether the server holds nothing of this process any more, so that nothing of it can come up again."""
        with self._database.operation(seconds=LOOK_SECONDS):
            return all(process_of(operation) != process for operation in self._look())

    def _look(self) -> list[Operation]:
        # A user may always see what is its own; to see that of others would take a privilege.
        every = {"allUsers": False, "idleSessions": True, "idleConnections": True}
        admin = self._database.client.get_database("admin", read_concern=ReadConcern("local"))
        fields = ["type", "lsid", "transaction.timeInactiveMicros", "clientMetadata.driver"]
        pipeline: list[dict[str, Any]] = [
            {"$currentOp": every},
            {"$match": {"appName": APP_NAME}},
            {"$project": dict.fromkeys(fields, True)},
        ]
        return list(admin.aggregate(pipeline))


def orphaned(operations: Iterable[Operation], dead: Collection[str]) -> list[Binary]:
    """Return the ids of the sessions in which the dead have left something, out of what `$currentOp` shows."""
    operations = list(operations)
    connected = {process_of(operation) for operation in operations if operation["type"] == "op"}
    return [
        operation["lsid"]["id"]
        for operation in operations
        if "lsid" in operation and _is_orphan(operation, process_of(operation), dead, connected)
    ]


def _is_orphan(operation: Operation, process: str | None, dead: Collection[str], connected: set[str | None]) -> bool:
    if process in dead:
        return True
    if operation["type"] != "idleSession" or "transaction" not in operation:
        return False
    rest = operation["transaction"]["timeInactiveMicros"] / 1e6
    return rest > ABANDONED_SECONDS or (rest > DISCONNECTED_SECONDS and process not in connected)


def process_of(operation: Operation) -> str | None:
    """Return the name of the process that an operation came from, or None if it does not say."""
    driver = operation.get("clientMetadata", {}).get("driver", {})
    names, versions = (driver.get(field, "").split("|") for field in ("name", "version"))
    # The driver's own parts come first, then those of each layer above it, in both.
    return versions[-1] if names[-1] == processes.LAYER and len(versions) > 1 else None
