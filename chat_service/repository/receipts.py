"""The receipts of deleted chats: facts about the operation, and no content. They are kept for ever, and never change.

How far the removal of a large chat's messages is, the purge says while it is open, and then its completion.
"""

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cachetools import TTLCache

from chat_service.errors import DeletionNotFoundError
from chat_service.models import Deletion, ListPosition
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_key
from chat_service.repository.lists import latest_first
from chat_service.repository.purges import estimated_end

KNOWN_SECONDS = 30.0
"""How long a chat is known to have no receipt. A delete takes the chat away with the same commit, so this matters only
where a restore of the database brings chats back beside their receipts: so long may they be seen after it."""

KNOWN_CHATS = 20_000

Document = dict[str, Any]

IN_GRACE = {"in_grace": True}

KEPT_FIELDS = dict.fromkeys(("chat.message_count", "trashed_at", "purge_at", "trashed_by", "export_sha256"), True)


class Receipts:
    """Finds receipts; a delete writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._without: TTLCache[tuple[str, str], bool] = TTLCache(KNOWN_CHATS, KNOWN_SECONDS)
        self._lock = threading.Lock()

    def of_chats(self, tenant_id: str, chat_ids: Sequence[str]) -> dict[str, datetime]:
        """Return when those of the chats that have a receipt were deleted, also if a restore has brought them back.

        One command, and none for chats that were asked for a moment ago.
        """
        with self._lock:
            asked = [chat_id for chat_id in chat_ids if (tenant_id, chat_id) not in self._without]
        if not asked:
            return {}
        keys = [chat_key(tenant_id, chat_id) for chat_id in asked]
        with self._database.operation():
            receipts = self._database.deletions.find({"_id": {"$in": keys}}, {"deleted_at": True})
            deleted = {receipt["_id"]["chat_id"]: receipt["deleted_at"] for receipt in receipts}
        with self._lock:
            self._without.update({(tenant_id, chat_id): True for chat_id in asked if chat_id not in deleted})
        return deleted

    def deleted_at(self, tenant_id: str, chat_id: str, *, had_grace: bool = False) -> datetime | None:
        """Return when the tenant has deleted the chat, or None if it has not."""
        key = {"_id": chat_key(tenant_id, chat_id)}
        with self._database.operation():
            receipt = self._database.deletions.find_one(key, {"deleted_at": True})
            if receipt is None and had_grace:
                kept = self._database.trash.find_one({**key, **IN_GRACE}, {"trashed_at": True})
                return None if kept is None else kept["trashed_at"]
        return None if receipt is None else receipt["deleted_at"]

    def get(self, tenant_id: str, chat_id: str, *, had_grace: bool = False) -> Deletion:
        """Return the receipt of a deleted chat; where the tenant `had_grace`, also what stands for one meanwhile.

        Raises:
            DeletionNotFoundError: the tenant has deleted no such chat.
        """
        key = {"_id": chat_key(tenant_id, chat_id)}
        with self._database.operation():
            receipt = self._database.deletions.find_one(key)
            if receipt is not None:
                return self._with_progress(tenant_id, [receipt])[0]
            kept = self._database.trash.find_one({**key, **IN_GRACE}, KEPT_FIELDS) if had_grace else None
        if kept is None:
            raise DeletionNotFoundError
        return in_grace(kept)

    def page(
        self,
        tenant_id: str,
        limit: int,
        since: datetime | None,
        after: ListPosition | None,
        *,
        had_grace: bool = False,
    ) -> list[Deletion]:
        """Return up to `limit` receipts that come after a place in the list, latest first, none before `since`."""
        with self._database.operation():
            receipts = self._find("deletions", "deleted_at", tenant_id, limit, since, after)
            found = self._with_progress(tenant_id, receipts)
            if had_grace:
                found += map(in_grace, self._find("trash", "trashed_at", tenant_id, limit, since, after))
                found.sort(key=lambda one: one.chat_id)
                found.sort(key=lambda one: one.deleted_at, reverse=True)
        return found[:limit]

    def _find(  # noqa: PLR0913, PLR0917 - a stretch of a list, in one collection or the other
        self,
        collection: str,
        time: str,
        tenant_id: str,
        limit: int,
        since: datetime | None,
        after: ListPosition | None,
    ) -> list[Document]:
        of_kind = IN_GRACE if collection == "trash" else {}
        recent = {} if since is None else {time: {"$gte": since}}
        condition: dict[str, Any] = {"_id.tenant_id": tenant_id, **of_kind, **recent}
        fields = KEPT_FIELDS if of_kind else None
        return latest_first(self._database.collections[collection], condition, time, limit, after, fields=fields)

    def _with_progress(self, tenant_id: str, receipts: Sequence[Document]) -> list[Deletion]:
        """Return the receipts with how far their purges are: one command more, and two if any was staged."""
        ids = [receipt["_id"]["chat_id"] for receipt in receipts]
        wanted = {"_id.tenant_id": tenant_id, "_id.chat_id": {"$in": ids}, "of_deletion": True}
        purges = {found["_id"]["chat_id"]: found for found in self._database.purges.find(wanted)} if ids else {}
        staged = [receipt["_id"] for receipt in receipts if receipt.get("staged", True)]
        completions = self._database.completions.find({"_id": {"$in": staged}}) if staged else ()
        completed = {found["_id"]["chat_id"]: found for found in completions}
        now = self._database.now()
        return [
            from_document(receipt, purges.get(chat_id), completed.get(chat_id), now)
            for receipt, chat_id in zip(receipts, ids, strict=True)
        ]


def to_document(tenant_id: str, receipt: Deletion, operation: str) -> Document:
    """Return the document that keeps the receipt; `operation` names the run that deletes."""
    return {
        "_id": chat_key(tenant_id, receipt.chat_id),
        "deleted_at": receipt.deleted_at,
        "message_count": receipt.message_count,
        "requested_by": receipt.requested_by,
        "operation": operation,
        "staged": receipt.completed_at != receipt.deleted_at,
        **({} if receipt.export_sha256 is None else {"export_sha256": receipt.export_sha256}),
    }


def from_document(
    receipt: Document, purge: Document | None = None, completion: Document | None = None, now: datetime | None = None
) -> Deletion:
    """Return the receipt that the document keeps, with the progress of its purge, or what that left when it ended."""
    receipt, earlier = split(receipt)
    completion = completion or earlier
    purged, remaining, completed_at = receipt["message_count"], 0, receipt["deleted_at"]
    if purge is not None:
        purged, remaining, completed_at = purge["purged"], max(purge["messages"] - purge["purged"], 0), None
    elif completion is not None:
        purged, completed_at = completion["purged"], completion["completed_at"]
    elif receipt["staged"]:
        purged, remaining, completed_at = 0, purged, None
    return Deletion(
        chat_id=receipt["_id"]["chat_id"],
        deleted_at=receipt["deleted_at"],
        message_count=receipt["message_count"],
        requested_by=receipt["requested_by"],
        purged=purged,
        remaining=remaining,
        completed_at=completed_at,
        estimated_at=estimated_end(purge, now) if purge and now else None,
        export_sha256=receipt.get("export_sha256"),
    )


def in_grace(kept: Document) -> Deletion:
    """Return what stands for the receipt of a chat that was deleted in grace, and lies in the trash."""
    count = kept.get("chat", {}).get("message_count", 0)
    return Deletion(
        chat_id=kept["_id"]["chat_id"],
        deleted_at=kept["trashed_at"],
        message_count=count,
        requested_by=kept["trashed_by"],
        purged=0,
        remaining=count,
        completed_at=None,
        estimated_at=kept["purge_at"],
        export_sha256=kept.get("export_sha256"),
    )


def split(receipt: Document) -> tuple[Document, Document | None]:
    """Return a receipt in the form that does not change, and the completion that version 0.1 has written into it."""
    if "purged" not in receipt:
        return receipt, None
    kept = {name: value for name, value in receipt.items() if name not in {"purged", "completed_at"}}
    kept["staged"] = receipt["completed_at"] != receipt["deleted_at"]
    if not kept["staged"] or receipt["completed_at"] is None:
        return kept, None
    return kept, {"_id": receipt["_id"], "purged": receipt["purged"], "completed_at": receipt["completed_at"]}
