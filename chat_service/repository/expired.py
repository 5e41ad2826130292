"""Chats whose time is over, their own or that in the trash: gone for everybody, and to be deleted.

What a hold keeps is passed over, and found again when the hold was released and has rested.
"""

from typing import Any, NamedTuple

from chat_service.repository.database import Database
from chat_service.repository.deferrals import defer, undeferred
from chat_service.repository.deletions import Deletions
from chat_service.repository.lifecycle import Removal
from chat_service.repository.protection import lets_jobs_delete, rested

BY_EXPIRY = "expiry"
"""Who has asked for the delete of a chat at its own end, in its receipt; of one in the trash it is who moved it."""


class Place(NamedTuple):
    """Where a chat is, the field that says when its time is over, and the path to the chat's own fields."""

    collection: str
    end: str
    of: str


PLACES = (Place("chats", "expires_at", ""), Place("trash", "purge_at", "chat."))


class Expired:
    """Finds and deletes them."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions

    def tenants(self) -> list[str]:
        """Return the tenants that have some, in their order; not those of which everything is held."""
        now = self._database.now()
        found = set[str]()
        with self._database.operation():
            for place in PLACES:
                over: dict[str, Any] = {place.end: {"$lte": now}, "$or": [rested(now, place.of), undeferred(place.of)]}
                found |= set(self._database.collections[place.collection].distinct("_id.tenant_id", over))
        return sorted(one for one in found if lets_jobs_delete(self._database.rules.learn(one), now))

    def delete(self, tenant_id: str, most: int) -> int:
        """Delete some of the tenant's, `most` at most, and return how many. Whoever is connected to one is let go."""
        now = self._database.now()
        removals: list[Removal] = []
        with self._database.operation():
            for place in PLACES:
                due = {"_id.tenant_id": tenant_id, place.end: {"$lte": now}, **rested(now, place.of)}
                found = self._database.collections[place.collection].find(
                    due, {"trashed_by": True}, limit=most, batch_size=most + 1
                )
                removals += [_removal(one, place) for one in found]
        sum(self._deletions.remove_all(tenant_id, removals[:most]))
        for place in PLACES:
            over = {place.end: {"$lte": now}}
            defer(self._database, tenant_id, over, BY_EXPIRY, in_trash=place.collection == "trash")
        return min(len(removals), most)


def _removal(document: dict[str, Any], place: Place) -> Removal:
    chat_id = document["_id"]["chat_id"]
    if place.collection == "trash":
        return Removal(chat_id, document["trashed_by"], of_trash=True, is_due=True)
    return Removal(chat_id, BY_EXPIRY, evict=True, is_due=True)
