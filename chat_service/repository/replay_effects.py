"""What the entries of a log tell, done again to a database that was restored from before them; see replay.py.

Nothing is asked for: no hold, connection or revision. It was done once, and the log is there because it was.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from chat_service.models import MAX_SEQ, Deletion, ErasureMode, Kind, LogEntry
from chat_service.repository import receipts, tenant_deletions
from chat_service.repository.erasures import REDACTION, UNFINISHED, erase_messages
from chat_service.repository.holds import unmark
from chat_service.repository.keys import chat_key, erasure_key, hold_key, message_key
from chat_service.repository.lifecycle import in_trash, revived
from chat_service.repository.protection import IN_FORCE_AFTER
from chat_service.repository.purges import Purges, remove_inline
from chat_service.repository.unit_of_work import UnitOfWork

INLINE_LIMIT = 100
"""Messages up to which a chat's own go in the transaction; those of larger ones are left to a purge."""

Document = dict[str, Any]


class Effects:
    """One for each kind of entry."""

    def __init__(self, purges: Purges) -> None:
        self._purges = purges
        self._of_kind: Mapping[Kind, Callable[[UnitOfWork, str, LogEntry], None]] = {
            Kind.CHAT_TRASHED: _trash,
            Kind.CHAT_RESTORED: _restore,
            Kind.CHAT_DELETED: self._delete,
            Kind.CHAT_EMPTIED: self._empty,
            Kind.MESSAGE_DELETED: _delete_message,
            Kind.MESSAGE_EDITED: _redact_message,
            Kind.SENDER_ERASED: _erase,
            Kind.RETENTION_CHANGED: _change_retention,
            Kind.TENANT_DELETED: _delete_tenant,
        }

    def of(self, tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
        """Do what the entry tells; nothing for what changes no chat, and for holds, which came first."""
        effect = self._of_kind.get(entry.event.kind)
        if effect is not None:
            effect(tx, tenant_id, entry)

    def _delete(self, tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
        """Leave the receipt too, also of a chat that the backup has not: its id never comes back."""
        key = chat_key(tenant_id, entry.event.chat_id)
        if tx.deletions.find_one({"_id": key}, {"_id": True}) is not None:
            return
        chat = tx.chats.find_one_and_delete({"_id": key})
        if chat is None and (kept := tx.trash.find_one_and_delete({"_id": key})) is not None:
            chat = {**kept["chat"], "_id": key}
        is_large = chat is not None and self._remove_messages(tx, tenant_id, chat)
        tx.deletions.insert_one({**_receipt(tenant_id, entry), "staged": is_large})

    def _empty(self, tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
        key = {"_id": chat_key(tenant_id, entry.event.chat_id)}
        chat = tx.chats.find_one(key)
        if chat is None:
            return
        emptied = {"message_count": 0, "first_seq": chat["next_seq"], "last_message_at": None, "updated_at": entry.at}
        is_large = chat["message_count"] > INLINE_LIMIT
        tx.chats.update_one(key, {"$inc": {"revision": 1, "open_purges": int(is_large)}, "$set": emptied})
        if is_large:
            stretch = (chat["first_seq"], chat["next_seq"] - 1)
            self._purges.open(tx, tenant_id, entry.event.chat_id, stretch, chat["message_count"], of_deletion=False)
        else:
            remove_inline(tx, [chat])

    def _remove_messages(self, tx: UnitOfWork, tenant_id: str, chat: Document) -> bool:
        """Remove the messages of a deleted chat; tell whether they are so many that a purge does it."""
        if chat["message_count"] <= INLINE_LIMIT and not chat.get("open_purges"):
            remove_inline(tx, [chat])
            return False
        chat_id = chat["_id"]["chat_id"]
        self._purges.take_over(tx, tenant_id, chat_id)
        self._purges.open(tx, tenant_id, chat_id, (0, MAX_SEQ), chat["message_count"], of_deletion=True)
        return True


def of_hold(tx: UnitOfWork, tenant_id: str, entry: LogEntry, name: str) -> None:
    """Place, change or release a hold again; what was done before is not done twice."""
    hold_id, facts = entry.event.chat_id, entry.event.facts
    place = {"_id": hold_key(tenant_id, hold_id)}
    hold = tx.holds.find_one(place)
    is_standing = hold is not None and hold["released_at"] is None
    if entry.event.kind is Kind.HOLD_PLACED and hold is None:
        tx.holds.insert_one({**place, **_hold(entry, name)})
        if facts["everything"]:
            tx.tenants.update_one({"_id": tenant_id}, {"$addToSet": {"holds": hold_id}})
        _mark(tx, tenant_id, hold_id, facts["chat_ids"])
    elif entry.event.kind is Kind.HOLD_CHANGED and is_standing:
        _mark(tx, tenant_id, hold_id, facts["added"])
        unmark(tx, tenant_id, hold_id, facts["removed"], entry.at)
        tx.holds.update_one(place, {"$set": {"chat_count": facts["chat_count"]}, "$inc": {"revision": 1}})
    elif entry.event.kind is Kind.HOLD_RELEASED and is_standing:
        tx.holds.update_one(place, {"$set": {"released_at": entry.at, "is_lifting": True}, "$inc": {"revision": 1}})
        if facts["everything"]:
            lifted = {"$pull": {"holds": hold_id}, "$set": {"hold_released_at": entry.at}}
            tx.tenants.update_one({"_id": tenant_id}, lifted)


def _hold(entry: LogEntry, name: str) -> Document:
    facts = entry.event.facts
    return {
        "name": name,
        "everything": facts["everything"],
        "chat_count": facts["chat_count"],
        "placed_at": entry.at,
        "active_from": entry.at + IN_FORCE_AFTER if facts["everything"] else entry.at,
        "placed_by": entry.event.actor,
        "released_at": None,
        "revision": 1,
    }


def _mark(tx: UnitOfWork, tenant_id: str, hold_id: str, chat_ids: Sequence[str]) -> None:
    """Put those of the chats under the hold that the backup has."""
    keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
    for collection, of in tx.places:
        if keys:
            collection.update_many({"_id": {"$in": keys}}, {"$addToSet": {f"{of}holds": hold_id}})


def _trash(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    event = entry.event
    chat = tx.chats.find_one_and_delete({"_id": chat_key(tenant_id, event.chat_id)})
    if chat is None:
        return
    purge_at = datetime.fromisoformat(event.facts["purge_at"])
    told = {name: event.facts[name] for name in ("in_grace", "export_sha256") if name in event.facts}
    tx.trash.insert_one(in_trash(chat, entry.at, purge_at, event.actor, uuid.uuid4().hex, told))


def _restore(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    kept = tx.trash.find_one_and_delete({"_id": chat_key(tenant_id, entry.event.chat_id)})
    if kept is not None:
        restoration = {"operation": uuid.uuid4().hex, "at": entry.at}
        tx.chats.insert_one({**revived(kept), "restoration": restoration})


def _receipt(tenant_id: str, entry: LogEntry) -> Document:
    event, count = entry.event, entry.event.facts["message_count"]
    told = Deletion(
        chat_id=event.chat_id,
        deleted_at=entry.at,
        message_count=count,
        requested_by=event.actor,
        purged=count,
        remaining=0,
        completed_at=entry.at,
        export_sha256=event.facts.get("export_sha256"),
    )
    return receipts.to_document(tenant_id, told, uuid.uuid4().hex)


def _delete_message(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    seq, chat_id = entry.event.facts["message_seq"], entry.event.chat_id
    if tx.messages.delete_one({"_id": message_key(tenant_id, chat_id, seq)}).deleted_count:
        _touch(tx, tenant_id, entry, message_count=-1)


def _redact_message(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    """What an edit has taken away stays away; what it put in its place no log has."""
    seq, chat_id = entry.event.facts["message_seq"], entry.event.chat_id
    taken = {"content": REDACTION["content"], "metadata": REDACTION["metadata"], "edited_at": entry.at}
    if tx.messages.update_one({"_id": message_key(tenant_id, chat_id, seq)}, {"$set": taken}).matched_count:
        _touch(tx, tenant_id, entry)


def _touch(tx: UnitOfWork, tenant_id: str, entry: LogEntry, **counts: int) -> None:
    change = {"$inc": {"revision": 1, **counts}, "$set": {"updated_at": entry.at}}
    tx.chats.update_one({"_id": chat_key(tenant_id, entry.event.chat_id)}, change)


def _erase(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    """Erase the messages that were one chat's, or complete the record where that was the last."""
    facts = entry.event.facts
    place = {"_id": erasure_key(tenant_id, facts["erasure_id"])}
    if not entry.event.chat_id:
        _complete_erasure(tx, place, entry)
        return
    keys = [message_key(tenant_id, entry.event.chat_id, seq) for seq in facts.get("message_seqs", ())]
    mode = ErasureMode(facts["mode"])
    if keys:
        erase_messages(tx, keys, mode)
    left = -len(keys) if mode is ErasureMode.REMOVE else 0
    chat, first = {"_id": chat_key(tenant_id, entry.event.chat_id)}, 0
    for collection, of in tx.places:
        first += collection.count_documents({**chat, f"{of}erasures": {"$ne": facts["erasure_id"]}})
        change = {
            "$inc": {f"{of}revision": 1, f"{of}message_count": left},
            "$addToSet": {f"{of}erasures": facts["erasure_id"]},
        }
        collection.update_one(chat, change)
    # One that was under way in the backup goes on, and counts on.
    tx.erasures.update_one({**place, "completed_at": None}, {"$inc": {"chats": first, "messages": len(keys)}})


def _complete_erasure(tx: UnitOfWork, place: Document, entry: LogEntry) -> None:
    facts = entry.event.facts
    told = {
        "mode": facts["mode"],
        "requested_at": datetime.fromisoformat(facts["requested_at"]),
        "requested_by": entry.event.actor,
        "chats": facts["chat_count"],
        "messages": facts["message_count"],
        "deferred": 0,
        "is_deferred": False,
        "completed_at": entry.at,
    }
    tx.erasures.update_one(place, {"$set": told, "$unset": dict.fromkeys(UNFINISHED, "")}, upsert=True)


def _change_retention(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    facts = entry.event.facts
    policy: Document = {"$unset": {"retention": ""}}
    if facts["delete_after_days"] is not None:
        says = {name: facts[name] for name in ("delete_after_days", "action", "max_per_day")}
        active_from = datetime.fromisoformat(facts["active_from"])
        told = {**says, "active_from": active_from, "changed_at": entry.at, "changed_by": entry.event.actor}
        policy = {"$set": {"retention": {**told, "before": None}}}
    tx.tenants.update_one({"_id": tenant_id}, {**policy, "$inc": {"retention_version": 1}})


def _delete_tenant(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    """Have a worker remove again what the backup has of it; that it was deleted, this entry says already."""
    asked = {"requested_at": datetime.fromisoformat(entry.event.facts["requested_at"])}
    tenant_deletions.begin(tx, tenant_id, {**asked, "requested_by": entry.event.actor, "is_logged": True})
