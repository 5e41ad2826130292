"""Retention: a tenant's policy that removes inactive chats, by the same delete or trashing as a request does.

A change of the policy is active after a day, so that a mistake can be undone before it has cost anything. Until then,
only chats that both the old and the new policy would remove are removed. No more than `max_per_day` chats are removed
in a day, however many are due.

A chat is removed only at the revision that was read, so that one with activity meanwhile stays. A chat that has
connections, is held, or was held until lately is skipped. The policy ignores chats with an `expires_at` of their own.
"""

import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError

from chat_service.errors import ChatServiceError, NoRetentionError
from chat_service.models import (
    Event,
    IdempotencyKey,
    Kind,
    ListPosition,
    Retention,
    RetentionAction,
    RetentionPreview,
)
from chat_service.repository.database import Database
from chat_service.repository.deferrals import defer
from chat_service.repository.deletions import Deletions
from chat_service.repository.idempotency import once
from chat_service.repository.lifecycle import Removal
from chat_service.repository.presence import Presence
from chat_service.repository.protection import lets_jobs_delete, rested
from chat_service.repository.tenant_rules import grace_of, of_tenant
from chat_service.repository.unit_of_work import UnitOfWork

ACTIVE_AFTER = timedelta(hours=24)
"""From a change of the policy until it is in force."""

BY_RETENTION = "retention"
"""The `requested_by` of the removals."""

KEEP = timedelta(days=30)
"""How long a chat that the policy has trashed stays in the trash."""

OVERDUE = timedelta(hours=48)
"""How late a chat may be removed before somebody should look into it."""

OVERDUE_KNOWN_SECONDS = 60.0

OVERDUE_COUNTED = 1_000
"""Overdue chats of a tenant that are counted, at most."""

COUNTED_FOR = timedelta(days=2)
"""How long the count of a day is stored."""

Document = dict[str, Any]


class RetentionPolicies:
    """The tenants' policies, and the removal of the chats that are due."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions
        self._presence = Presence(database)
        self._overdue, self._overdue_until = 0, 0.0

    def get(self, tenant_id: str) -> Retention:
        """Return the tenant's policy, in force or not.

        Raises:
            NoRetentionError: the tenant has no policy.
        """
        policy = of_tenant(self._find_tenant(tenant_id)).retention
        if policy is None:
            raise NoRetentionError
        return policy

    def _find_tenant(self, tenant_id: str) -> Document:
        with self._database.operation():
            return self._database.tenants.find_one({"_id": tenant_id}) or {}

    def put(  # noqa: PLR0913, PLR0917 - a policy, who requests it, and under which key
        self,
        tenant_id: str,
        delete_after_days: int,
        action: RetentionAction,
        max_per_day: int,
        changed_by: str,
        key: IdempotencyKey | None = None,
    ) -> Retention:
        """Give the tenant a policy, and return it. If the settings are the same, the old policy stays as it is.

        Raises:
            IdempotencyKeyReusedError: `key` was used for another request before.
        """

        def work(tx: UnitOfWork) -> Retention:
            tenant = tx.tenants.find_one({"_id": tenant_id}) or {}
            old = of_tenant(tenant).retention
            settings = (delete_after_days, action, max_per_day)
            if old is not None and (old.delete_after_days, old.action, old.max_per_day) == settings:
                return old
            before = old and old.in_force(tx.now)
            before = before and replace(before, before=None)
            new = Retention(*settings, tx.now + ACTIVE_AFTER, tx.now, changed_by, before)
            new_settings = {"delete_after_days": delete_after_days, "action": action.value, "max_per_day": max_per_day}
            facts = {**new_settings, "active_from": new.active_from}
            _change(tx, tenant_id, tenant, {"$set": {"retention": _to_document(new)}}, changed_by, facts)
            return new

        def recall(_: Document) -> Retention:
            return self.get(tenant_id)

        work_once = once(key, work, lambda _: {}, recall)
        return self._database.transaction(work_once)

    def end(self, tenant_id: str, changed_by: str) -> None:
        """End the tenant's policy at once: within seconds no more chats are removed.

        Raises:
            NoRetentionError: the tenant has no policy.
        """

        def work(tx: UnitOfWork) -> ChatServiceError | None:
            tenant = tx.tenants.find_one({"_id": tenant_id}) or {}
            if of_tenant(tenant).retention is None:
                return NoRetentionError()
            _change(tx, tenant_id, tenant, {"$unset": {"retention": ""}}, changed_by, {"delete_after_days": None})
            return None

        self._database.transaction(work)

    def preview(self, tenant_id: str, delete_after_days: int) -> RetentionPreview:
        """Return what a policy of so many days would remove if it were in force now. One command."""
        now = self._database.now()
        pipeline: list[Document] = [
            {"$match": {"_id.tenant_id": tenant_id, **_inactive(now - timedelta(days=delete_after_days))}},
            {"$group": {"_id": {"$gt": [{"$size": {"$ifNull": ["$holds", []]}}, 0]}, **_SUMS}},
        ]
        with self._database.operation():
            sums = {group["_id"]: group for group in self._database.chats.aggregate(pipeline)}
        unheld, held = (sums.get(is_held, {"chats": 0, "messages": 0}) for is_held in (False, True))
        return RetentionPreview(delete_after_days, unheld["chats"], unheld["messages"], held["chats"], now)

    def tenants(self) -> list[str]:
        """Return the ids of the tenants that have a policy, sorted."""
        with self._database.operation():
            return sorted(self._database.tenants.distinct("_id", {"retention": {"$exists": True}}))

    def take_some(self, tenant_id: str, after: ListPosition | None, most: int) -> tuple[int, ListPosition | None]:
        """Remove the next due chats of the tenant, up to `most`; return how many, and the position to continue after.

        The position is None if no more chats are due, or no more may be removed today.
        """
        now = self._database.now()
        tenant = self._find_tenant(tenant_id)
        rules = of_tenant(tenant)
        policy = rules.retention and rules.retention.in_force(now)
        if policy is None or not lets_jobs_delete(rules, now):
            return 0, None
        inactive = _inactive(now - timedelta(days=policy.delete_after_days))
        if after is None:
            while defer(self._database, tenant_id, inactive, BY_RETENTION):
                pass
        reserved = self._reserve(tenant_id, policy.max_per_day, most, now)
        due = self._find(tenant_id, inactive, after, reserved) if reserved else []
        keep = KEEP if policy.action is RetentionAction.TRASH else None
        grace = None if keep else grace_of(tenant) or None
        removals = [
            Removal(chat["_id"]["chat_id"], BY_RETENTION, keep, [chat["revision"]], grace=grace) for chat in due
        ]
        removed = 0
        try:
            for number in self._deletions.remove_all(tenant_id, removals):
                removed += number
        finally:
            self._return_reserved(tenant_id, reserved - removed, now)
        if not due or len(due) < reserved:
            return removed, None
        return removed, ListPosition(due[-1]["updated_at"], due[-1]["_id"]["chat_id"])

    def _find(self, tenant_id: str, inactive: Document, after: ListPosition | None, most: int) -> list[Document]:
        """Return up to `most` inactive chats after a position, those that have been inactive longest first."""
        condition: Document = {"_id.tenant_id": tenant_id, **inactive, **rested(self._database.now())}
        if after is not None:
            later = [{"updated_at": {"$gt": after.at}}, {"updated_at": after.at, "_id.chat_id": {"$lt": after.id}}]
            condition = {"$and": [condition, {"updated_at": {"$gte": after.at}, "$or": later}]}
        order = [("updated_at", ASCENDING), ("_id.chat_id", DESCENDING)]  # the index, read backwards
        fields = {"revision": True, "updated_at": True}
        with self._database.operation():
            cursor = self._database.chats.find(condition, fields, sort=order, limit=most, batch_size=most + 1)
            return list(cursor)

    def _reserve(self, tenant_id: str, max_per_day: int, requested: int, now: datetime) -> int:
        """Count chats before they are removed, so that no crash removes more than allowed; return how many may be."""
        day = {"_id": _day(tenant_id, now)}
        with self._database.operation(writes=True):
            counted = self._database.retention_days.find_one(day) or {"taken": 0}
            number = min(requested, max_per_day - int(counted["taken"]))
            if number <= 0:
                return 0
            change = {"$inc": {"taken": number}, "$setOnInsert": {"expires_at": now + COUNTED_FOR}}
            try:
                self._database.retention_days.update_one(
                    {**day, "taken": {"$lte": max_per_day - number}}, change, upsert=True
                )
            except DuplicateKeyError:  # another worker was faster, and less than `number` is left
                return 0
        return number

    def _return_reserved(self, tenant_id: str, number: int, now: datetime) -> None:
        if number:
            with self._database.operation(writes=True):
                day = {"_id": _day(tenant_id, now)}
                self._database.retention_days.update_one(day, {"$inc": {"taken": -number}})

    def overdue(self) -> dict[str, int]:
        """Return the number of each tenant's chats that should have been removed `OVERDUE` ago, if there are any.

        Up to `OVERDUE_COUNTED` of a tenant, without chats that are held or have connections. One or two commands for
        each policy.
        """
        numbers = {tenant_id: self._overdue_of(tenant_id) for tenant_id in self.tenants()}
        return {tenant_id: number for tenant_id, number in numbers.items() if number}

    def overdue_in_all(self, seconds: float) -> int:
        """Return the sum of `overdue`, at most `OVERDUE_KNOWN_SECONDS` old; `seconds` is the timeout.

        Raises:
            DatabaseUnavailableError: the database did not answer in time.
        """
        if time.monotonic() >= self._overdue_until:
            with self._database.operation(seconds=seconds):
                self._overdue = sum(self.overdue().values())
            self._overdue_until = time.monotonic() + OVERDUE_KNOWN_SECONDS
        return self._overdue

    def _overdue_of(self, tenant_id: str) -> int:
        now = self._database.now()
        rules = self._database.rules.learn(tenant_id)
        then = rules.retention and rules.retention.in_force(now - OVERDUE)
        if then is None or rules.retention is None or not lets_jobs_delete(rules, now):
            return 0
        days = max(then.delete_after_days, rules.retention.delete_after_days)
        inactive = _inactive(now - OVERDUE - timedelta(days=days))
        ids = [chat["_id"]["chat_id"] for chat in self._find(tenant_id, inactive, None, OVERDUE_COUNTED)]
        with self._database.operation():
            leases = self._presence.count_each(self._database.unbound(), tenant_id, ids)
        return sum(not leases[chat_id].live for chat_id in ids)


_SUMS = {"chats": {"$sum": 1}, "messages": {"$sum": "$message_count"}}


def _change(  # noqa: PLR0913, PLR0917 - a tenant, what changes, and what to log
    tx: UnitOfWork, tenant_id: str, tenant: Document, change: Document, changed_by: str, facts: Document
) -> None:
    version = tenant.get("retention_version", 0) + 1
    changed = tx.tenants.update_one({"_id": tenant_id}, {**change, "$inc": {"retention_version": 1}})
    if not changed.matched_count:
        raise LookupError(tenant_id)
    tx.log(tenant_id, Event(Kind.RETENTION_CHANGED, "", changed_by, facts, version))


def _inactive(since: datetime) -> Document:
    """Return the condition of chats without activity after `since`, and without an `expires_at` of their own.

    A restore counts as activity: otherwise the policy would trash the chat again at once.
    """
    return {
        "updated_at": {"$lte": since},
        "expires_at": None,
        "restoration.at": {"$not": {"$gt": since}},
    }


def _day(tenant_id: str, now: datetime) -> Document:
    return {"tenant_id": tenant_id, "day": f"{now:%Y-%m-%d}"}


def _to_document(policy: Retention) -> Document:
    return {
        "delete_after_days": policy.delete_after_days,
        "action": policy.action.value,
        "max_per_day": policy.max_per_day,
        "active_from": policy.active_from,
        "changed_at": policy.changed_at,
        "changed_by": policy.changed_by,
        "before": policy.before and _to_document(policy.before),
    }
