"""Retention: a tenant's policy that takes chats without activity, through the same delete as everybody's.

A change is active after a day, so that a mistake can be taken back before it has cost anything; until then only what
the old policy and the new one would both take is taken. No more than `max_per_day` are taken in a day, whatever is due.

A chat is taken at the revision that was seen: one that something happens to meanwhile stays. One that is connected to,
held, or was held until lately is passed over; one with an end of its own is not the policy's.
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
"""Who has asked for the delete, in its receipt."""

KEEP = timedelta(days=30)
"""How long a chat is in the trash that the policy has moved there."""

OVERDUE = timedelta(hours=48)
"""How late a chat may be taken before somebody should look."""

OVERDUE_KNOWN_SECONDS = 60.0

OVERDUE_COUNTED = 1_000
"""Of a tenant, at most: more says no more."""

COUNTED_FOR = timedelta(days=2)
"""How long the count of a day is kept."""

Document = dict[str, Any]


class RetentionPolicies:
    """The policies of tenants, and what they take."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions
        self._presence = Presence(database)
        self._overdue, self._overdue_until = 0, 0.0

    def get(self, tenant_id: str) -> Retention:
        """Return the tenant's policy, in force or not.

        Raises:
            NoRetentionError: it has none.
        """
        policy = of_tenant(self._find_tenant(tenant_id)).retention
        if policy is None:
            raise NoRetentionError
        return policy

    def _find_tenant(self, tenant_id: str) -> Document:
        with self._database.operation():
            return self._database.tenants.find_one({"_id": tenant_id}) or {}

    def put(  # noqa: PLR0913, PLR0917 - a policy, who asks, and under which key
        self,
        tenant_id: str,
        delete_after_days: int,
        action: RetentionAction,
        max_per_day: int,
        changed_by: str,
        key: IdempotencyKey | None = None,
    ) -> Retention:
        """Give the tenant a policy, and return it. One that says the same as before stays as it is.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before.
        """

        def work(tx: UnitOfWork) -> Retention:
            tenant = tx.tenants.find_one({"_id": tenant_id}) or {}
            old = of_tenant(tenant).retention
            says = (delete_after_days, action, max_per_day)
            if old is not None and (old.delete_after_days, old.action, old.max_per_day) == says:
                return old
            before = old and old.in_force(tx.now)
            new = Retention(*says, tx.now + ACTIVE_AFTER, tx.now, changed_by, before and replace(before, before=None))
            told = {"delete_after_days": delete_after_days, "action": action.value, "max_per_day": max_per_day}
            facts = {**told, "active_from": new.active_from}
            _change(tx, tenant_id, tenant, {"$set": {"retention": _to_document(new)}}, changed_by, facts)
            return new

        def recall(_: Document) -> Retention:
            return self.get(tenant_id)

        work_once = once(key, work, lambda _: {}, recall)
        return self._database.transaction(work_once)

    def end(self, tenant_id: str, changed_by: str) -> None:
        """End the tenant's policy, at once: nothing is taken any more within seconds.

        Raises:
            NoRetentionError: it has none.
        """

        def work(tx: UnitOfWork) -> ChatServiceError | None:
            tenant = tx.tenants.find_one({"_id": tenant_id}) or {}
            if of_tenant(tenant).retention is None:
                return NoRetentionError()
            _change(tx, tenant_id, tenant, {"$unset": {"retention": ""}}, changed_by, {"delete_after_days": None})
            return None

        self._database.transaction(work)

    def preview(self, tenant_id: str, delete_after_days: int) -> RetentionPreview:
        """Return what a policy of so many days would take if it were in force now. One command."""
        now = self._database.now()
        steps: list[Document] = [
            {"$match": {"_id.tenant_id": tenant_id, **_inactive(now - timedelta(days=delete_after_days))}},
            {"$group": {"_id": {"$gt": [{"$size": {"$ifNull": ["$holds", []]}}, 0]}, **_SUMS}},
        ]
        with self._database.operation():
            sums = {found["_id"]: found for found in self._database.chats.aggregate(steps)}
        free, held = (sums.get(is_held, {"chats": 0, "messages": 0}) for is_held in (False, True))
        return RetentionPreview(delete_after_days, free["chats"], free["messages"], held["chats"], now)

    def tenants(self) -> list[str]:
        """Return the tenants that have a policy."""
        with self._database.operation():
            return sorted(self._database.tenants.distinct("_id", {"retention": {"$exists": True}}))

    def take_some(self, tenant_id: str, after: ListPosition | None, most: int) -> tuple[int, ListPosition | None]:
        """Take what the policy takes of the next chats, `most` at most; return of how many, and where to go on.

        None as the place: there are no more, or no more may be taken today.
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
        room = self._reserve(tenant_id, policy.max_per_day, most, now)
        due = self._find(tenant_id, inactive, after, room) if room else []
        keep = KEEP if policy.action is RetentionAction.TRASH else None
        grace = None if keep else grace_of(tenant) or None
        removals = [Removal(one["_id"]["chat_id"], BY_RETENTION, keep, [one["revision"]], grace=grace) for one in due]
        taken = 0
        try:
            for number in self._deletions.remove_all(tenant_id, removals):
                taken += number
        finally:
            self._give_back(tenant_id, room - taken, now)
        if not due or len(due) < room:
            return taken, None
        return taken, ListPosition(due[-1]["updated_at"], due[-1]["_id"]["chat_id"])

    def _find(self, tenant_id: str, inactive: Document, after: ListPosition | None, most: int) -> list[Document]:
        """Return the chats that have been inactive longest."""
        condition: Document = {"_id.tenant_id": tenant_id, **inactive, **rested(self._database.now())}
        if after is not None:
            later = [{"updated_at": {"$gt": after.at}}, {"updated_at": after.at, "_id.chat_id": {"$lt": after.id}}]
            condition = {"$and": [condition, {"updated_at": {"$gte": after.at}, "$or": later}]}
        order = [("updated_at", ASCENDING), ("_id.chat_id", DESCENDING)]  # the index, from its end
        fields = {"revision": True, "updated_at": True}
        with self._database.operation():
            found = self._database.chats.find(condition, fields, sort=order, limit=most, batch_size=most + 1)
            return list(found)

    def _reserve(self, tenant_id: str, most_of_day: int, wanted: int, now: datetime) -> int:
        """Count chats as taken before they are, so that no crash lets more go than may; return how many may go."""
        day = {"_id": _day(tenant_id, now)}
        with self._database.operation(writes=True):
            counted = self._database.retention_days.find_one(day) or {"taken": 0}
            number = min(wanted, most_of_day - int(counted["taken"]))
            if number <= 0:
                return 0
            change = {"$inc": {"taken": number}, "$setOnInsert": {"expires_at": now + COUNTED_FOR}}
            try:
                self._database.retention_days.update_one(
                    {**day, "taken": {"$lte": most_of_day - number}}, change, upsert=True
                )
            except DuplicateKeyError:  # another worker was faster, and there is not so much room any more
                return 0
        return number

    def _give_back(self, tenant_id: str, number: int, now: datetime) -> None:
        if number:
            with self._database.operation(writes=True):
                day = {"_id": _day(tenant_id, now)}
                self._database.retention_days.update_one(day, {"$inc": {"taken": -number}})

    def overdue(self) -> dict[str, int]:
        """Return of each tenant that has some how many chats should have been taken `OVERDUE` ago, and were not.

        Up to `OVERDUE_COUNTED`. Not those that are connected to, or held. One command for each policy, or two.
        """
        found = {tenant_id: self._overdue_of(tenant_id) for tenant_id in self.tenants()}
        return {tenant_id: number for tenant_id, number in found.items() if number}

    def overdue_in_all(self, seconds: float) -> int:
        """Return the sum of `overdue`, as it was at most `OVERDUE_KNOWN_SECONDS` ago, if the database says it in time.

        Raises:
            DatabaseUnavailableError: it does not.
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
        ids = [one["_id"]["chat_id"] for one in self._find(tenant_id, inactive, None, OVERDUE_COUNTED)]
        with self._database.operation():
            leases = self._presence.count_each(self._database.unbound(), tenant_id, ids)
        return sum(not leases[chat_id].live for chat_id in ids)


_SUMS = {"chats": {"$sum": 1}, "messages": {"$sum": "$message_count"}}


def _change(  # noqa: PLR0913, PLR0917 - a tenant, what changes, and what the log is told
    tx: UnitOfWork, tenant_id: str, tenant: Document, change: Document, changed_by: str, facts: Document
) -> None:
    version = tenant.get("retention_version", 0) + 1
    changed = tx.tenants.update_one({"_id": tenant_id}, {**change, "$inc": {"retention_version": 1}})
    if not changed.matched_count:
        raise LookupError(tenant_id)
    tx.log(tenant_id, Event(Kind.RETENTION_CHANGED, "", changed_by, facts, version))


def _inactive(since: datetime) -> Document:
    """Return the condition of chats that nothing has happened to since, and that have no end of their own.

    A restore counts as activity: what was trashed by the policy would be trashed again at once.
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
