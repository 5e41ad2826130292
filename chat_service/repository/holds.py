"""Places holds on chats or on everything of a tenant, changes and releases them. Their effect is in protection.py.

A hold's record and the marks on its chats are written in one transaction: after its commit nothing of the chats is
destroyed. A release writes only the record, however many chats there are: after its commit the marks protect nothing.
A job removes the marks later. It also makes the jobs that had to pass a chat over wait before they delete it.
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
"""Chats that one command removes the mark of a released hold from."""

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
        """Place a hold on the chats, live or in the trash, or with None on everything of the tenant; return the hold.

        Raises:
            UnknownChatsError: there are no chats with some of the ids; no hold was placed.
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
        """Return up to `limit` holds that come after a position in the list, latest first, including released ones."""
        own = {"_id.tenant_id": tenant_id}
        with self._database.operation():
            documents = latest_first(self._database.holds, own, "placed_at", limit, after, id_field="_id.hold_id")
            return [_from_document(document) for document in documents]

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
        """Add chats to the hold, remove others from it, and return it. Chats that are on it or off it already stay so.

        Raises:
            HoldNotFoundError: the tenant has no such hold.
            HoldUnchangeableError: the hold was released, or is on everything.
            UnknownChatsError: there are no chats with some of the ids to add; nothing was changed.
            IdempotencyKeyReusedError: `key` came with another request before.
        """
        own = {"_id": hold_key(tenant_id, hold_id)}

        def work(tx: UnitOfWork) -> Hold | ChatServiceError:
            hold = tx.holds.find_one(own)
            if hold is None:
                return HoldNotFoundError()
            if hold["released_at"] is not None or hold["everything"]:
                return HoldUnchangeableError()
            added = _mark(tx, tenant_id, hold_id, add)
            if isinstance(added, ChatServiceError):
                return added
            difference = added - unmark(tx, tenant_id, hold_id, remove)
            changed = tx.holds.find_one_and_update(
                own, {"$inc": {"chat_count": difference, "revision": 1}}, return_document=ReturnDocument.AFTER
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
        """Release the hold, and return it; a hold that was released before stays as it is.

        Raises:
            HoldNotFoundError: the tenant has no such hold.
        """
        own = {"_id": hold_key(tenant_id, hold_id)}

        def work(tx: UnitOfWork) -> Hold | ChatServiceError:
            end = {"$set": {"released_at": tx.now, "is_lifting": True}, "$inc": {"revision": 1}}
            unreleased = {**own, "released_at": None}
            hold = tx.holds.find_one_and_update(unreleased, end, return_document=ReturnDocument.AFTER)
            if hold is None:
                hold = tx.holds.find_one(own)
                return HoldNotFoundError() if hold is None else _from_document(hold)
            if hold["everything"]:
                lifted = {"$pull": {"holds": hold_id}, "$set": {"hold_released_at": tx.now}}
                tx.tenants.update_one({"_id": tenant_id}, lifted)
            facts = {"everything": hold["everything"], "chat_count": hold["chat_count"]}
            tx.log(tenant_id, Event(Kind.HOLD_RELEASED, hold_id, released_by, facts, hold["revision"]))
            return _from_document(hold)

        return self._database.transaction(work)

    def lift_some(self) -> int | None:
        """Remove the mark of a released hold from some chats; return from how many, or None if no marks are left."""
        with self._database.operation():
            hold = self._database.holds.find_one({"is_lifting": True})
        if hold is None:
            return None
        tenant_id, hold_id = hold["_id"]["tenant_id"], hold["_id"]["hold_id"]

        def work(tx: UnitOfWork) -> int:
            chat_ids: list[str] = []
            for collection, prefix in tx.chat_collections:
                condition = {"_id.tenant_id": tenant_id, f"{prefix}holds": hold_id}
                documents = collection.find(condition, {"_id": True}, limit=LIFTED_AT_ONCE)
                chat_ids += [document["_id"]["chat_id"] for document in documents]
            # Both reads are of one snapshot, so no chat moved between the collections; and no mark is added any more.
            if not chat_ids:
                tx.holds.update_one({"_id": hold["_id"]}, {"$unset": {"is_lifting": ""}})
            return unmark(tx, tenant_id, hold_id, chat_ids, hold["released_at"])

        return self._database.transaction(work)

    def are_lifted(self) -> bool:
        """Tell whether the marks of all released holds have been removed."""
        with self._database.operation():
            return self._database.holds.find_one({"is_lifting": True}, {"_id": True}) is None


def _new(  # noqa: PLR0913, PLR0917 - all fields of a hold
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
    """Mark chats, live or in the trash, with the hold; return how many were not marked yet, or which do not exist."""
    if not chat_ids:
        return 0
    condition: Document = {"_id": {"$in": [chat_key(tenant_id, chat_id) for chat_id in chat_ids]}}
    live = tx.read("chats", {**condition, **unexpired(tx.now)}, {"_id": True})
    trashed = tx.read("trash", {**condition, "purge_at": {"$gt": tx.now}}, {"_id": True})
    existing = {chat["_id"]["chat_id"] for chat in (*live, *trashed)}
    if missing := [chat_id for chat_id in chat_ids if chat_id not in existing]:
        return UnknownChatsError(missing)
    marked = 0
    for collection, chats, prefix in (tx.chats, live, ""), (tx.trash, trashed, "chat."):
        if chats:
            keys = [chat["_id"] for chat in chats]
            # Chats that are marked already are not written: this hold is in force, so they cannot be destroyed.
            marked += collection.update_many(
                {"_id": {"$in": keys}, f"{prefix}holds": {"$ne": hold_id}}, {"$addToSet": {f"{prefix}holds": hold_id}}
            ).matched_count
    return marked


def unmark(
    tx: UnitOfWork, tenant_id: str, hold_id: str, chat_ids: Sequence[str], released_at: datetime | None = None
) -> int:
    """Remove the hold's mark from chats; return how many had it. Jobs wait from `released_at`, or from now."""
    if not chat_ids:
        return 0
    keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
    unmarked = 0
    for collection, prefix in tx.chat_collections:
        change = {
            "$pull": {f"{prefix}holds": hold_id},
            "$max": {f"{prefix}hold_released_at": released_at or tx.now},
            "$unset": {f"{prefix}deferred_at": ""},
        }
        unmarked += collection.update_many({"_id": {"$in": keys}, f"{prefix}holds": hold_id}, change).matched_count
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
