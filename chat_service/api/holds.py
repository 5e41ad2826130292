"""Holds: a chat under a hold is not destroyed, whoever asks for it and whatever is due."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.hold_schemas import HoldIn, HoldOut, HoldPageOut, HoldPatch
from chat_service.api.openapi import raises
from chat_service.api.paging import paged
from chat_service.api.parsing import idempotency_key
from chat_service.api.schemas import PageIn
from chat_service.errors import HoldUnchangeableError, UnknownChatsError, ValidationFailedError
from chat_service.models import Hold, ListPosition, Scope

blueprint = Blueprint("holds", __name__, url_prefix="/api/v1", description="Chats that must not be deleted")


@blueprint.post("/holds")
@requires(Scope.GOVERN)
@raises(headers="Idempotency-Key")
@blueprint.arguments(HoldIn())
@blueprint.response(201, HoldOut())
def place_hold(body: dict[str, Any]) -> Hold:
    """Hold up to 1,000 chats, or all of them: nothing of them is deleted until the hold is released.

    After the response, deleting or emptying one of these chats fails with 409, and so does editing or deleting its
    messages. The chats can be moved to the trash, and new messages can be posted. A hold on everything is guaranteed
    from `active_from` on, at most 20 s later. All of the chats are held, or none: 422 names those that do not exist.
    """
    who, chat_ids = caller(), _distinct(body.get("chat_ids"))
    with _unknown_chats_by_field({"chat_ids": chat_ids or []}):
        return repositories().holds.place(who.tenant_id, body["name"], chat_ids, who.key_id, idempotency_key())


@blueprint.get("/holds")
@requires(Scope.GOVERN)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, HoldPageOut())
@paged("holds", lambda hold: ListPosition(hold.placed_at, hold.id))
def list_holds(limit: int, after: ListPosition | None) -> list[Hold]:
    """List the holds of the tenant, latest first, including released ones.

    Follow `next_cursor` until it is null.
    """
    return repositories().holds.page(caller().tenant_id, limit, after)


@blueprint.get("/holds/<hold_id>")
@requires(Scope.GOVERN)
@blueprint.response(200, HoldOut())
def get_hold(hold_id: str) -> Hold:
    """Get a hold: how many chats it is on, since when, and whether it was released.

    The log says which chats it is on.
    """
    return repositories().holds.get(caller().tenant_id, hold_id)


@blueprint.post("/holds/<hold_id>/chats")
@requires(Scope.GOVERN)
@raises(HoldUnchangeableError, headers="Idempotency-Key")
@blueprint.arguments(HoldPatch())
@blueprint.response(200, HoldOut())
def change_hold(body: dict[str, Any], hold_id: str) -> Hold:
    """Add up to 1,000 chats to a hold, and remove up to 1,000 from it.

    A chat to add may be under the hold already, and a chat to remove need not be. Everything is done, or nothing: 422
    names chats that do not exist.
    """
    who, add, remove = caller(), _distinct(body.get("add")) or [], _distinct(body.get("remove")) or []
    with _unknown_chats_by_field({"add": add}):
        return repositories().holds.change(who.tenant_id, hold_id, add, remove, who.key_id, idempotency_key())


@blueprint.post("/holds/<hold_id>/release")
@requires(Scope.GOVERN)
@blueprint.response(200, HoldOut())
def release_hold(hold_id: str) -> Hold:
    """Release a hold: its chats can be deleted again, unless another hold keeps them. The record stays.

    What became due for deletion under the hold is deleted too, but not before 24 h have passed. A release is final.
    """
    who = caller()
    return repositories().holds.release(who.tenant_id, hold_id, who.key_id)


def _distinct(chat_ids: Sequence[str] | None) -> list[str] | None:
    return None if chat_ids is None else list(dict.fromkeys(chat_ids))


@contextmanager
def _unknown_chats_by_field(lists: dict[str, list[str]]) -> Iterator[None]:
    """Turn UnknownChatsError into a ValidationFailedError that names the field of each unknown chat."""
    try:
        yield
    except UnknownChatsError as error:
        message = "Your tenant has no such chat, neither live nor in the trash: {}."
        raise ValidationFailedError(
            {
                name: [message.format(chat_id) for chat_id in error.chat_ids if chat_id in chat_ids]
                for name, chat_ids in lists.items()
            }
        ) from None
