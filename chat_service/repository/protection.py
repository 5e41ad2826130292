"""What protects chats from being destroyed, and the one question that everything asks that destroys anything of a chat.

A hold on chats is a field of their documents, live or in the trash, so that placing one and destroying the chat write
the same document, and exactly one of them happens. The record of the hold says whether it stands; that it was released
is final, so it can be read without being written.

A hold on everything cannot be a field of each chat. It is a rule of the tenant, known to every process after 5 s, and
promised from when everything has ended that may have begun before that.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from chat_service.errors import LegalHoldError
from chat_service.models import Event, Kind
from chat_service.repository.keys import hold_key
from chat_service.repository.tenant_rules import CACHE_SECONDS, SLOW_LOOKUP_SECONDS, TenantRules, of_tenant
from chat_service.repository.transaction import TOTAL_SECONDS
from chat_service.repository.unit_of_work import UnitOfWork

IN_FORCE_AFTER = timedelta(seconds=CACHE_SECONDS + SLOW_LOOKUP_SECONDS + TOTAL_SECONDS + 3)
"""From placing a hold on everything to its promise: what a process may not know yet, the longest transaction, and a
rest for the time that an answer takes."""

REST = timedelta(hours=24)
"""After a release, before a job deletes what it could not delete because of the hold."""

UNHELD = {"holds.0": {"$exists": False}}
"""The condition of a live chat that no hold has been placed on."""

Document = dict[str, Any]


def refusal(tx: UnitOfWork, tenant_id: str, chat_id: str, chat: Document) -> LegalHoldError | None:
    """Return why nothing of the chat may be destroyed, or None if it may."""
    return refusals(tx, tenant_id, {chat_id: chat}).get(chat_id)


def refusals(tx: UnitOfWork, tenant_id: str, chats: Mapping[str, Document]) -> dict[str, LegalHoldError]:
    """Return why nothing may be destroyed of those of the chats, by id, that are held.

    One command where a hold was placed on any of them, otherwise none.
    """
    standing = _standing(tx, tenant_id, chats)
    everywhere = on_everything(tx, tenant_id) if chats else []
    held = {chat_id: [*standing[chat_id], *everywhere] for chat_id in chats}
    return {chat_id: LegalHoldError(holds, chats[chat_id]["revision"]) for chat_id, holds in held.items() if holds}


def _standing(tx: UnitOfWork, tenant_id: str, chats: Mapping[str, Document]) -> dict[str, list[str]]:
    """Return the holds of each of the chats that were not released."""
    placed = sorted({hold for chat in chats.values() for hold in chat.get("holds", ())})
    keys = [hold_key(tenant_id, hold) for hold in placed]
    found = tx.holds.find({"_id": {"$in": keys}, "released_at": None}, {"_id": True}) if placed else ()
    standing = {hold["_id"]["hold_id"] for hold in found}
    return {chat_id: [one for one in chat.get("holds", ()) if one in standing] for chat_id, chat in chats.items()}


def on_everything(tx: UnitOfWork, tenant_id: str) -> list[str]:
    """Return the holds on everything of the tenant. One command, in the transaction, if they are not known."""
    rules = tx.rules.known(tenant_id)
    if rules is None:
        # Not remembered: what a transaction sees may be as old as itself.
        rules = of_tenant(tx.tenants.find_one({"_id": tenant_id}) or {})
    return rules.holds


def log_refusals(tx: UnitOfWork, tenant_id: str, outcomes: Sequence[tuple[str, str, object]]) -> None:
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


def lets_jobs_delete(rules: TenantRules, now: datetime) -> bool:
    """Tell whether jobs may delete of a tenant: nothing holds everything, or did in the last `REST`."""
    return not rules.holds and (rules.hold_released_at is None or rules.hold_released_at + REST <= now)
