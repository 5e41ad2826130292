"""The trash: move chats there, list them, restore them, and delete them before their time is over."""

from datetime import timedelta
from typing import Any

from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.bulk import for_each
from chat_service.api.chats import etag
from chat_service.api.context import caller, repositories
from chat_service.api.openapi import HELD, raises
from chat_service.api.paging import paged
from chat_service.api.parsing import expected_revisions, idempotency_key
from chat_service.api.schemas import ChatOut, DeleteIn, DeletionOut, PageIn
from chat_service.api.trash_schemas import (
    BulkRestoreIn,
    BulkRestoreOut,
    BulkTrashIn,
    BulkTrashOut,
    TrashedChatOut,
    TrashIn,
    TrashingOut,
    TrashPageOut,
)
from chat_service.errors import ActiveConnectionsError, ChatNotFoundError, NotInTrashError, RequestInProgressError
from chat_service.models import Chat, Deletion, ListPosition, Scope, TrashedChat, Trashing, milliseconds

blueprint = Blueprint("trash", __name__, url_prefix="/api/v1", description="Chats that can be restored")


@blueprint.post("/chats/<chat_id>/trash")
@requires(Scope.DELETE)
@raises(ActiveConnectionsError, headers="If-Match Idempotency-Key")
@blueprint.arguments(TrashIn(), required=False)
@blueprint.arguments(DeleteIn(), location="query")
@blueprint.response(200, TrashingOut())
def trash_chat(body: dict[str, Any], query: dict[str, Any], chat_id: str) -> Trashing:
    """Move a chat to the trash: from now on every route answers as if it were deleted, but it can be restored.

    Refused with 409 `active_connections` like a delete, with the same `on_active`. A chat that is already in the trash
    stays there, with the same `purge_at`. At `purge_at` it is deleted, as by `DELETE /chats/{chat_id}`, which can also
    delete it earlier.
    """
    who, keep, evict = caller(), timedelta(days=body["keep_days"]), query["on_active"] == "evict"
    return repositories().deletions.move_to_trash(
        who.tenant_id, chat_id, who.key_id, keep, expected_revisions(), idempotency_key(), evict=evict
    )


@blueprint.post("/chats/trash")
@requires(Scope.DELETE, counts="chat_ids")
@raises(RequestInProgressError, headers="Idempotency-Key")
@blueprint.arguments(BulkTrashIn())
@blueprint.response(200, BulkTrashOut())
def trash_chats(body: dict[str, Any]) -> dict[str, Any]:
    """Move up to 1,000 chats to the trash, each by itself: a chat that cannot be moved is reported, and stops no other.

    With an `Idempotency-Key`, a retry continues where the first request was cut off.
    """
    who, key, keep = caller(), idempotency_key(), timedelta(days=body["keep_days"])

    def run(ids: list[str]) -> dict[str, Any]:
        return repositories().bulk.remove(who.tenant_id, ids, who.key_id, key, keep)

    return for_each(body["chat_ids"], run, _times)


@blueprint.get("/trash")
@requires(Scope.READ)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, TrashPageOut())
@paged("trash", lambda chat: ListPosition(chat.trashed_at, chat.id))
def list_trash(limit: int, after: ListPosition | None) -> list[TrashedChat]:
    """List the chats of the tenant that can be restored, latest first.

    Follow `next_cursor` until it is null.
    """
    return repositories().trash.page(caller().tenant_id, limit, after, governs=caller().governs)


@blueprint.get("/trash/<chat_id>")
@requires(Scope.READ)
@raises(NotInTrashError)
@blueprint.response(200, TrashedChatOut())
def get_trashed_chat(chat_id: str) -> TrashedChat:
    """Get a chat of the trash: since when it is there, until when, and which key moved it there.

    Its messages can be read only after it was restored.
    """
    return repositories().trash.get(caller().tenant_id, chat_id, governs=caller().governs)


@blueprint.post("/trash/<chat_id>/restore")
@requires(Scope.WRITE)
@raises(NotInTrashError, headers="Idempotency-Key")
@blueprint.response(200, ChatOut())
def restore_chat(chat_id: str) -> tuple[Chat, dict[str, str]]:
    """Restore a chat from the trash: it is as it was, with all its messages.

    Its revision has grown, so ETags from before no longer match. Its clients have to connect again, and tickets from
    before are no longer valid.
    """
    who = caller()
    chat = repositories().trash.restore(who.tenant_id, chat_id, who.key_id, idempotency_key(), governs=who.governs)
    return chat, etag(chat.revision, chat.active_connections)


@blueprint.post("/trash/restore")
@requires(Scope.WRITE, counts="chat_ids")
@raises(RequestInProgressError, headers="Idempotency-Key")
@blueprint.arguments(BulkRestoreIn())
@blueprint.response(200, BulkRestoreOut())
def restore_chats(body: dict[str, Any]) -> dict[str, Any]:
    """Restore up to 1,000 chats, each by itself: a chat that cannot be restored is reported, and stops no other.

    With an `Idempotency-Key`, a retry continues where the first request was cut off.
    """
    who, key = caller(), idempotency_key()
    return for_each(
        body["chat_ids"],
        lambda ids: repositories().bulk.restore(who.tenant_id, ids, who.key_id, key, governs=who.governs),
        lambda chat: {"message_count": chat.message_count},
    )


@blueprint.delete("/trash/<chat_id>")
@requires(Scope.DELETE)
@raises(NotInTrashError, *HELD, headers="Idempotency-Key")
@blueprint.response(200, DeletionOut())
def delete_trashed_chat(chat_id: str) -> Deletion:
    """Delete a chat of the trash for good, as `DELETE /chats/{chat_id}` does: with the same response and receipt.

    A chat that is not in the trash is not deleted: 404 `not_in_trash`. Nor is one that a hold keeps: 409.
    """
    who = caller()
    try:
        return repositories().deletions.delete(
            who.tenant_id, chat_id, who.key_id, key=idempotency_key(), of_trash=True, governs=who.governs
        )
    except ChatNotFoundError as error:
        raise NotInTrashError from error


def _times(trashing: Trashing) -> dict[str, Any]:
    return {"trashed_at": milliseconds(trashing.trashed_at), "purge_at": milliseconds(trashing.purge_at)}
