"""Chats: create, list, look up, change."""

from datetime import datetime
from typing import Any

from flask import url_for
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.openapi import raises
from chat_service.api.paging import paged
from chat_service.api.parsing import expected_revisions, idempotency_key, unless_seen
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

    Choose the id yourself, or send an `Idempotency-Key`: then a repetition after a lost answer cannot create two. An id
    that was deleted is never free again: 409 `chat_id_retired`. Nor is that of a chat in the trash: `chat_in_trash`.
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

    Follow `next_cursor` until it is null. A chat that changes meanwhile moves to the front, and may come twice.
    """
    tenant_id, found = caller().tenant_id, list[Chat]()
    while len(found) < limit:
        chats = repositories().chats.page(tenant_id, limit - len(found), after)
        deleted = repositories().receipts.of_chats(tenant_id, [chat.id for chat in chats])
        found += [chat for chat in chats if chat.id not in deleted]
        if not deleted:
            break
        after = ListPosition(chats[-1].updated_at, chats[-1].id)
    return found


@blueprint.get("/chats/<chat_id>")
@requires(Scope.READ)
@raises(headers="If-None-Match")
@unless_seen
@blueprint.response(200, ChatOut())
def get_chat(chat_id: str) -> tuple[Chat, dict[str, str]]:
    """Look a chat up, with its messages and live connections counted.

    Its `ETag` in `If-Match` of a PATCH or DELETE means: only if it is still as you saw it.
    """
    chat = repositories().chats.get(caller().tenant_id, chat_id)
    return chat, etag(chat.revision, chat.active_connections, chat.taken_at)


@blueprint.patch("/chats/<chat_id>")
@requires(Scope.WRITE)
@raises(headers="If-Match")
@blueprint.arguments(ChatPatch())
@blueprint.response(200, ChatOut())
def update_chat(changes: dict[str, Any], chat_id: str) -> tuple[Chat, dict[str, str]]:
    """Change the title or the metadata; with If-Match, only if nobody else has changed the chat.

    What is not named stays. `metadata` is replaced as a whole.
    """
    _require_future(changes.get("expires_at"))
    chat = repositories().chats.update(caller().tenant_id, chat_id, changes, expected_revisions())
    return chat, etag(chat.revision, chat.active_connections)


def _require_future(expires_at: datetime | None) -> None:
    """See that an end is still to come, by the database's clock.

    Raises:
        ValidationFailedError: it is not.
    """
    if expires_at is not None and expires_at <= repositories().database.now():
        raise ValidationFailedError({"expires_at": ["Not in the future."]})


def created(chat: Chat) -> tuple[Chat, dict[str, str]]:
    """Return the answer to a chat's creation: the chat, where it is, and its ETag."""
    return chat, {"Location": url_for("chats.get_chat", chat_id=chat.id), **etag(chat.revision)}


def etag(revision: int, active_connections: int = 0, taken_at: datetime | None = None) -> dict[str, str]:
    """Return the header that names what the caller has seen of a chat; `If-Match` looks at the revision only."""
    connections = f"-{active_connections}" if active_connections else ""
    end = f".{taken_at.timestamp():.3f}" if taken_at else ""
    return {"ETag": f'"{revision}{connections}{end}"'}
