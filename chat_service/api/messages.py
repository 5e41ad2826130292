"""Messages: post and page."""

from typing import Any

import orjson
from flask import Response
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.cursors import Cursor
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
    cursor = Cursor.of(page, caller().tenant_id, chat_id)
    # One more than asked for tells whether there is a next page.
    found = repositories().messages.page(
        caller().tenant_id,
        chat_id,
        page["limit"] + 1,
        after=cursor.after,
        before=cursor.before,
        newest_first=cursor.newest_first,
    )
    shown = found[: page["limit"]]
    following = cursor.following(shown[-1].seq).encode(caller().tenant_id, chat_id) if len(found) > len(shown) else None
    return _json({"items": [message_json(message) for message in shown], "next_cursor": following}, 200)


def _json(value: dict[str, Any], status: int) -> Response:
    return Response(orjson.dumps(value), status, mimetype="application/json")
