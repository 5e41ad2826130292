"""The receipts of deleted chats: facts about the deletion, without content. They are kept for ever and never change.

The progress of removing a large chat's messages is in its purge while that is open, and then in its completion.
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
"""How long the cache knows that a chat has no receipt. A delete writes the receipt and removes the chat in one commit,
so this matters only after a restore of the database has brought chats back beside their receipts: they can be seen for
so long."""

KNOWN_CHATS = 20_000

Document = dict[str, Any]

IN_GRACE = {"in_grace": True}

KEPT_FIELDS = dict.fromkeys(("chat.message_count", "trashed_at", "purge_at", "trashed_by", "export_sha256"), True)


class Receipts:
    """Reads receipts; the deletes write them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._without: TTLCache[tuple[str, str], bool] = TTLCache(KNOWN_CHATS, KNOWN_SECONDS)
        self._lock = threading.Lock()

    def of_chats(self, tenant_id: str, chat_ids: Sequence[str]) -> dict[str, datetime]:
        """Return the time of deletion of each chat that has a receipt, even if a restore has brought the chat back.

        One command, or none if all chats were looked up within `KNOWN_SECONDS`.
        """
        with self._lock:
            unknown_ids = [chat_id for chat_id in chat_ids if (tenant_id, chat_id) not in self._without]
        if not unknown_ids:
            return {}
        keys = [chat_key(tenant_id, chat_id) for chat_id in unknown_ids]
        with self._database.operation():
            receipts = self._database.deletions.find({"_id": {"$in": keys}}, {"deleted_at": True})
            deleted = {receipt["_id"]["chat_id"]: receipt["deleted_at"] for receipt in receipts}
        with self._lock:
            self._without.update({(tenant_id, chat_id): True for chat_id in unknown_ids if chat_id not in deleted})
        return deleted

    def deleted_at(self, tenant_id: str, chat_id: str, *, had_grace: bool = False) -> datetime | None:
        """Return when the tenant deleted the chat, or None if it did not; with `had_grace`, also if it is in grace."""
        key = {"_id": chat_key(tenant_id, chat_id)}
        with self._database.operation():
            receipt = self._database.deletions.find_one(key, {"deleted_at": True})
            if receipt is None and had_grace:
                trashed = self._database.trash.find_one({**key, **IN_GRACE}, {"trashed_at": True})
                return None if trashed is None else trashed["trashed_at"]
        return None if receipt is None else receipt["deleted_at"]

    def get(self, tenant_id: str, chat_id: str, *, had_grace: bool = False) -> Deletion:
        """Return the receipt of a deleted chat; if the tenant `had_grace`, also the provisional one of a chat in grace.

        Raises:
            DeletionNotFoundError: the tenant has not deleted such a chat.
        """
        key = {"_id": chat_key(tenant_id, chat_id)}
        with self._database.operation():
            receipt = self._database.deletions.find_one(key)
            if receipt is not None:
                return self._with_progress(tenant_id, [receipt])[0]
            trashed = self._database.trash.find_one({**key, **IN_GRACE}, KEPT_FIELDS) if had_grace else None
        if trashed is None:
            raise DeletionNotFoundError
        return receipt_in_grace(trashed)

    def page(
        self,
        tenant_id: str,
        limit: int,
        since: datetime | None,
        after: ListPosition | None,
        *,
        had_grace: bool = False,
    ) -> list[Deletion]:
        """Return up to `limit` receipts after a position in the list, latest first, none before `since`."""
        with self._database.operation():
            documents = self._find("deletions", "deleted_at", tenant_id, limit, since, after)
            receipts = self._with_progress(tenant_id, documents)
            if had_grace:
                receipts += map(receipt_in_grace, self._find("trash", "trashed_at", tenant_id, limit, since, after))
                receipts.sort(key=lambda receipt: receipt.chat_id)
                receipts.sort(key=lambda receipt: receipt.deleted_at, reverse=True)
        return receipts[:limit]

    def _find(  # noqa: PLR0913, PLR0917 - a page of a list, from one collection or the other
        self,
        collection: str,
        time: str,
        tenant_id: str,
        limit: int,
        since: datetime | None,
        after: ListPosition | None,
    ) -> list[Document]:
        in_grace = IN_GRACE if collection == "trash" else {}
        recent = {} if since is None else {time: {"$gte": since}}
        condition: dict[str, Any] = {"_id.tenant_id": tenant_id, **in_grace, **recent}
        fields = KEPT_FIELDS if in_grace else None
        return latest_first(self._database.collections[collection], condition, time, limit, after, fields=fields)

    def _with_progress(self, tenant_id: str, receipts: Sequence[Document]) -> list[Deletion]:
        """Return the receipts with the progress of their purges: one more command, or two if any was staged."""
        ids = [receipt["_id"]["chat_id"] for receipt in receipts]
        open_purges = {"_id.tenant_id": tenant_id, "_id.chat_id": {"$in": ids}, "of_deletion": True}
        purges = {purge["_id"]["chat_id"]: purge for purge in self._database.purges.find(open_purges)} if ids else {}
        staged = [receipt["_id"] for receipt in receipts if receipt.get("staged", True)]
        documents = self._database.completions.find({"_id": {"$in": staged}}) if staged else ()
        completions = {completion["_id"]["chat_id"]: completion for completion in documents}
        now = self._database.now()
        return [
            from_document(receipt, purges.get(chat_id), completions.get(chat_id), now)
            for receipt, chat_id in zip(receipts, ids, strict=True)
        ]


def to_document(tenant_id: str, receipt: Deletion, operation: str) -> Document:
    """Return the document of a receipt; `operation` is the id of the run that deletes."""
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
    """Return the receipt of a document, with the progress of its purge, or with the purge's completion."""
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


def receipt_in_grace(trashed: Document) -> Deletion:
    """Return the provisional receipt of a chat that was deleted in grace, and is still in the trash."""
    count = trashed.get("chat", {}).get("message_count", 0)
    return Deletion(
        chat_id=trashed["_id"]["chat_id"],
        deleted_at=trashed["trashed_at"],
        message_count=count,
        requested_by=trashed["trashed_by"],
        purged=0,
        remaining=count,
        completed_at=None,
        estimated_at=trashed["purge_at"],
        export_sha256=trashed.get("export_sha256"),
    )


def split(receipt: Document) -> tuple[Document, Document | None]:
    """Return a receipt without the fields that change, and the completion that version 0.1 has written into it."""
    if "purged" not in receipt:
        return receipt, None
    migrated = {name: value for name, value in receipt.items() if name not in {"purged", "completed_at"}}
    migrated["staged"] = receipt["completed_at"] != receipt["deleted_at"]
    if not migrated["staged"] or receipt["completed_at"] is None:
        return migrated, None
    return migrated, {"_id": receipt["_id"], "purged": receipt["purged"], "completed_at": receipt["completed_at"]}
