"""Live connections: their list, and tickets for clients that cannot send a key. The sockets are in realtime/."""

from typing import Any, NoReturn

from flask_smorest import Blueprint
from werkzeug.exceptions import HTTPException

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.paging import paged
from chat_service.api.schemas import ConnectionPageOut, PageIn, TicketOut
from chat_service.models import Lease, ListPosition, Scope, Ticket

blueprint = Blueprint(
    "connections",
    __name__,
    url_prefix="/api/v1",
    description="Live connections to a chat. Connect by WebSocket to `/api/v1/chats/{chat_id}/ws`, with the key or "
    "`?ticket=`. OpenAPI cannot describe the frames of a WebSocket: see docs/api.md.",
)


class UpgradeRequired(HTTPException):
    """The address accepts WebSocket only (RFC 9110, section 15.5.22)."""

    code = 426

    def get_headers(self, *_: Any, **__: Any) -> list[tuple[str, str]]:
        """Return the header with the protocol that the client has to use."""
        return [("Upgrade", "websocket")]


@blueprint.get("/chats/<chat_id>/connections")
@requires(Scope.READ)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, ConnectionPageOut())
@paged("connections", lambda lease: ListPosition(lease.connected_at, lease.connection_id))
def list_connections(limit: int, after: ListPosition | None, chat_id: str) -> list[Lease]:
    """List the live connections to the chat, latest first.

    While there are any, a DELETE of the chat is refused, unless its `on_active` is `evict`.
    """
    return repositories().presence.page(caller().tenant_id, chat_id, limit, after)


@blueprint.post("/chats/<chat_id>/tickets")
@requires(Scope.READ)
@blueprint.response(201, TicketOut())
def issue_ticket(chat_id: str) -> Ticket:
    """Issue a ticket that opens one WebSocket to the chat within 30 s, with the scopes of this key.

    For browsers, which cannot send the key with a handshake. A ticket is valid for one connection.
    """
    return repositories().tickets.issue(caller(), chat_id)


@blueprint.get("/chats/<chat_id>/ws")
@requires(Scope.READ)
def connect(chat_id: str) -> NoReturn:
    """Answer 426: the address of the chat's socket is not for plain HTTP."""
    repositories().chats.get(caller().tenant_id, chat_id)
    raise UpgradeRequired
