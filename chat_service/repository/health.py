"""What somebody on call wants to know of the whole service at once. Every question is bounded."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pymongo import ASCENDING

from chat_service.models import DeliveryState
from chat_service.repository.database import Database
from chat_service.repository.expired import PLACES
from chat_service.repository.protection import rested

MOST = 1_000
"""Up to which things are counted that should be few."""

MOST_DELIVERIES = 10_000
"""That a scrape looks at."""

LATE = timedelta(minutes=5)
"""How long after its time a chat may still be there: the expiry comes by every few seconds."""

SOON = timedelta(days=7)
"""How long before a key expires somebody should make another one."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """The database."""

    version: str
    primary: str
    members: int
    """Of its set; 1 behind a router."""
    lag: timedelta | None
    """By how much the majority of the set is behind its primary; None behind a router."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for a worker, up to `MOST` of each."""

    overdue: int
    """Chats whose time was over `LATE` ago, and that nothing holds."""
    erasures: int
    tenants: int
    """That are being deleted."""
    deliveries: int
    """That are due."""
    disabled_webhooks: int
    """Not by their tenants."""
    expiring_keys: int
    """Within `SOON`."""
    connections: int


@dataclass(frozen=True, slots=True)
class Telling:
    """How webhooks are told."""

    enabled: int
    failing: int
    """Of these, how many have a delivery that was tried and not taken yet."""
    late: timedelta
    """How long ago the delivery was due that has waited longest for a worker."""


class Health:
    """Looks at everything."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def server(self) -> Server:
        """Return what the database says of itself. Two commands."""
        with self._database.operation():
            hello = self._database.client.admin.command("hello")
            version = str(self._database.client.admin.command("buildInfo")["version"])
        last = hello.get("lastWrite")
        lag = max(last["lastWriteDate"] - last["majorityWriteDate"], timedelta()) if last else None
        return Server(version, hello.get("primary", "a router"), len(hello.get("hosts", [""])), lag)

    def backlog(self) -> Backlog:
        """Return what waits. Eight commands."""
        now = self._database.now()
        late = [
            self._count(place.collection, {place.end: {"$lte": now - LATE}, **rested(now, place.of)})
            for place in PLACES
        ]
        waiting = {"state": DeliveryState.PENDING.value, "due_at": {"$lte": now}}
        return Backlog(
            overdue=sum(late),
            erasures=self._count("erasures", {"lease_until": {"$exists": True}}),
            tenants=self._count("tenants", {"deletion": {"$exists": True}, "deletion.completed_at": None}),
            deliveries=self._count("deliveries", waiting),
            disabled_webhooks=self._count("webhooks", {"enabled": False, "disabled_by": "410"}),
            expiring_keys=self._count("api_keys", {"revoked_at": None, "expires_at": {"$gt": now, "$lte": now + SOON}}),
            connections=self._count("presence", {"expires_at": {"$gt": now}}),
        )

    def webhooks(self, seconds: float | None = None) -> Telling:
        """Return how webhooks are told, by `MOST_DELIVERIES`, those that are due first. Two commands.

        Raises:
            DatabaseUnavailableError: the database does not say it in time, or within so many `seconds`.
        """
        now = self._database.now()
        of_each = {"_id": "$_id.webhook_id", "due_at": {"$min": "$due_at"}, "reason": {"$max": "$reason"}}
        pending = {"$match": {"state": DeliveryState.PENDING.value}}
        steps = [pending, {"$sort": {"due_at": ASCENDING}}, {"$limit": MOST_DELIVERIES}, {"$group": of_each}]
        with self._database.operation(seconds=seconds):
            found = self._database.webhooks.find({"enabled": True}, {"_id": True})
            enabled = {webhook["_id"]["webhook_id"] for webhook in found}
            waiting = [one for one in self._database.deliveries.aggregate(steps) if one["_id"] in enabled]
        failing = sum(one["reason"] is not None for one in waiting)
        since = min((one["due_at"] for one in waiting), default=now)
        return Telling(len(enabled), failing, max(now - since, timedelta()))

    def _count(self, collection: str, condition: Document) -> int:
        with self._database.operation():
            return int(self._database.collections[collection].count_documents(condition, limit=MOST))
