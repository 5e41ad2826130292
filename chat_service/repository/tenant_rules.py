"""The rules that a tenant's document has for all its chats, in a cache of each process: at most 5 s old."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from cachetools import TTLCache

from chat_service.models import Retention, RetentionAction

CACHE_SECONDS = 4.0
SLOW_LOOKUP_SECONDS = 1.0
"""A cache entry lives for 4 s, and a look-up that took over 1 s makes none: every process knows a change after 5 s."""

CACHE_TENANTS = 10_000

Document = dict[str, Any]


class TenantRules(NamedTuple):
    """The rules for all chats of a tenant, including future ones."""

    holds: list[str]
    """The ids of the holds on everything."""
    hold_released_at: datetime | None
    """When the last hold on everything was released."""
    retention: Retention | None


def of_tenant(tenant: Document) -> TenantRules:
    """Return the rules in a tenant's document."""
    return TenantRules(
        tenant.get("holds", []), tenant.get("hold_released_at"), retention_of(tenant.get("retention", {}))
    )


def grace_of(tenant: Document) -> timedelta | None:
    """Return how long the tenant's deletes can be undone: 0 if they no longer can, None if they never could."""
    seconds = tenant.get("grace_seconds")
    return None if seconds is None else timedelta(seconds=seconds)


def retention_of(document: Document) -> Retention | None:
    """Return the policy in the `retention` field of a tenant's document, or None if it has ended."""
    if "delete_after_days" not in document:
        return None
    before = document["before"]
    return Retention(
        delete_after_days=document["delete_after_days"],
        action=RetentionAction(document["action"]),
        max_per_day=document["max_per_day"],
        active_from=document["active_from"],
        changed_at=document["changed_at"],
        changed_by=document["changed_by"],
        before=before and retention_of({**before, "before": None}),
    )


class KnownRules:
    """The cache of tenants' rules; one for each process and database."""

    def __init__(self, find_tenant: Callable[[str], Document | None]) -> None:
        """`find_tenant` reads a tenant's document from the database."""
        self._find_tenant = find_tenant
        self._tenants: TTLCache[str, TenantRules] = TTLCache(CACHE_TENANTS, CACHE_SECONDS)
        self._lock = threading.Lock()

    def note(self, tenant_id: str, tenant: Document, began: float) -> None:
        """Cache the rules of a tenant's document that the caller has read; `began` is its monotonic start time."""
        if time.monotonic() - began <= SLOW_LOOKUP_SECONDS:
            with self._lock:
                self._tenants[tenant_id] = of_tenant(tenant)

    def known(self, tenant_id: str) -> TenantRules | None:
        """Return the rules of a tenant if they are in the cache. No command."""
        with self._lock:
            return self._tenants.get(tenant_id)

    def learn(self, tenant_id: str) -> TenantRules:
        """Return the rules of a tenant. One command if they are not in the cache."""
        rules = self.known(tenant_id)
        if rules is not None:
            return rules
        began = time.monotonic()
        tenant = self._find_tenant(tenant_id) or {}
        self.note(tenant_id, tenant, began)
        return of_tenant(tenant)
