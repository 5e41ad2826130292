"""Chats: create, look up, delete."""

from typing import Any

from flask import url_for
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.schemas import ChatIn, ChatOut, DeletionOut
from chat_service.models import Chat, Deletion, Scope

blueprint = Blueprint("chats", __name__, url_prefix="/api/v1", description="Chats of the caller's tenant")


@blueprint.post("/chats")
@requires(Scope.WRITE)
@blueprint.arguments(ChatIn())
@blueprint.response(201, ChatOut())
def create_chat(new: dict[str, Any]) -> tuple[Chat, dict[str, str]]:
    """Create a chat."""
    chat = repositories().chats.create(caller().tenant_id, new["title"], new["metadata"], new["id"])
    return chat, {"Location": url_for("chats.get_chat", chat_id=chat.id)}


@blueprint.get("/chats/<chat_id>")
@requires(Scope.READ)
@blueprint.response(200, ChatOut())
def get_chat(chat_id: str) -> Chat:
    """Look a chat up, with its messages and live connections counted."""
    return repositories().chats.get(caller().tenant_id, chat_id)


@blueprint.delete("/chats/<chat_id>")
@requires(Scope.DELETE)
@blueprint.response(200, DeletionOut())
def delete_chat(chat_id: str) -> Deletion:
    """Delete a chat with all its messages, permanently and atomically."""
    return repositories().chats.delete(caller().tenant_id, chat_id, requested_by=caller().key_id)
