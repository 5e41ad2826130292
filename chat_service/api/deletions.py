"""Deletions: delete chats, one or many, and read their receipts."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.bulk import for_each
from chat_service.api.chats import etag
from chat_service.api.context import caller, repositories
from chat_service.api.fields import seconds
from chat_service.api.openapi import HELD, raises
from chat_service.api.paging import paged
from chat_service.api.parsing import expected_revisions, idempotency_key
from chat_service.api.schemas import (
    BulkIn,
    BulkOut,
    DeleteChatIn,
    DeletionOut,
    PreviewOut,
    ReceiptOut,
    ReceiptPageIn,
    ReceiptPageOut,
)
from chat_service.errors import (
    ActiveConnectionsError,
    DeletionNotFoundError,
    RequestInProgressError,
)
from chat_service.models import Deletion, DeletionPreview, ListPosition, Scope

blueprint = Blueprint("deletions", __name__, url_prefix="/api/v1", description="Deleting chats, and their receipts")


@blueprint.delete("/chats/<chat_id>")
@requires(Scope.DELETE, allow_deleted=True)
@raises(ActiveConnectionsError, *HELD, headers="If-Match Idempotency-Key")
@blueprint.arguments(DeleteChatIn(), location="query")
@blueprint.response(200, DeletionOut())
def delete_chat(query: dict[str, Any], chat_id: str) -> Deletion:
    """Delete a chat with all its messages, permanently and atomically.

    Either everything is deleted, or nothing is changed. Refused with 409 `active_connections` while WebSockets to the
    chat are live, unless `on_active` is `evict`: then they get a `chat.deleted`, and are closed. A chat under a hold is
    not deleted: 409 `legal_hold` for a key with the scope `govern`, `not_deletable` for others. With an
    `Idempotency-Key`, a retry gets the first response again. After 503 `outcome_unknown`, retry, or look up the
    receipt. The id is never used again: a second delete is 404. A chat in the trash is deleted too. With the `ETag` of
    an export in `If-Match`, exactly what was exported is deleted, or the response is 412.
    """
    who, options = caller(), {"evict": query["on_active"] == "evict", "export_sha256": query["export_sha256"]}
    return repositories().deletions.delete(
        who.tenant_id, chat_id, who.key_id, expected_revisions(), idempotency_key(), grace=who.grace or None, **options
    )


@blueprint.get("/chats/<chat_id>/deletion-preview")
@requires(Scope.READ)
@blueprint.response(200, PreviewOut())
def preview_deletion(chat_id: str) -> tuple[DeletionPreview, dict[str, str]]:
    """Preview what deleting the chat now would do. Its ETag in If-Match deletes exactly what you saw.

    Nothing is deleted or reserved.
    """
    who = caller()
    preview = repositories().previews.get(who.tenant_id, chat_id)
    return preview if who.governs else replace(preview, holds=None), etag(preview.revision)


@blueprint.post("/chats/delete")
@requires(Scope.DELETE, counts="chat_ids")
@raises(RequestInProgressError, headers="Idempotency-Key")
@blueprint.arguments(BulkIn())
@blueprint.response(200, BulkOut())
def delete_chats(body: dict[str, Any]) -> dict[str, Any]:
    """Delete up to 1,000 chats, each by itself: a chat that cannot be deleted is reported, and stops no other.

    The status is 200 even if nothing was deleted: `failed` has a code for each chat that was not, `successful` has the
    others. With an `Idempotency-Key`, a retry continues where the first request was cut off.
    """
    who, key = caller(), idempotency_key()
    return for_each(
        body["chat_ids"],
        lambda ids: repositories().bulk.remove(who.tenant_id, ids, who.key_id, key, grace=who.grace or None),
        lambda deletion: {"deleted_at": seconds(deletion.deleted_at)},
    )


@blueprint.get("/deletions")
@requires(Scope.READ)
@blueprint.arguments(ReceiptPageIn(), location="query")
@blueprint.response(200, ReceiptPageOut())
@paged("deletions", lambda deletion: ListPosition(deletion.deleted_at, deletion.chat_id))
def list_deletions(limit: int, after: ListPosition | None, since: datetime | None) -> list[Deletion]:
    """List the receipts of the tenant's deleted chats, latest first.

    Receipts are kept for ever. Follow `next_cursor` until it is null.
    """
    who = caller()
    return repositories().receipts.page(who.tenant_id, limit, since, after, had_grace=who.grace is not None)


@blueprint.get("/deletions/<chat_id>")
@requires(Scope.READ, allow_deleted=True)
@raises(DeletionNotFoundError)
@blueprint.response(200, ReceiptOut())
def get_deletion(chat_id: str) -> Deletion:
    """Get a receipt: when and by which key the chat was deleted, and how far its purge is.

    No route can read messages that are left to purge.
    """
    who = caller()
    return repositories().receipts.get(who.tenant_id, chat_id, had_grace=who.grace is not None)
