"""Expired chats: past their own expiry or their time in the trash. Nobody can see them, and a job deletes them.

Held chats are passed over. They are found again when the hold has been released for some time (`protection.REST`).
"""

from datetime import datetime
from typing import Any, NamedTuple

from chat_service.repository.database import Database
from chat_service.repository.deferrals import defer, undeferred
from chat_service.repository.deletions import Deletions
from chat_service.repository.lifecycle import Removal
from chat_service.repository.protection import lets_jobs_delete, rested

BY_EXPIRY = "expiry"
"""`requested_by` in the receipt of a chat that reached its own expiry; from the trash it is whoever moved it there."""


class Place(NamedTuple):
    """A collection that chats are in, the field with their expiry there, and the path to the chat's own fields."""

    collection: str
    end_field: str
    prefix: str


PLACES = (Place("chats", "expires_at", ""), Place("trash", "purge_at", "chat."))


def find_free(
    database: Database, tenant_id: str, most: int, over_at: datetime | None = None
) -> list[tuple[Place, dict[str, Any]]]:
    """Return up to `most` chats of a tenant that a job may delete, each with its place. Two commands.

    With `over_at`, these are only chats that have expired by then. The documents contain the expiry, and who moved the
    chat to the trash.
    """
    now, found = database.now(), list[tuple[Place, dict[str, Any]]]()
    with database.operation():
        for place in PLACES:
            over = {} if over_at is None else {place.end_field: {"$lte": over_at}}
            free = {"_id.tenant_id": tenant_id, **over, **rested(now, place.prefix)}
            fields = {place.end_field: True, "trashed_by": True}
            chats = database.collections[place.collection].find(free, fields, limit=most, batch_size=most + 1)
            found += [(place, chat) for chat in chats]
    return found[:most]


class Expired:
    """Finds and deletes expired chats."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions

    def tenants(self) -> list[str]:
        """Return the sorted ids of the tenants that have expired chats, except those with a hold on everything."""
        now = self._database.now()
        tenant_ids = set[str]()
        with self._database.operation():
            for place in PLACES:
                over: dict[str, Any] = {
                    place.end_field: {"$lte": now},
                    "$or": [rested(now, place.prefix), undeferred(place.prefix)],
                }
                tenant_ids |= set(self._database.collections[place.collection].distinct("_id.tenant_id", over))
        return sorted(each for each in tenant_ids if lets_jobs_delete(self._database.rules.learn(each), now))

    def take_some(self, tenant_id: str, most: int) -> int:
        """Delete up to `most` expired chats of the tenant, close their connections, and return how many were found."""
        now = self._database.now()
        found = find_free(self._database, tenant_id, most, over_at=now)
        sum(self._deletions.remove_all(tenant_id, [_removal(chat, place) for place, chat in found]))
        for place in PLACES:
            over = {place.end_field: {"$lte": now}}
            defer(self._database, tenant_id, over, BY_EXPIRY, in_trash=place.collection == "trash")
        return len(found)


def _removal(document: dict[str, Any], place: Place) -> Removal:
    chat_id = document["_id"]["chat_id"]
    if place.collection == "trash":
        return Removal(chat_id, document["trashed_by"], of_trash=True, is_due=True)
    return Removal(chat_id, BY_EXPIRY, evict=True, is_due=True)
