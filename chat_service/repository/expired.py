"""Chats whose time is over, their own or that in the trash: gone for everybody, and to be deleted.

What a hold keeps is passed over, and found again when the hold was released and has rested.
"""

from datetime import datetime
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


def find_free(
    database: Database, tenant_id: str, most: int, over_at: datetime | None = None
) -> list[tuple[Place, dict[str, Any]]]:
    """Return up to `most` chats of a tenant that a job may delete, with where each is; those whose time is over then.

    Of each it returns the end, and who has moved it to the trash. Two commands.
    """
    now, found = database.now(), list[tuple[Place, dict[str, Any]]]()
    with database.operation():
        for place in PLACES:
            over = {} if over_at is None else {place.end: {"$lte": over_at}}
            free = {"_id.tenant_id": tenant_id, **over, **rested(now, place.of)}
            fields = {place.end: True, "trashed_by": True}
            chats = database.collections[place.collection].find(free, fields, limit=most, batch_size=most + 1)
            found += [(place, chat) for chat in chats]
    return found[:most]


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

    def take_some(self, tenant_id: str, most: int) -> int:
        """Delete some of the tenant's, `most` at most, and return how many. Whoever is connected to one is let go."""
        now = self._database.now()
        found = find_free(self._database, tenant_id, most, over_at=now)
        sum(self._deletions.remove_all(tenant_id, [_removal(chat, place) for place, chat in found]))
        for place in PLACES:
            over = {place.end: {"$lte": now}}
            defer(self._database, tenant_id, over, BY_EXPIRY, in_trash=place.collection == "trash")
        return len(found)


def _removal(document: dict[str, Any], place: Place) -> Removal:
    chat_id = document["_id"]["chat_id"]
    if place.collection == "trash":
        return Removal(chat_id, document["trashed_by"], of_trash=True, is_due=True)
    return Removal(chat_id, BY_EXPIRY, evict=True, is_due=True)
