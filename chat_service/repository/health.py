"""The state of the whole service, for somebody on call. Every query is bounded."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pymongo import ASCENDING

from chat_service.models import DeliveryState
from chat_service.repository.database import Database
from chat_service.repository.expired import PLACES
from chat_service.repository.protection import rested

MOST = 1_000
"""The limit of each count: the things that are counted should be few."""

MOST_DELIVERIES = 10_000
"""The most deliveries that a scrape reads."""

LATE = timedelta(minutes=5)
"""How long an expired chat may still be there: the expiry job runs every few seconds."""

SOON = timedelta(days=7)
"""A key that expires within this time counts as expiring: somebody should replace it."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """The state of the database server."""

    version: str
    primary: str
    members: int
    """How many members the replica set has; 1 behind a router."""
    lag: timedelta | None
    """How far the majority of the replica set is behind its primary; None behind a router."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The work that waits for a worker, and what somebody should look after; each counted up to `MOST`."""

    overdue: int
    """Chats that expired at least `LATE` ago, and that no hold keeps."""
    erasures: int
    """Erasures that are not complete."""
    tenants: int
    """Tenants that are being deleted."""
    deliveries: int
    """Deliveries that are due."""
    disabled_webhooks: int
    """Webhooks that were disabled because their receiver answered 410."""
    expiring_keys: int
    """Keys that expire within `SOON`."""
    connections: int
    """Live connections."""


@dataclass(frozen=True, slots=True)
class WebhookHealth:
    """How the delivery to webhooks goes."""

    enabled: int
    """Webhooks that are enabled."""
    failing: int
    """Enabled webhooks with a pending delivery that was tried without success."""
    late: timedelta
    """How long the pending delivery that has waited longest for a worker has been due."""


class Health:
    """Queries for the state of the service."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def server(self) -> Server:
        """Return the version, the primary and the replication of the database. Two commands."""
        with self._database.operation():
            hello = self._database.client.admin.command("hello")
            version = str(self._database.client.admin.command("buildInfo")["version"])
        last = hello.get("lastWrite")
        lag = max(last["lastWriteDate"] - last["majorityWriteDate"], timedelta()) if last else None
        return Server(version, hello.get("primary", "a router"), len(hello.get("hosts", [""])), lag)

    def backlog(self) -> Backlog:
        """Return what waits for a worker or for somebody, up to `MOST` of each. Eight commands."""
        now = self._database.now()
        overdue = [
            self._count(place.collection, {place.end_field: {"$lte": now - LATE}, **rested(now, place.prefix)})
            for place in PLACES
        ]
        due = {"state": DeliveryState.PENDING.value, "due_at": {"$lte": now}}
        return Backlog(
            overdue=sum(overdue),
            erasures=self._count("erasures", {"lease_until": {"$exists": True}}),
            tenants=self._count("tenants", {"deletion": {"$exists": True}, "deletion.completed_at": None}),
            deliveries=self._count("deliveries", due),
            disabled_webhooks=self._count("webhooks", {"enabled": False, "disabled_by": "410"}),
            expiring_keys=self._count("api_keys", {"revoked_at": None, "expires_at": {"$gt": now, "$lte": now + SOON}}),
            connections=self._count("presence", {"expires_at": {"$gt": now}}),
        )

    def webhooks(self, seconds: float | None = None) -> WebhookHealth:
        """Return how the delivery to webhooks goes, by the `MOST_DELIVERIES` that are due first. Two commands.

        Raises:
            DatabaseUnavailableError: the database did not answer in time; with `seconds`, within that many.
        """
        now = self._database.now()
        per_webhook = {"_id": "$_id.webhook_id", "due_at": {"$min": "$due_at"}, "reason": {"$max": "$reason"}}
        pending = {"$match": {"state": DeliveryState.PENDING.value}}
        pipeline = [pending, {"$sort": {"due_at": ASCENDING}}, {"$limit": MOST_DELIVERIES}, {"$group": per_webhook}]
        with self._database.operation(seconds=seconds):
            webhooks = self._database.webhooks.find({"enabled": True}, {"_id": True})
            enabled = {webhook["_id"]["webhook_id"] for webhook in webhooks}
            groups = [group for group in self._database.deliveries.aggregate(pipeline) if group["_id"] in enabled]
        failing = sum(group["reason"] is not None for group in groups)
        since = min((group["due_at"] for group in groups), default=now)
        return WebhookHealth(len(enabled), failing, max(now - since, timedelta()))

    def _count(self, collection: str, condition: Document) -> int:
        with self._database.operation():
            return int(self._database.collections[collection].count_documents(condition, limit=MOST))
