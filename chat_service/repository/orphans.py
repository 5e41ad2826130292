"""What dead processes hold: open transactions, leases of connections, claims of purges. Found, and released.

The server gives a dead process's transaction up by itself after 90 s; a lease ends after 25 s, a claim after 30. What
this module keeps: nothing that a living process holds is released where anybody could notice.

- A process is dead for sure when its parent says so, which has reaped it: all that it held is released.
- A transaction is killed besides if the server has no connection of its process any more, not even those of the
  driver's heartbeats, which are never idle, and it has rested for a second; or if it has rested for longer than any
  attempt of ours lives, as when a whole machine is gone and nobody hung up. A living process repeats it.
- A claim is given up as soon as the server has no connection of its process. One that is cut off loses nothing but its
  turn: each batch makes sure of the claim in its own transaction.
- **A lease is given up only if nobody has renewed it for as long as it lasts**, on the clock of the process that looks,
  and the server has no connection of its process for as long. No connection alone proves nothing: a process can be cut
  off from a new primary, or by something that resets connections, while its WebSockets go on, and then a delete would
  pass them. But one that could not renew for so long has closed them itself (`realtime/leases.py`). So this frees no
  chat earlier than the lease's own end, unless that end was written by a clock that was ahead.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, NamedTuple

from bson import Binary
from pymongo import DESCENDING
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


class Absent(NamedTuple):
    """A process that holds something, and has no connection."""

    process: str
    leased_until: datetime | None
    """When the last of its leases ends, on the database's clock: it changes with each renewal. None if it has none."""


class Orphans:
    """Looks for what dead processes hold, and releases it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reap(self) -> int:
        """Kill the transactions of processes that are gone; return how many.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the database could not be asked; look again later.
        """
        sessions = orphaned(self._look(), [])
        self._kill(sessions)
        return len(sessions)

    def release(self, process: str) -> bool:
        """Release all that a process holds which is known to be dead; tell whether nothing of it can come up again.

        A command of the dead that the server is still busy with may open one more transaction, or one more lease.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the database could not be asked; try again later.
        """
        operations = self._look()
        self._kill(orphaned(operations, [process]))
        # After the look: where that saw nothing of the dead, nothing can come after this.
        with self._database.operation(writes=True, seconds=LOOK_SECONDS):
            self._database.presence.delete_many({"worker_id": process})
        self.release_claims([process])
        return all(process_of(operation) != process for operation in operations)

    def absent(self) -> list[Absent]:
        """Return the processes that hold leases or claims, and of which the server has no connection."""
        with self._database.operation(seconds=LOOK_SECONDS):
            # Before the connections: a process that came after the look at these would seem to have none.
            holders = set(self._database.presence.distinct("worker_id"))
            holders |= set(self._database.purges.distinct("process", {"worker_id": {"$ne": None}}))
        if not holders:
            return []
        absent = holders - _connected(self._look())
        with self._database.operation(seconds=LOOK_SECONDS):
            return [Absent(process, self._leased_until(process)) for process in sorted(absent)]

    def _leased_until(self, process: str) -> datetime | None:
        latest = self._database.presence.find_one(
            {"worker_id": process}, {"expires_at": True}, sort=[("expires_at", DESCENDING)]
        )
        return None if latest is None else latest["expires_at"]

    def release_claims(self, dead: Collection[str]) -> int:
        """Give up the purges that the processes have claimed, so that others go on with them; return how many."""
        claimed = {"process": {"$in": list(dead)}, "worker_id": {"$ne": None}}
        free = {"$set": {"worker_id": None, "lease_until": self._database.now()}}
        with self._database.operation(writes=True, seconds=LOOK_SECONDS):
            return int(self._database.purges.update_many(claimed, free).modified_count)

    def release_leases(self, holder: Absent) -> int:
        """Give up the leases of a process, but for those that it has renewed after all; return how many."""
        held = {"worker_id": holder.process, "expires_at": {"$lte": holder.leased_until}}
        with self._database.operation(writes=True, seconds=LOOK_SECONDS):
            return int(self._database.presence.delete_many(held).deleted_count)

    def _kill(self, sessions: Collection[Binary]) -> None:
        if sessions:
            with self._database.operation(writes=True, seconds=LOOK_SECONDS):
                self._database.client.admin.command({"killSessions": [{"id": session} for session in sessions]})

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
        with self._database.operation(seconds=LOOK_SECONDS):
            return list(admin.aggregate(pipeline))


def orphaned(operations: Iterable[Operation], dead: Collection[str]) -> list[Binary]:
    """Return the ids of the sessions in which the dead have left something, out of what `$currentOp` shows."""
    operations = list(operations)
    connected = _connected(operations)
    return [
        operation["lsid"]["id"]
        for operation in operations
        if "lsid" in operation and _is_orphan(operation, process_of(operation), dead, connected)
    ]


def _connected(operations: Iterable[Operation]) -> set[str | None]:
    return {process_of(operation) for operation in operations if operation["type"] == "op"}


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
