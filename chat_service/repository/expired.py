"""Chats whose time is over, their own or that in the trash: gone for everybody, and to be deleted."""

from chat_service.repository.database import Database
from chat_service.repository.deletions import GROUP_CHATS, Deletions
from chat_service.repository.lifecycle import Removal

BY_EXPIRY = "expiry"
"""Who has asked for the delete of a chat at its own end, in its receipt; of one in the trash it is who moved it."""


class Expired:
    """Finds and deletes them."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions

    def tenants(self) -> list[str]:
        """Return the tenants that have some, in their order."""
        over = {"$lte": self._database.now()}
        with self._database.operation():
            found = set(self._database.chats.distinct("_id.tenant_id", {"expires_at": over}))
            return sorted(found | set(self._database.trash.distinct("_id.tenant_id", {"purge_at": over})))

    def delete(self, tenant_id: str, most: int) -> int:
        """Delete some of the tenant's, `most` at most, and return how many. Whoever is connected to one is let go."""
        over = {"$lte": self._database.now()}
        with self._database.operation():
            chats = self._database.chats.find(
                {"_id.tenant_id": tenant_id, "expires_at": over}, {"_id": True}, limit=most, batch_size=most + 1
            )
            removals = [Removal(one["_id"]["chat_id"], BY_EXPIRY, evict=True, is_due=True) for one in chats]
            kept = self._database.trash.find(
                {"_id.tenant_id": tenant_id, "purge_at": over}, {"trashed_by": True}, limit=most, batch_size=most + 1
            )
            removals += [Removal(one["_id"]["chat_id"], one["trashed_by"], of_trash=True, is_due=True) for one in kept]
        removals = removals[:most]
        for start in range(0, len(removals), GROUP_CHATS):
            self._deletions.remove_together(tenant_id, removals[start : start + GROUP_CHATS])
        return len(removals)
