"""Chats: create, list, get, change."""

from datetime import datetime
from typing import Any

from flask import url_for
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.openapi import raises
from chat_service.api.paging import paged
from chat_service.api.parsing import expected_revisions, honours_if_none_match, idempotency_key
from chat_service.api.schemas import ChatIn, ChatOut, ChatPageOut, ChatPatch, PageIn
from chat_service.errors import ChatExistsError, ChatIdRetiredError, ChatInTrashError, ValidationFailedError
from chat_service.models import Chat, ListPosition, Scope

blueprint = Blueprint("chats", __name__, url_prefix="/api/v1", description="Chats of the caller's tenant")


@blueprint.post("/chats")
@requires(Scope.WRITE)
@raises(ChatExistsError, ChatInTrashError, ChatIdRetiredError, headers="Idempotency-Key")
@blueprint.arguments(ChatIn())
@blueprint.response(201, ChatOut())
def create_chat(new: dict[str, Any]) -> tuple[Chat, dict[str, str]]:
    """Create a chat.

    Choose the id yourself, or send an `Idempotency-Key`: then a retry after a lost response cannot create a second
    chat. The id of a deleted chat cannot be used again: 409 `chat_id_retired`. Nor can the id of a chat in the trash:
    409 `chat_in_trash`.
    """
    _require_future(new["expires_at"])
    chat = repositories().chats.create(
        caller().tenant_id, new["title"], new["metadata"], new["id"], idempotency_key(), new["expires_at"]
    )
    return created(chat)


@blueprint.get("/chats")
@requires(Scope.READ)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, ChatPageOut())
@paged("chats", lambda chat: ListPosition(chat.updated_at, chat.id))
def list_chats(limit: int, after: ListPosition | None) -> list[Chat]:
    """List the tenant's chats, latest activity first.

    Follow `next_cursor` until it is null. A chat that changes in between moves to the front, and may be listed twice.
    """
    tenant_id, chats = caller().tenant_id, list[Chat]()
    while len(chats) < limit:
        page = repositories().chats.page(tenant_id, limit - len(chats), after)
        deleted = repositories().receipts.of_chats(tenant_id, [chat.id for chat in page])
        chats += [chat for chat in page if chat.id not in deleted]
        if not deleted:
            break
        after = ListPosition(page[-1].updated_at, page[-1].id)
    return chats


@blueprint.get("/chats/<chat_id>")
@requires(Scope.READ)
@raises(headers="If-None-Match")
@honours_if_none_match
@blueprint.response(200, ChatOut())
def get_chat(chat_id: str) -> tuple[Chat, dict[str, str]]:
    """Get a chat, with the number of its messages and of its live connections.

    Send its `ETag` in `If-Match` with a PATCH or DELETE, and it is done only if the chat has not changed since.
    """
    chat = repositories().chats.get(caller().tenant_id, chat_id)
    return chat, etag(chat.revision, chat.active_connections, chat.taken_at)


@blueprint.patch("/chats/<chat_id>")
@requires(Scope.WRITE)
@raises(headers="If-Match")
@blueprint.arguments(ChatPatch())
@blueprint.response(200, ChatOut())
def update_chat(changes: dict[str, Any], chat_id: str) -> tuple[Chat, dict[str, str]]:
    """Change the title, the metadata or `expires_at`; with If-Match, only if nobody else has changed the chat.

    A field that is left out stays as it is. `metadata` is replaced as a whole.
    """
    _require_future(changes.get("expires_at"))
    chat = repositories().chats.update(caller().tenant_id, chat_id, changes, expected_revisions())
    return chat, etag(chat.revision, chat.active_connections)


def _require_future(expires_at: datetime | None) -> None:
    """Check that `expires_at`, if there is one, is in the future by the database's clock.

    Raises:
        ValidationFailedError: it is not.
    """
    if expires_at is not None and expires_at <= repositories().database.now():
        raise ValidationFailedError({"expires_at": ["Must be in the future."]})


def created(chat: Chat) -> tuple[Chat, dict[str, str]]:
    """Return the response to a chat's creation: the chat, and the headers Location and ETag."""
    return chat, {"Location": url_for("chats.get_chat", chat_id=chat.id), **etag(chat.revision)}


def etag(revision: int, active_connections: int = 0, taken_at: datetime | None = None) -> dict[str, str]:
    """Return the ETag header for what the caller has seen of a chat; `If-Match` compares only the revision."""
    connections = f"-{active_connections}" if active_connections else ""
    policy_end = f".{taken_at.timestamp():.3f}" if taken_at else ""
    return {"ETag": f'"{revision}{connections}{policy_end}"'}
