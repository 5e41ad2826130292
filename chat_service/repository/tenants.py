"""Tenants: the customers of the service."""

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from chat_service.models import Limits, RateLimit, Scope, Tenant
from chat_service.repository.database import Database
from chat_service.repository.tenant_rules import grace_of


class Tenants:
    """The tenants collection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, tenant_id: str | None = None) -> Tenant:
        """Create a tenant and return it; if `tenant_id` exists already, the stored tenant stays as it is."""
        tenant = Tenant(tenant_id or str(uuid.uuid4()), name, self._database.now())
        with self._database.operation(writes=True):
            self._database.tenants.update_one(
                {"_id": tenant.id},
                {"$setOnInsert": {"name": tenant.name, "created_at": tenant.created_at}},
                upsert=True,
            )
        return tenant

    def list(self) -> Iterable[Tenant]:
        """Return all tenants, oldest first."""
        with self._database.operation():
            documents = self._database.tenants.find(sort=[("created_at", 1), ("_id", 1)])
            return [_to_tenant(document) for document in documents]

    def get(self, tenant_id: str) -> Tenant:
        """Return a tenant.

        Raises:
            LookupError: there is no such tenant.
        """
        with self._database.operation():
            document = self._database.tenants.find_one({"_id": tenant_id})
        if document is None:
            raise LookupError(tenant_id)
        return _to_tenant(document)

    def count_chats(self, tenant_id: str) -> int:
        """Return how many chats a tenant has, including those in the trash."""
        own = {"_id.tenant_id": tenant_id}
        with self._database.operation():
            return sum(chats.count_documents(own) for chats in (self._database.chats, self._database.trash))

    def set_limits(self, tenant_id: str, limits: Limits, to_default: Iterable[Scope] = ()) -> None:
        """Give a tenant its own limits, and the default again for `to_default`. All processes know within 5 s.

        Raises:
            LookupError: there is no such tenant.
        """
        own = {
            f"limits.{scope}": limit and {"rate": limit.rate, "burst": limit.burst} for scope, limit in limits.items()
        }
        change = {"$set": own, "$unset": {f"limits.{scope}": "" for scope in to_default}}
        with self._database.operation(writes=True):
            result = self._database.tenants.update_one(
                {"_id": tenant_id}, {operator: fields for operator, fields in change.items() if fields}
            )
        if not result.matched_count:
            raise LookupError(tenant_id)

    def set_grace(self, tenant_id: str, grace: timedelta) -> None:
        """Let the tenant's deletes be undone for so long; 0 ends that for later deletes.

        All processes know within 5 s.

        Raises:
            LookupError: there is no such tenant.
        """
        change = {"$set": {"grace_seconds": int(grace.total_seconds())}}
        with self._database.operation(writes=True):
            if not self._database.tenants.update_one({"_id": tenant_id}, change).matched_count:
                raise LookupError(tenant_id)


def _to_tenant(document: dict[str, Any]) -> Tenant:
    deletion = document.get("deletion", {})
    return Tenant(
        document["_id"],
        document["name"],
        document["created_at"],
        to_limits(document),
        grace_of(document),
        deletion.get("requested_at"),
        deletion.get("completed_at"),
    )


def to_limits(tenant: dict[str, Any]) -> Limits:
    """Return the limits in a tenant's document."""
    return {Scope(scope): limit and RateLimit(**limit) for scope, limit in tenant.get("limits", {}).items()}
