"""Messages: post and page."""

from typing import Any

import orjson
from flask import Response
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.cursors import next_cursor, requested_span
from chat_service.api.schemas import MessagesIn, PageIn, message_json
from chat_service.models import NewMessage, Scope

blueprint = Blueprint("messages", __name__, url_prefix="/api/v1", description="Messages of a chat")


@blueprint.post("/chats/<chat_id>/messages")
@requires(Scope.WRITE)
@blueprint.arguments(MessagesIn())
def post_messages(new: list[NewMessage], chat_id: str) -> Response:
    """Post one message, or up to 1,000 at once: all or none."""
    messages = repositories().messages.append(caller().tenant_id, chat_id, new)
    return _json({"messages": [message_json(message) for message in messages]}, 201)


@blueprint.get("/chats/<chat_id>/messages")
@requires(Scope.READ)
@blueprint.arguments(PageIn(), location="query")
def list_messages(page: dict[str, Any], chat_id: str) -> Response:
    """Read a page of messages; it takes the same time wherever it lies."""
    tenant_id = caller().tenant_id
    span = requested_span(page, tenant_id, chat_id)
    # One more than asked for tells whether there is a next page.
    found = repositories().messages.page(tenant_id, chat_id, span, page["limit"] + 1)
    shown = found[: page["limit"]]
    following = next_cursor(span, shown[-1].seq, tenant_id, chat_id) if len(found) > len(shown) else None
    return _json({"items": [message_json(message) for message in shown], "next_cursor": following}, 200)


def _json(value: dict[str, Any], status: int) -> Response:
    return Response(orjson.dumps(value), status, mimetype="application/json")
