"""Deletes a tenant, with proof: its chats by the same code as any other delete, and then everything else of it.

The request revokes the tenant's keys. After the time that a process may take to learn of that, a job deletes the chats,
live and trashed; each has its receipt and its entry in the log. A hold takes precedence here too: what is held stays,
and the tenant with it, until the release. When nothing is left of any chat, not even for a purge, everything that the
tenant has set up is removed, and the log gets its last entry, `tenant.deleted`. The log and the receipts stay: they
have ids, counts and times, and are the proof. The tenant's id stays too, so that no other tenant ever gets it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from chat_service.errors import ChatServiceError, LegalHoldError
from chat_service.models import Event, Kind, TenantDeletion
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.expired import Place, find_free
from chat_service.repository.keys import chat_range, is_over
from chat_service.repository.lifecycle import Removal
from chat_service.repository.protection import IN_FORCE_AFTER, lets_jobs_delete
from chat_service.repository.sequencer import Sequencer
from chat_service.repository.tenants import Tenants
from chat_service.repository.unit_of_work import UnitOfWork

STOPPED_AFTER = IN_FORCE_AFTER
"""From the request until no operation that was started with a key of the tenant can still be running."""

SET_UP = ("webhooks", "deliveries", "holds", "erasures")
"""The collections of what the tenant has set up, and of its results. Tickets, idempotency records and token buckets
expire within a day."""

Document = dict[str, Any]


class TenantDeletions:
    """The deletions of tenants: requested, in progress and completed."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions
        self._sequencer = Sequencer(database)
        self._tenants = Tenants(database)

    def request(self, tenant_id: str, requested_by: str) -> None:
        """Request the deletion of the tenant, and revoke its keys at once. A second request changes nothing.

        Raises:
            LookupError: there is no such tenant.
            LegalHoldError: the tenant has holds; release them first.
        """

        def work(tx: UnitOfWork) -> ChatServiceError | None:
            tenant = tx.tenants.find_one({"_id": tenant_id})
            if tenant is None:
                raise LookupError(tenant_id)
            if "deletion" in tenant:
                return None
            unreleased = tx.holds.find({"_id.tenant_id": tenant_id, "released_at": None}, {"_id": True})
            if hold_ids := [hold["_id"]["hold_id"] for hold in unreleased]:
                return LegalHoldError(hold_ids)
            begin(tx, tenant_id, {"requested_at": tx.now, "requested_by": requested_by})
            return None

        self._database.transaction(work)

    def get(self, tenant_id: str) -> TenantDeletion:
        """Return the progress of a tenant's deletion.

        Raises:
            LookupError: it was not requested.
        """
        with self._database.operation():
            tenant = self._database.tenants.find_one({"_id": tenant_id}) or {}
            if "deletion" not in tenant:
                raise LookupError(tenant_id)
            deletion = tenant["deletion"]
            purges = self._database.purges.count_documents({"_id.tenant_id": tenant_id})
        chats = self._tenants.count_chats(tenant_id)
        return TenantDeletion(deletion["requested_at"], deletion.get("completed_at"), chats, purges)

    def tenants(self) -> list[str]:
        """Return the ids of the tenants whose deletion can make progress now, sorted."""
        now = self._database.now()
        requested = {"deletion.requested_at": {"$lte": now - STOPPED_AFTER}, "deletion.completed_at": None}
        with self._database.operation(writes=True):
            tenant_ids = [tenant["_id"] for tenant in self._database.tenants.find(requested, {"_id": True})]
            return sorted(tenant_id for tenant_id in tenant_ids if self._check_due(tenant_id))

    def _check_due(self, tenant_id: str) -> bool:
        """Return whether the tenant has chats that can be deleted, or has no chats left and the log has all its events.

        The latter makes sure that the entry which ends the log is the last one.
        """
        if not lets_jobs_delete(self._database.rules.learn(tenant_id), self._database.now()):
            return False
        if find_free(self._database, tenant_id, 1):
            return True
        return _is_empty(self._database.unbound(), tenant_id) and self._note_emptied(tenant_id)

    def take_some(self, tenant_id: str, most: int) -> int:
        """Delete up to `most` chats of the tenant and return how many; or, without chats, the rest, which counts as 1.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: a later call will find what is left.
        """
        chats = find_free(self._database, tenant_id, most)
        if not chats:
            return int(self._finish(tenant_id))
        with self._database.operation():
            requested_by = self._database.tenants.find_one({"_id": tenant_id})["deletion"]["requested_by"]
        removals = [self._removal(chat, place, requested_by) for place, chat in chats]
        return sum(self._deletions.remove_all(tenant_id, removals))

    def _removal(self, chat: Document, place: Place, requested_by: str) -> Removal:
        is_due, of_trash = is_over(chat.get(place.end_field), self._database.now()), place.collection == "trash"
        chat_id = chat["_id"]["chat_id"]
        return Removal(chat_id, requested_by, evict=True, of_trash=of_trash, is_due=is_due, governs=True)

    def _finish(self, tenant_id: str) -> bool:
        """If the tenant has no chats left, remove everything else and log `tenant.deleted`; return whether it did."""
        with self._database.operation(writes=True):
            if not _is_empty(self._database.unbound(), tenant_id):
                return False
            for name in SET_UP:
                self._database.collections[name].delete_many({"_id.tenant_id": tenant_id})
            self._database.api_keys.delete_many({"tenant_id": tenant_id})
        deleted = self._deleted(tenant_id)

        def work(tx: UnitOfWork) -> bool:
            tenant = tx.tenants.find_one({"_id": tenant_id})
            if tenant is None or tenant.get("holds") or not _is_empty(tx, tenant_id):
                return False
            deletion = tenant["deletion"]
            if "completed_at" in deletion:
                return False
            fields = {"name": "", "created_at": tenant["created_at"], "deletion": {**deletion, "completed_at": tx.now}}
            tx.tenants.replace_one({"_id": tenant_id}, {"_id": tenant_id, **fields})
            if not deletion.get("is_logged"):
                tx.log(tenant_id, deleted)
            return True

        return self._database.transaction(work)

    def _deleted(self, tenant_id: str) -> Event:
        """Return the last event of the log, with the counts of what was deleted since the request, which are final."""
        sums = {"_id": None, "chat_count": {"$sum": 1}, "message_count": {"$sum": "$message_count"}}
        with self._database.operation():
            deletion = self._database.tenants.find_one({"_id": tenant_id})["deletion"]
            own = {"_id.tenant_id": tenant_id, "deleted_at": {"$gte": deletion["requested_at"]}}
            totals = self._database.deletions.aggregate([{"$match": own}, {"$group": sums}, {"$unset": "_id"}])
            counts = next(iter(totals), {"chat_count": 0, "message_count": 0})
        facts = {"requested_at": deletion["requested_at"], **counts}
        return Event(Kind.TENANT_DELETED, "", deletion["requested_by"], facts)

    def _note_emptied(self, tenant_id: str) -> bool:
        """Save when the tenant was first seen without chats; return whether the log has all events up to then."""
        unnoted = {"_id": tenant_id, "deletion.emptied_at": None}
        self._database.tenants.update_one(unnoted, {"$set": {"deletion.emptied_at": self._database.now()}})
        tenant = self._database.tenants.find_one({"_id": tenant_id})
        log = self._sequencer.status()
        emptied_at: datetime = tenant["deletion"]["emptied_at"]
        return log.up_to is not None and log.up_to > emptied_at and not log.is_rescanning


def begin(tx: UnitOfWork, tenant_id: str, deletion: Mapping[str, Any]) -> None:
    """Mark the tenant as one to be deleted, and revoke its keys."""
    tx.tenants.update_one({"_id": tenant_id}, {"$set": {"deletion": dict(deletion)}})
    tx.api_keys.update_many({"tenant_id": tenant_id, "revoked_at": None}, {"$set": {"revoked_at": tx.now}})


def _is_empty(tx: UnitOfWork, tenant_id: str) -> bool:
    """Return whether nothing of any chat is left, by a search of the collections themselves."""
    own = {"_id.tenant_id": tenant_id}
    if any(collection.find_one(own, {"_id": True}) for collection in (tx.chats, tx.trash, tx.purges)):
        return False
    return tx.messages.find_one({"_id": chat_range(tenant_id)}, {"_id": True}) is None
