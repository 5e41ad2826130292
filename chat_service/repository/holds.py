"""Holds: placed on chats or on everything of a tenant, changed, and released. What they do is in protection.py.

A hold's record and the mark on its chats are written in one transaction: from its commit on nothing of them is
destroyed. A release writes the record only, however many chats there are: from that commit on the mark protects
nothing. It is taken off afterwards, by a job, which also lets the jobs wait that had to pass the chat over.
"""

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument

from chat_service.errors import ChatServiceError, HoldNotFoundError, HoldUnchangeableError, UnknownChatsError
from chat_service.models import Event, Hold, IdempotencyKey, Kind, ListPosition
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key, hold_key, unexpired
from chat_service.repository.lists import latest_first
from chat_service.repository.protection import IN_FORCE_AFTER
from chat_service.repository.unit_of_work import UnitOfWork

LIFTED_AT_ONCE = 1_000
"""Chats that the mark of a released hold is taken from with one command."""

Document = dict[str, Any]


class Holds:
    """The holds collection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def place(
        self,
        tenant_id: str,
        name: str,
        chat_ids: Sequence[str] | None,
        placed_by: str,
        key: IdempotencyKey | None = None,
    ) -> Hold:
        """Hold the chats, live or in the trash, or with None everything of the tenant; return the hold.

        Raises:
            UnknownChatsError: there are no chats of some of the ids; nothing was held.
            IdempotencyKeyReusedError: `key` came with another request before.
        """
        hold_id = str(uuid.uuid4())

        def work(tx: UnitOfWork) -> Hold | ChatServiceError:
            document = _new(tx, tenant_id, hold_id, name, placed_by, chat_ids)
            marked = _mark(tx, tenant_id, hold_id, chat_ids or ())
            if isinstance(marked, ChatServiceError):
                return marked
            if chat_ids is None:
                tx.tenants.update_one({"_id": tenant_id}, {"$addToSet": {"holds": hold_id}})
            tx.holds.insert_one(document)
            hold = _from_document(document)
            facts = {"everything": hold.everything, "chat_count": hold.chat_count, "chat_ids": list(chat_ids or ())}
            tx.log(tenant_id, Event(Kind.HOLD_PLACED, hold_id, placed_by, facts, document["revision"]))
            return hold

        def recall(facts: Document) -> Hold:
            return self.get(tenant_id, facts["id"])

        work_once = once(key, work, lambda hold: {"id": hold.id}, recall)
        return self._database.transaction(work_once)

    def page(self, tenant_id: str, limit: int, after: ListPosition | None) -> list[Hold]:
        """Return up to `limit` holds that come after a place in the list, latest first; released ones too."""
        own = {"_id.tenant_id": tenant_id}
        with self._database.operation():
            found = latest_first(self._database.holds, own, "placed_at", limit, after, id_field="_id.hold_id")
            return [_from_document(document) for document in found]

    def get(self, tenant_id: str, hold_id: str) -> Hold:
        """Return a hold.

        Raises:
            HoldNotFoundError: the tenant has no such hold.
        """
        with self._database.operation():
            document = self._database.holds.find_one({"_id": hold_key(tenant_id, hold_id)})
        if document is None:
            raise HoldNotFoundError
        return _from_document(document)

    def change(  # noqa: PLR0913, PLR0917 - which hold, what to change, who asks, and under which key
        self,
        tenant_id: str,
        hold_id: str,
        add: Sequence[str],
        remove: Sequence[str],
        changed_by: str,
        key: IdempotencyKey | None = None,
    ) -> Hold:
        """Put chats under the hold, take others out, and return it. What is so already stays so.

        Raises:
            HoldNotFoundError: the tenant has no such hold.
            HoldUnchangeableError: it was released, or is on everything.
            UnknownChatsError: there are no chats of some of the ids to add; nothing was changed.
            IdempotencyKeyReusedError: `key` came with another request before.
        """
        place = {"_id": hold_key(tenant_id, hold_id)}

        def work(tx: UnitOfWork) -> Hold | ChatServiceError:
            hold = tx.holds.find_one(place)
            if hold is None:
                return HoldNotFoundError()
            if hold["released_at"] is not None or hold["everything"]:
                return HoldUnchangeableError()
            added = _mark(tx, tenant_id, hold_id, add)
            if isinstance(added, ChatServiceError):
                return added
            difference = added - unmark(tx, tenant_id, hold_id, remove)
            changed = tx.holds.find_one_and_update(
                place, {"$inc": {"chat_count": difference, "revision": 1}}, return_document=ReturnDocument.AFTER
            )
            assert changed is not None  # noqa: S101 - it was there, in this transaction
            facts = {"chat_count": changed["chat_count"], "added": list(add), "removed": list(remove)}
            tx.log(tenant_id, Event(Kind.HOLD_CHANGED, hold_id, changed_by, facts, changed["revision"]))
            return _from_document(changed)

        def recall(_: Document) -> Hold:
            return self.get(tenant_id, hold_id)

        work_once = once(key, work, lambda _: {}, recall)
        return self._database.transaction(work_once)

    def release(self, tenant_id: str, hold_id: str, released_by: str) -> Hold:
        """End the hold, and return it; one that was released stays as it is.

        Raises:
            HoldNotFoundError: the tenant has no such hold.
        """
        place = {"_id": hold_key(tenant_id, hold_id)}

        def work(tx: UnitOfWork) -> Hold | ChatServiceError:
            end = {"$set": {"released_at": tx.now, "is_lifting": True}, "$inc": {"revision": 1}}
            standing = {**place, "released_at": None}
            hold = tx.holds.find_one_and_update(standing, end, return_document=ReturnDocument.AFTER)
            if hold is None:
                hold = tx.holds.find_one(place)
                return HoldNotFoundError() if hold is None else _from_document(hold)
            if hold["everything"]:
                lifted = {"$pull": {"holds": hold_id}, "$set": {"hold_released_at": tx.now}}
                tx.tenants.update_one({"_id": tenant_id}, lifted)
            facts = {"everything": hold["everything"], "chat_count": hold["chat_count"]}
            tx.log(tenant_id, Event(Kind.HOLD_RELEASED, hold_id, released_by, facts, hold["revision"]))
            return _from_document(hold)

        return self._database.transaction(work)

    def lift_some(self) -> int | None:
        """Take the mark of a released hold from some of its chats, and return from how many; None if none has any."""
        with self._database.operation():
            hold = self._database.holds.find_one({"is_lifting": True})
        if hold is None:
            return None
        tenant_id, hold_id = hold["_id"]["tenant_id"], hold["_id"]["hold_id"]

        def work(tx: UnitOfWork) -> int:
            ids: list[str] = []
            for collection, of in tx.places:
                condition = {"_id.tenant_id": tenant_id, f"{of}holds": hold_id}
                found = collection.find(condition, {"_id": True}, limit=LIFTED_AT_ONCE)
                ids += [one["_id"]["chat_id"] for one in found]
            if not ids:  # in this snapshot, so no chat was on its way from one to the other; and none is added any more
                tx.holds.update_one({"_id": hold["_id"]}, {"$unset": {"is_lifting": ""}})
            return unmark(tx, tenant_id, hold_id, ids, hold["released_at"])

        return self._database.transaction(work)

    def are_lifted(self) -> bool:
        """Tell whether no chat has the mark of a released hold."""
        with self._database.operation():
            return self._database.holds.find_one({"is_lifting": True}, {"_id": True}) is None


def _new(  # noqa: PLR0913, PLR0917 - all that a hold is
    tx: UnitOfWork, tenant_id: str, hold_id: str, name: str, placed_by: str, chat_ids: Collection[str] | None
) -> Document:
    everything = chat_ids is None
    return {
        "_id": hold_key(tenant_id, hold_id),
        "name": name,
        "everything": everything,
        "chat_count": len(set(chat_ids or ())),
        "placed_at": tx.now,
        "active_from": tx.now + IN_FORCE_AFTER if everything else tx.now,
        "placed_by": placed_by,
        "released_at": None,
        "revision": 1,
    }


def _mark(tx: UnitOfWork, tenant_id: str, hold_id: str, chat_ids: Sequence[str]) -> int | UnknownChatsError:
    """Put chats under the hold, wherever they are, and return how many were not; or which there are none of."""
    if not chat_ids:
        return 0
    condition: Document = {"_id": {"$in": [chat_key(tenant_id, chat_id) for chat_id in chat_ids]}}
    live = tx.read("chats", {**condition, **unexpired(tx.now)}, {"_id": True})
    kept = tx.read("trash", {**condition, "purge_at": {"$gt": tx.now}}, {"_id": True})
    there = {one["_id"]["chat_id"] for one in (*live, *kept)}
    if missing := [chat_id for chat_id in chat_ids if chat_id not in there]:
        return UnknownChatsError(missing)
    marked = 0
    for collection, chats, of in (tx.chats, live, ""), (tx.trash, kept, "chat."):
        if chats:
            keys = [one["_id"] for one in chats]
            # Of those that are marked already none can be destroyed meanwhile: this hold stands.
            marked += collection.update_many(
                {"_id": {"$in": keys}, f"{of}holds": {"$ne": hold_id}}, {"$addToSet": {f"{of}holds": hold_id}}
            ).matched_count
    return marked


def unmark(
    tx: UnitOfWork, tenant_id: str, hold_id: str, chat_ids: Sequence[str], released_at: datetime | None = None
) -> int:
    """Take chats out of the hold, and return how many were under it; jobs wait from `released_at` on, or from now."""
    if not chat_ids:
        return 0
    keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
    unmarked = 0
    for collection, of in tx.places:
        change = {
            "$pull": {f"{of}holds": hold_id},
            "$max": {f"{of}hold_released_at": released_at or tx.now},
            "$unset": {f"{of}deferred_at": ""},
        }
        unmarked += collection.update_many({"_id": {"$in": keys}, f"{of}holds": hold_id}, change).matched_count
    return unmarked


def _from_document(document: Document) -> Hold:
    return Hold(
        id=document["_id"]["hold_id"],
        name=document["name"],
        everything=document["everything"],
        chat_count=document["chat_count"],
        placed_at=document["placed_at"],
        active_from=document["active_from"],
        placed_by=document["placed_by"],
        released_at=document["released_at"],
    )
