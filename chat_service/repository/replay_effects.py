"""Applies the entries of a log again, to a database that was restored from a backup older than they are; see replay.py.

No hold, connection or revision is checked: the log has an entry only because its change was made once.
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
from chat_service.repository.lifecycle import chat_from_trash, trash_document
from chat_service.repository.protection import IN_FORCE_AFTER
from chat_service.repository.purges import Purges, remove_inline
from chat_service.repository.unit_of_work import UnitOfWork

INLINE_LIMIT = 100
"""Up to this many messages of a chat are removed in the transaction; those of a larger chat are left to a purge."""

Document = dict[str, Any]


class Effects:
    """Applies entries, with one function for each kind of them."""

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

    def apply(self, tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
        """Apply the entry; nothing for kinds that change no chat, and for holds, which were applied before."""
        effect = self._of_kind.get(entry.event.kind)
        if effect is not None:
            effect(tx, tenant_id, entry)

    def _delete(self, tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
        """Delete the chat and write its receipt, even if the backup does not have the chat: its id never comes back."""
        key = chat_key(tenant_id, entry.event.chat_id)
        if tx.deletions.find_one({"_id": key}, {"_id": True}) is not None:
            return
        chat = tx.chats.find_one_and_delete({"_id": key})
        if chat is None and (trashed := tx.trash.find_one_and_delete({"_id": key})) is not None:
            chat = {**trashed["chat"], "_id": key}
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
        """Remove the messages of a deleted chat; return whether they are so many that a purge has to remove them."""
        if chat["message_count"] <= INLINE_LIMIT and not chat.get("open_purges"):
            remove_inline(tx, [chat])
            return False
        chat_id = chat["_id"]["chat_id"]
        self._purges.take_over(tx, tenant_id, chat_id)
        self._purges.open(tx, tenant_id, chat_id, (0, MAX_SEQ), chat["message_count"], of_deletion=True)
        return True


def apply_hold(tx: UnitOfWork, tenant_id: str, entry: LogEntry, name: str) -> None:
    """Place, change or release a hold again, unless the database has that already."""
    hold_id, facts = entry.event.chat_id, entry.event.facts
    key = {"_id": hold_key(tenant_id, hold_id)}
    hold = tx.holds.find_one(key)
    is_standing = hold is not None and hold["released_at"] is None
    if entry.event.kind is Kind.HOLD_PLACED and hold is None:
        tx.holds.insert_one({**key, **_hold_fields(entry, name)})
        if facts["everything"]:
            tx.tenants.update_one({"_id": tenant_id}, {"$addToSet": {"holds": hold_id}})
        _mark(tx, tenant_id, hold_id, facts["chat_ids"])
    elif entry.event.kind is Kind.HOLD_CHANGED and is_standing:
        _mark(tx, tenant_id, hold_id, facts["added"])
        unmark(tx, tenant_id, hold_id, facts["removed"], entry.at)
        tx.holds.update_one(key, {"$set": {"chat_count": facts["chat_count"]}, "$inc": {"revision": 1}})
    elif entry.event.kind is Kind.HOLD_RELEASED and is_standing:
        tx.holds.update_one(key, {"$set": {"released_at": entry.at, "is_lifting": True}, "$inc": {"revision": 1}})
        if facts["everything"]:
            lifted = {"$pull": {"holds": hold_id}, "$set": {"hold_released_at": entry.at}}
            tx.tenants.update_one({"_id": tenant_id}, lifted)


def _hold_fields(entry: LogEntry, name: str) -> Document:
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
    """Put the chats under the hold, as far as the backup has them."""
    keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
    for collection, prefix in tx.chat_collections:
        if keys:
            collection.update_many({"_id": {"$in": keys}}, {"$addToSet": {f"{prefix}holds": hold_id}})


def _trash(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    event = entry.event
    chat = tx.chats.find_one_and_delete({"_id": chat_key(tenant_id, event.chat_id)})
    if chat is None:
        return
    purge_at = datetime.fromisoformat(event.facts["purge_at"])
    grace_facts = {name: event.facts[name] for name in ("in_grace", "export_sha256") if name in event.facts}
    tx.trash.insert_one(trash_document(chat, entry.at, purge_at, event.actor, uuid.uuid4().hex, grace_facts))


def _restore(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    trashed = tx.trash.find_one_and_delete({"_id": chat_key(tenant_id, entry.event.chat_id)})
    if trashed is not None:
        restoration = {"operation": uuid.uuid4().hex, "at": entry.at}
        tx.chats.insert_one({**chat_from_trash(trashed), "restoration": restoration})


def _receipt(tenant_id: str, entry: LogEntry) -> Document:
    event, count = entry.event, entry.event.facts["message_count"]
    receipt = Deletion(
        chat_id=event.chat_id,
        deleted_at=entry.at,
        message_count=count,
        requested_by=event.actor,
        purged=count,
        remaining=0,
        completed_at=entry.at,
        export_sha256=event.facts.get("export_sha256"),
    )
    return receipts.to_document(tenant_id, receipt, uuid.uuid4().hex)


def _delete_message(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    seq, chat_id = entry.event.facts["message_seq"], entry.event.chat_id
    if tx.messages.delete_one({"_id": message_key(tenant_id, chat_id, seq)}).deleted_count:
        _touch(tx, tenant_id, entry, message_count=-1)


def _redact_message(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    """Redact an edited message: the old text must not come back, and the log does not have the new one."""
    seq, chat_id = entry.event.facts["message_seq"], entry.event.chat_id
    redaction = {"content": REDACTION["content"], "metadata": REDACTION["metadata"], "edited_at": entry.at}
    if tx.messages.update_one({"_id": message_key(tenant_id, chat_id, seq)}, {"$set": redaction}).matched_count:
        _touch(tx, tenant_id, entry)


def _touch(tx: UnitOfWork, tenant_id: str, entry: LogEntry, **counts: int) -> None:
    change = {"$inc": {"revision": 1, **counts}, "$set": {"updated_at": entry.at}}
    tx.chats.update_one({"_id": chat_key(tenant_id, entry.event.chat_id)}, change)


def _erase(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    """Erase the entry's messages of one chat; or complete the erasure's record, if the entry is of its end."""
    facts = entry.event.facts
    erasure = {"_id": erasure_key(tenant_id, facts["erasure_id"])}
    if not entry.event.chat_id:
        _complete_erasure(tx, erasure, entry)
        return
    keys = [message_key(tenant_id, entry.event.chat_id, seq) for seq in facts.get("message_seqs", ())]
    mode = ErasureMode(facts["mode"])
    if keys:
        erase_messages(tx, keys, mode)
    count_change = -len(keys) if mode is ErasureMode.REMOVE else 0
    chat, new_chats = {"_id": chat_key(tenant_id, entry.event.chat_id)}, 0
    for collection, prefix in tx.chat_collections:
        new_chats += collection.count_documents({**chat, f"{prefix}erasures": {"$ne": facts["erasure_id"]}})
        change = {
            "$inc": {f"{prefix}revision": 1, f"{prefix}message_count": count_change},
            "$addToSet": {f"{prefix}erasures": facts["erasure_id"]},
        }
        collection.update_one(chat, change)
    # An erasure that was unfinished in the backup goes on, and continues its counts.
    tx.erasures.update_one({**erasure, "completed_at": None}, {"$inc": {"chats": new_chats, "messages": len(keys)}})


def _complete_erasure(tx: UnitOfWork, erasure: Document, entry: LogEntry) -> None:
    facts = entry.event.facts
    record = {
        "mode": facts["mode"],
        "requested_at": datetime.fromisoformat(facts["requested_at"]),
        "requested_by": entry.event.actor,
        "chats": facts["chat_count"],
        "messages": facts["message_count"],
        "deferred": 0,
        "is_deferred": False,
        "completed_at": entry.at,
    }
    tx.erasures.update_one(erasure, {"$set": record, "$unset": dict.fromkeys(UNFINISHED, "")}, upsert=True)


def _change_retention(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    facts = entry.event.facts
    change: Document = {"$unset": {"retention": ""}}
    if facts["delete_after_days"] is not None:
        settings = {name: facts[name] for name in ("delete_after_days", "action", "max_per_day")}
        active_from = datetime.fromisoformat(facts["active_from"])
        policy = {**settings, "active_from": active_from, "changed_at": entry.at, "changed_by": entry.event.actor}
        change = {"$set": {"retention": {**policy, "before": None}}}
    tx.tenants.update_one({"_id": tenant_id}, {**change, "$inc": {"retention_version": 1}})


def _delete_tenant(tx: UnitOfWork, tenant_id: str, entry: LogEntry) -> None:
    """Let a worker delete again what the backup has of the tenant, without a second `tenant.deleted` entry."""
    request = {"requested_at": datetime.fromisoformat(entry.event.facts["requested_at"])}
    tenant_deletions.begin(tx, tenant_id, {**request, "requested_by": entry.event.actor, "is_logged": True})
