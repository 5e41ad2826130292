"""Chats that jobs pass over because they are held: logged once, and due again when the hold is released."""

from typing import Any

from chat_service.repository.database import Database
from chat_service.repository.protection import log_refusals, refusals
from chat_service.repository.unit_of_work import UnitOfWork


def undeferred(prefix: str = "") -> dict[str, Any]:
    """Return the condition for held chats that were not logged yet; `prefix` is the path to the chat's own fields."""
    return {f"{prefix}holds.0": {"$exists": True}, f"{prefix}deferred_at": {"$exists": False}}


AT_ONCE = 200
"""The most chats that one transaction logs."""


def defer(database: Database, tenant_id: str, due: dict[str, Any], requested_by: str, *, in_trash: bool = False) -> int:
    """Log the chats that are `due` and held, `AT_ONCE` at most; mark them as deferred, and return their number."""
    prefix, name = ("chat.", "trash") if in_trash else ("", "chats")
    condition = {"_id.tenant_id": tenant_id, **due, **undeferred(prefix)}
    with database.operation():
        if database.collections[name].find_one(condition, {"_id": True}) is None:
            return 0

    def work(tx: UnitOfWork) -> int:
        collection = tx.trash if in_trash else tx.chats
        documents = {row["_id"]["chat_id"]: row for row in collection.find(condition, limit=AT_ONCE)}
        chats = {chat_id: row["chat"] if in_trash else row for chat_id, row in documents.items()}
        refused = refusals(tx, tenant_id, chats)
        log_refusals(tx, tenant_id, [(chat_id, requested_by, refusal) for chat_id, refusal in refused.items()])
        keys = [row["_id"] for row in documents.values()]
        collection.update_many({"_id": {"$in": keys}}, {"$set": {f"{prefix}deferred_at": tx.now}})
        return len(documents)

    return database.transaction(work)
