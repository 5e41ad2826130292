"""Orphans: open transactions, connection leases and purge claims of dead processes. Finds and releases them.

Without this, the server aborts a dead process's transaction after 90 s; a lease ends after 25 s, a claim after 30.
Invariant: whatever a living process still needs is not released in a way that anybody could notice.

- A process is certainly dead if its parent, which has reaped it, says so. Everything that it had is released.
- A transaction is also killed if the server has no connection of its process any more (not even those of the driver's
  heartbeats, which are never idle) and it has been idle for a second; or if it has been idle for longer than any
  attempt lasts, as when a whole machine is gone without closing its connections. A living process retries it.
- A claim is released as soon as the server has no connection of its process. A living process that was cut off only
  loses its turn: each batch checks the claim in its own transaction.
- **A lease is released only if nobody has renewed it for as long as it lasts**, by the clock of the checking process,
  and if the server has had no connection of its process for as long. A missing connection alone proves nothing: a
  process can be cut off from a new primary, or by something that resets connections, while its WebSockets stay open,
  and then a delete would ignore them. But a process that could not renew for so long has closed them itself
  (`realtime/leases.py`). So no chat is freed before the lease's own end, unless a clock that was ahead wrote that end.
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
"""After this a process that has lost all its connections has new ones, or cannot reach the database."""

ABANDONED_SECONDS = 2.5 * ATTEMPT_SECONDS
"""A living transaction is idle for one attempt's time at most; the remainder is for a machine that is short of CPU."""

LOOK_SECONDS = 2.0
"""The timeout of one check, and of one kill: the next comes soon."""

Operation = dict[str, Any]


class Absent(NamedTuple):
    """A process that has leases or claims, but no connection to the server."""

    process: str
    leased_until: datetime | None
    """When the last of its leases ends, by the database's clock. It changes with each renewal. None without leases."""


class Orphans:
    """Finds what dead processes have left, and releases it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reap(self) -> int:
        """Kill the transactions of dead processes; return how many.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the database did not answer; try again later.
        """
        sessions = orphaned(self._look(), [])
        self._kill(sessions)
        return len(sessions)

    def release(self, process: str) -> bool:
        """Release everything of a process that is known to be dead; return whether nothing of it can appear any more.

        It can if the server is still running a command of the process, which may open a transaction or a lease.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the database did not answer; try again later.
        """
        operations = self._look()
        self._kill(orphaned(operations, [process]))
        # After `_look`: if that has seen no operation of the process, nothing can appear after this.
        with self._database.operation(writes=True, seconds=LOOK_SECONDS):
            self._database.presence.delete_many({"worker_id": process})
        self.release_claims([process])
        return all(process_of(operation) != process for operation in operations)

    def absent(self) -> list[Absent]:
        """Return the processes that have leases or claims, but no connection to the server."""
        with self._database.operation(seconds=LOOK_SECONDS):
            # Before the connections: a process that starts after those are read would seem to have none.
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
        """Release the purge claims of the processes, so that others continue the purges; return how many."""
        claimed = {"process": {"$in": list(dead)}, "worker_id": {"$ne": None}}
        free = {"$set": {"worker_id": None, "lease_until": self._database.now()}}
        with self._database.operation(writes=True, seconds=LOOK_SECONDS):
            return int(self._database.purges.update_many(claimed, free).modified_count)

    def release_leases(self, holder: Absent) -> int:
        """Remove the leases of a process, except those that it has renewed since; return how many."""
        unrenewed = {"worker_id": holder.process, "expires_at": {"$lte": holder.leased_until}}
        with self._database.operation(writes=True, seconds=LOOK_SECONDS):
            return int(self._database.presence.delete_many(unrenewed).deleted_count)

    def _kill(self, sessions: Collection[Binary]) -> None:
        if sessions:
            with self._database.operation(writes=True, seconds=LOOK_SECONDS):
                self._database.client.admin.command({"killSessions": [{"id": session} for session in sessions]})

    def _look(self) -> list[Operation]:
        # A user may always see its own operations; those of other users would require a privilege.
        options = {"allUsers": False, "idleSessions": True, "idleConnections": True}
        admin = self._database.client.get_database("admin", read_concern=ReadConcern("local"))
        fields = ["type", "lsid", "transaction.timeInactiveMicros", "clientMetadata.driver"]
        pipeline: list[dict[str, Any]] = [
            {"$currentOp": options},
            {"$match": {"appName": APP_NAME}},
            {"$project": dict.fromkeys(fields, True)},
        ]
        with self._database.operation(seconds=LOOK_SECONDS):
            return list(admin.aggregate(pipeline))


def orphaned(operations: Iterable[Operation], dead: Collection[str]) -> list[Binary]:
    """Return the ids of the sessions that dead processes have left, among the operations of `$currentOp`."""
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
    idle_seconds = operation["transaction"]["timeInactiveMicros"] / 1e6
    return idle_seconds > ABANDONED_SECONDS or (idle_seconds > DISCONNECTED_SECONDS and process not in connected)


def process_of(operation: Operation) -> str | None:
    """Return the name of the process that sent an operation, or None if the operation does not have it."""
    driver = operation.get("clientMetadata", {}).get("driver", {})
    names, versions = (driver.get(field, "").split("|") for field in ("name", "version"))
    # In both fields the driver's own part comes first, then one of each layer above it.
    return versions[-1] if names[-1] == processes.LAYER and len(versions) > 1 else None
