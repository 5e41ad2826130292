"""Deleting a tenant, with proof: its chats through the gate that everybody's go through, and then all else of it.

From the request on its keys are revoked. After as long as a process may not know that yet, a job deletes the chats,
live and trashed; each has its receipt and its entry in the log. A hold wins here too: what is held stays, and the
tenant with it, until the release. When nothing is left of any chat, also not for a purge, what the tenant had set up
goes, and the log gets its last entry, `tenant.deleted`. The log and the receipts stay: they hold ids, counts and
times, and are the proof. Of the tenant itself its id stays, so that it is never given to another one.
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
"""From the request until nothing that a key of the tenant began can still be under way."""

SET_UP = ("webhooks", "deliveries", "holds", "erasures")
"""What the tenant has set up, and what comes of it. Tickets, idempotency records and token buckets end by themselves
within a day."""

Document = dict[str, Any]


class TenantDeletions:
    """Tenants that are to be deleted, and that were."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions
        self._sequencer = Sequencer(database)
        self._tenants = Tenants(database)

    def request(self, tenant_id: str, requested_by: str) -> None:
        """Have the tenant deleted, and end its keys at once. Asked for again it changes nothing.

        Raises:
            LookupError: there is no such tenant.
            LegalHoldError: it holds chats; release them first.
        """

        def work(tx: UnitOfWork) -> ChatServiceError | None:
            tenant = tx.tenants.find_one({"_id": tenant_id})
            if tenant is None:
                raise LookupError(tenant_id)
            if "deletion" in tenant:
                return None
            standing = tx.holds.find({"_id.tenant_id": tenant_id, "released_at": None}, {"_id": True})
            if holds := [hold["_id"]["hold_id"] for hold in standing]:
                return LegalHoldError(holds)
            begin(tx, tenant_id, {"requested_at": tx.now, "requested_by": requested_by})
            return None

        self._database.transaction(work)

    def get(self, tenant_id: str) -> TenantDeletion:
        """Return how far the deletion of a tenant is.

        Raises:
            LookupError: nobody has asked for it.
        """
        with self._database.operation():
            tenant = self._database.tenants.find_one({"_id": tenant_id}) or {}
            if "deletion" not in tenant:
                raise LookupError(tenant_id)
            asked = tenant["deletion"]
            purges = self._database.purges.count_documents({"_id.tenant_id": tenant_id})
        chats = self._tenants.count_chats(tenant_id)
        return TenantDeletion(asked["requested_at"], asked.get("completed_at"), chats, purges)

    def tenants(self) -> list[str]:
        """Return the tenants of which something can be deleted now, in their order."""
        now = self._database.now()
        asked = {"deletion.requested_at": {"$lte": now - STOPPED_AFTER}, "deletion.completed_at": None}
        with self._database.operation(writes=True):
            found = [one["_id"] for one in self._database.tenants.find(asked, {"_id": True})]
            return sorted(one for one in found if self._is_due(one))

    def _is_due(self, tenant_id: str) -> bool:
        """Tell whether it has chats that can be deleted; or nothing at all any more, and the log has all of that.

        So the entry that closes it is the last one.
        """
        if not lets_jobs_delete(self._database.rules.learn(tenant_id), self._database.now()):
            return False
        if find_free(self._database, tenant_id, 1):
            return True
        return _is_empty(self._database.unbound(), tenant_id) and self._is_logged(tenant_id)

    def take_some(self, tenant_id: str, most: int) -> int:
        """Delete some chats of the tenant, `most` at most, or with the last one gone the rest; return how many.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: what is left is found again.
        """
        found = find_free(self._database, tenant_id, most)
        if not found:
            return int(self._finish(tenant_id))
        with self._database.operation():
            requested_by = self._database.tenants.find_one({"_id": tenant_id})["deletion"]["requested_by"]
        removals = [self._removal(chat, place, requested_by) for place, chat in found]
        return sum(self._deletions.remove_all(tenant_id, removals))

    def _removal(self, chat: Document, place: Place, requested_by: str) -> Removal:
        is_due, of_trash = is_over(chat.get(place.end_field), self._database.now()), place.collection == "trash"
        chat_id = chat["_id"]["chat_id"]
        return Removal(chat_id, requested_by, evict=True, of_trash=of_trash, is_due=is_due, governs=True)

    def _finish(self, tenant_id: str) -> bool:
        """Remove what the tenant had beside its chats, if none is left, and have the log say so; return whether."""
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
            asked = tenant["deletion"]
            if "completed_at" in asked:
                return False
            end = {"name": "", "created_at": tenant["created_at"], "deletion": {**asked, "completed_at": tx.now}}
            tx.tenants.replace_one({"_id": tenant_id}, {"_id": tenant_id, **end})
            if not asked.get("is_logged"):
                tx.log(tenant_id, deleted)
            return True

        return self._database.transaction(work)

    def _deleted(self, tenant_id: str) -> Event:
        """Return the last event of the log, with what was deleted since it was asked for: nothing comes to that."""
        sums = {"_id": None, "chat_count": {"$sum": 1}, "message_count": {"$sum": "$message_count"}}
        with self._database.operation():
            asked = self._database.tenants.find_one({"_id": tenant_id})["deletion"]
            own = {"_id.tenant_id": tenant_id, "deleted_at": {"$gte": asked["requested_at"]}}
            found = self._database.deletions.aggregate([{"$match": own}, {"$group": sums}, {"$unset": "_id"}])
            counts = next(iter(found), {"chat_count": 0, "message_count": 0})
        return Event(Kind.TENANT_DELETED, "", asked["requested_by"], {"requested_at": asked["requested_at"], **counts})

    def _is_logged(self, tenant_id: str) -> bool:
        """Tell whether the log is beyond the moment when the tenant was first seen without chats, and note that."""
        unseen = {"_id": tenant_id, "deletion.emptied_at": None}
        self._database.tenants.update_one(unseen, {"$set": {"deletion.emptied_at": self._database.now()}})
        tenant = self._database.tenants.find_one({"_id": tenant_id})
        log = self._sequencer.status()
        emptied_at: datetime = tenant["deletion"]["emptied_at"]
        return log.up_to is not None and log.up_to > emptied_at and not log.is_rescanning


def begin(tx: UnitOfWork, tenant_id: str, asked: Mapping[str, Any]) -> None:
    """Mark the tenant as one to be deleted, and end its keys."""
    tx.tenants.update_one({"_id": tenant_id}, {"$set": {"deletion": dict(asked)}})
    tx.api_keys.update_many({"tenant_id": tenant_id, "revoked_at": None}, {"$set": {"revoked_at": tx.now}})


def _is_empty(tx: UnitOfWork, tenant_id: str) -> bool:
    """Tell whether nothing of any chat is left, counted where it lies and not by what anybody has noted."""
    own = {"_id.tenant_id": tenant_id}
    if any(collection.find_one(own, {"_id": True}) for collection in (tx.chats, tx.trash, tx.purges)):
        return False
    return tx.messages.find_one({"_id": chat_range(tenant_id)}, {"_id": True}) is None
