"""Messages: post, list, get, edit, delete; empty a chat."""

from functools import partial
from typing import Any

import orjson
from flask import Response
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.cursors import next_cursor, requested_span
from chat_service.api.message_schemas import (
    ClearedOut,
    MessageOut,
    MessagePageOut,
    MessagePatch,
    MessagesIn,
    MessagesOut,
    PageIn,
    message_json,
)
from chat_service.api.openapi import HELD, raises
from chat_service.api.paging import page_of
from chat_service.api.parsing import idempotency_key
from chat_service.models import NewMessage, Scope
from chat_service.repository.messages import is_full

blueprint = Blueprint("messages", __name__, url_prefix="/api/v1", description="Messages of a chat")


@blueprint.post("/chats/<chat_id>/messages")
@requires(Scope.WRITE)
@raises(headers="Idempotency-Key")
@blueprint.arguments(MessagesIn())
@blueprint.response(201, MessagesOut())
def post_messages(new: list[NewMessage], chat_id: str) -> Response:
    """Post one message, or up to 1,000 at once: all or none.

    They are numbered by `seq`, in the order of posting, without gaps. With an `Idempotency-Key`, a retry posts nothing
    twice.
    """
    messages = repositories().messages.append(caller().tenant_id, chat_id, new, idempotency_key())
    return _json({"messages": [message_json(message) for message in messages]}, 201)


@blueprint.get("/chats/<chat_id>/messages")
@requires(Scope.READ)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, MessagePageOut())
def list_messages(query: dict[str, Any], chat_id: str) -> Response:
    """List a page of messages; it takes the same time wherever in the chat it is.

    Choose with `after`, `before` and `order`; follow `next_cursor` until it is null. A page of long messages may have
    fewer than `limit`.
    """
    owners = caller().tenant_id, chat_id
    span = requested_span(query, *owners)
    fetch = partial(repositories().messages.page, *owners, span)
    page = page_of(fetch, query["limit"], lambda last: next_cursor(span, last.seq, *owners), is_full)
    return _json({**page, "items": [message_json(message) for message in page["items"]]})


@blueprint.delete("/chats/<chat_id>/messages")
@requires(Scope.DELETE)
@raises(*HELD)
@blueprint.response(200, ClearedOut())
def clear_messages(chat_id: str) -> dict[str, int]:
    """Empty the chat and keep it; the numbers of its messages are not used again.

    All messages are deleted at once, even if connections are live.
    """
    who = caller()
    return {"deleted": repositories().messages.clear(who.tenant_id, chat_id, who.key_id)}


@blueprint.get("/chats/<chat_id>/messages/<seq>")
@requires(Scope.READ)
@blueprint.response(200, MessageOut())
def get_message(chat_id: str, seq: int) -> Response:
    """Get one message.

    404 `message_not_found` if the message was deleted, `chat_not_found` if the chat was.
    """
    return _json(message_json(repositories().messages.get(caller().tenant_id, chat_id, seq)))


@blueprint.patch("/chats/<chat_id>/messages/<seq>")
@requires(Scope.WRITE)
@raises(*HELD)
@blueprint.arguments(MessagePatch())
@blueprint.response(200, MessageOut())
def edit_message(changes: dict[str, Any], chat_id: str, seq: int) -> Response:
    """Change the content or the metadata of a message; `edited_at` is the time of the last change.

    A field that is left out stays as it is. Live connections get a `chat.updated`.
    """
    who = caller()
    return _json(message_json(repositories().messages.edit(who.tenant_id, chat_id, seq, changes, who.key_id)))


@blueprint.delete("/chats/<chat_id>/messages/<seq>")
@requires(Scope.DELETE)
@raises(*HELD)
@blueprint.response(204)
def delete_message(chat_id: str, seq: int) -> None:
    """Delete one message; its number is not used again.

    The other messages keep their numbers.
    """
    who = caller()
    repositories().messages.delete(who.tenant_id, chat_id, seq, who.key_id)


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, mimetype="application/json")
