"""Legal holds in force: the check that all code makes before it destroys anything of a chat.

A hold on chats is a field of their documents, live or in the trash. So placing a hold and destroying the chat write the
same document, and exactly one of the two happens. The hold's own record says whether it is in force. Its release is
final, so that reading the record is enough: it need not be written too.

A hold on everything cannot be a field of each chat. It is a rule of the tenant, which every process knows after 5 s. It
is promised once everything has ended that may have begun before that.
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
"""From placing a hold on everything until it is in force: the age of a process's rules, the longest transaction, and
3 s for the answer."""

REST = timedelta(hours=24)
"""How long after a hold's release jobs still do not delete what it protected."""

UNHELD = {"holds.0": {"$exists": False}}
"""The condition of a live chat that has no mark of a hold."""

Document = dict[str, Any]


def refusal(tx: UnitOfWork, tenant_id: str, chat_id: str, chat: Document) -> LegalHoldError | None:
    """Return the error if a hold forbids to destroy anything of the chat, or None."""
    return refusals(tx, tenant_id, {chat_id: chat}).get(chat_id)


def refusals(tx: UnitOfWork, tenant_id: str, chats: Mapping[str, Document]) -> dict[str, LegalHoldError]:
    """Return the error for each held chat, by its id: nothing of it may be destroyed.

    One command if any of the chats has the mark of a hold, otherwise none.
    """
    in_force = _in_force(tx, tenant_id, chats)
    everywhere = on_everything(tx, tenant_id) if chats else []
    held = {chat_id: [*in_force[chat_id], *everywhere] for chat_id in chats}
    return {chat_id: LegalHoldError(holds, chats[chat_id]["revision"]) for chat_id, holds in held.items() if holds}


def _in_force(tx: UnitOfWork, tenant_id: str, chats: Mapping[str, Document]) -> dict[str, list[str]]:
    """Return the ids of the unreleased holds on each of the chats, by chat id."""
    placed = sorted({hold_id for chat in chats.values() for hold_id in chat.get("holds", ())})
    keys = [hold_key(tenant_id, hold_id) for hold_id in placed]
    holds = tx.holds.find({"_id": {"$in": keys}, "released_at": None}, {"_id": True}) if placed else ()
    unreleased = {hold["_id"]["hold_id"] for hold in holds}
    return {
        chat_id: [hold_id for hold_id in chat.get("holds", ()) if hold_id in unreleased]
        for chat_id, chat in chats.items()
    }


def on_everything(tx: UnitOfWork, tenant_id: str) -> list[str]:
    """Return the ids of the tenant's holds on everything. One command, in the transaction, if its rules are unknown."""
    rules = tx.rules.known(tenant_id)
    if rules is None:
        # Not put into the cache: what a transaction reads may be as old as the transaction.
        rules = of_tenant(tx.tenants.find_one({"_id": tenant_id}) or {})
    return rules.holds


def log_refusals(tx: UnitOfWork, tenant_id: str, outcomes: Sequence[tuple[str, str, object]]) -> None:
    """Log the refusals by a hold among `outcomes`: each has the chat's id, who requested it, and the outcome."""
    events = [
        Event(Kind.DELETION_REFUSED, chat_id, requested_by, {"hold_ids": outcome.holds}, outcome.revision)
        for chat_id, requested_by, outcome in outcomes
        if isinstance(outcome, LegalHoldError)
    ]
    if events:
        tx.log(tenant_id, *events)


def rested(now: datetime, prefix: str = "") -> Document:
    """Return the condition of chats without a hold now or in the last `REST`; `prefix` is the path to the chat."""
    return {
        f"{prefix}holds.0": {"$exists": False},
        f"{prefix}hold_released_at": {"$not": {"$gt": now - REST}},
    }


def lets_jobs_delete(rules: TenantRules, now: datetime) -> bool:
    """Return whether jobs may delete a tenant's chats: it has no hold on everything, nor had one in the last `REST`."""
    return not rules.holds and (rules.hold_released_at is None or rules.hold_released_at + REST <= now)
