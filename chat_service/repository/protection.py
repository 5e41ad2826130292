"""What protects chats from being destroyed, and the one question that everything asks that destroys anything of a chat.

A hold on chats is a field of their documents, live or in the trash, so that placing one and destroying the chat write
the same document, and exactly one of them happens. The record of the hold says whether it stands; that it was released
is final, so it can be read without being written.

A hold on everything cannot be a field of each chat. It is one of the tenant, known to every process after
`CACHE_SECONDS`, and promised from when everything has ended that may have begun before that.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from cachetools import TTLCache

from chat_service.errors import LegalHoldError
from chat_service.models import Event, Kind
from chat_service.repository.keys import hold_key
from chat_service.repository.transaction import TOTAL_SECONDS

CACHE_SECONDS = 4.0
SLOW_LOOKUP_SECONDS = 1.0
"""An entry lives for 4 s and is not made by a look-up that took over 1 s: what is so, is known everywhere after 5 s."""

CACHE_TENANTS = 10_000

IN_FORCE_AFTER = timedelta(seconds=CACHE_SECONDS + SLOW_LOOKUP_SECONDS + TOTAL_SECONDS + 3)
"""From placing a hold on everything to its promise: what a process may not know yet, the longest transaction, and a
rest for the time that an answer takes."""

REST = timedelta(hours=24)
"""After a release, before a job deletes what it could not delete because of the hold."""

UNHELD = {"holds.0": {"$exists": False}}
"""The condition of a live chat that no hold has been placed on."""

Document = dict[str, Any]


class OfTenant(NamedTuple):
    """What of a tenant's document protects all of its chats."""

    holds: list[str]
    released_at: datetime | None


class Protection:
    """Answers whether chats may be destroyed; one for each process and database."""

    def __init__(self, find_tenant: Callable[[str], Document | None]) -> None:
        """`find_tenant` reads a tenant's document, with a command."""
        self._find_tenant = find_tenant
        self._tenants: TTLCache[str, OfTenant] = TTLCache(CACHE_TENANTS, CACHE_SECONDS)
        self._lock = threading.Lock()

    def note_tenant(self, tenant_id: str, tenant: Document, began: float) -> None:
        """Take note of a tenant's document that somebody has read; the command began at `began`, monotonic."""
        if time.monotonic() - began <= SLOW_LOOKUP_SECONDS:
            with self._lock:
                self._tenants[tenant_id] = _of_tenant(tenant)

    def lets_jobs_delete(self, tenant_id: str, now: datetime) -> bool:
        """Tell whether jobs may delete of this tenant: nothing holds everything, or did in the last `REST`."""
        holds, released_at = self.learn(tenant_id)
        return not holds and (released_at is None or released_at + REST <= now)

    def learn(self, tenant_id: str) -> OfTenant:
        """Return what protects all chats of a tenant, and remember it for a while: one command if it is not known."""
        known = self._known(tenant_id)
        if known is not None:
            return known
        began = time.monotonic()
        tenant = self._find_tenant(tenant_id) or {}
        self.note_tenant(tenant_id, tenant, began)
        return _of_tenant(tenant)

    def on_everything(self, tx: Any, tenant_id: str) -> list[str]:
        """Return the holds on everything of the tenant. One command, in the transaction, if they are not known."""
        known = self._known(tenant_id)
        if known is None:
            # Not remembered: what a transaction sees may be as old as itself.
            known = _of_tenant(tx.tenants.find_one({"_id": tenant_id}) or {})
        return known.holds

    def _known(self, tenant_id: str) -> OfTenant | None:
        with self._lock:
            return self._tenants.get(tenant_id)

    def refusals(self, tx: Any, tenant_id: str, chats: Mapping[str, Document]) -> dict[str, LegalHoldError]:
        """Return why nothing may be destroyed of those of the chats, by id, that are held.

        One command where a hold was placed on any of them, otherwise none.
        """
        standing = self._standing(tx, tenant_id, chats)
        everywhere = self.on_everything(tx, tenant_id) if chats else []
        refused = {chat_id: [*standing[chat_id], *everywhere] for chat_id in chats}
        return {
            chat_id: LegalHoldError(holds, chats[chat_id]["revision"]) for chat_id, holds in refused.items() if holds
        }

    @staticmethod
    def _standing(tx: Any, tenant_id: str, chats: Mapping[str, Document]) -> dict[str, list[str]]:
        """Return the holds of each of the chats that were not released."""
        placed = sorted({hold for chat in chats.values() for hold in chat.get("holds", ())})
        keys = [hold_key(tenant_id, hold) for hold in placed]
        found = tx.holds.find({"_id": {"$in": keys}, "released_at": None}, {"_id": True}) if placed else ()
        standing = {hold["_id"]["hold_id"] for hold in found}
        return {chat_id: [one for one in chat.get("holds", ()) if one in standing] for chat_id, chat in chats.items()}


def log_refusals(tx: Any, tenant_id: str, outcomes: Sequence[tuple[str, str, object]]) -> None:
    """Tell the log which chats a hold has kept; `outcomes` has their ids, who asked, and what became of each."""
    events = [
        Event(Kind.DELETION_REFUSED, chat_id, requested_by, {"hold_ids": outcome.holds}, outcome.revision)
        for chat_id, requested_by, outcome in outcomes
        if isinstance(outcome, LegalHoldError)
    ]
    if events:
        tx.log(tenant_id, *events)


def rested(now: datetime, of: str = "") -> Document:
    """Return the condition of chats that a job may delete: not held, nor until lately; `of` is the path to the chat."""
    return {
        f"{of}holds.0": {"$exists": False},
        f"{of}hold_released_at": {"$not": {"$gt": now - REST}},
    }


def _of_tenant(tenant: Document) -> OfTenant:
    return OfTenant(tenant.get("holds", []), tenant.get("hold_released_at"))
