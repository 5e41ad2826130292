"""What jobs pass over because a hold keeps it: the log is told once, and the release makes it due again."""

from typing import Any

from chat_service.repository.database import Database
from chat_service.repository.protection import log_refusals, refusals
from chat_service.repository.unit_of_work import UnitOfWork


def undeferred(of: str = "") -> dict[str, Any]:
    """Return the condition of held chats that the log was not told of; `of` is the path to the chat's own fields."""
    return {f"{of}holds.0": {"$exists": True}, f"{of}deferred_at": {"$exists": False}}


AT_ONCE = 200
"""Chats that one transaction tells the log of."""


def defer(database: Database, tenant_id: str, due: dict[str, Any], by: str, *, in_trash: bool = False) -> int:
    """Tell the log of chats that are `due` and held, `AT_ONCE` at most, and return how many there were."""
    of, name = ("chat.", "trash") if in_trash else ("", "chats")
    condition = {"_id.tenant_id": tenant_id, **due, **undeferred(of)}
    with database.operation():
        if database.collections[name].find_one(condition, {"_id": True}) is None:
            return 0

    def work(tx: UnitOfWork) -> int:
        collection = tx.trash if in_trash else tx.chats
        found = {one["_id"]["chat_id"]: one for one in collection.find(condition, limit=AT_ONCE)}
        chats = {chat_id: one["chat"] if in_trash else one for chat_id, one in found.items()}
        refused = refusals(tx, tenant_id, chats)
        log_refusals(tx, tenant_id, [(chat_id, by, refusal) for chat_id, refusal in refused.items()])
        keys = [one["_id"] for one in found.values()]
        collection.update_many({"_id": {"$in": keys}}, {"$set": {f"{of}deferred_at": tx.now}})
        return len(found)

    return database.transaction(work)
