"""Authentication: X-API-Key -> Caller. The key is checked before anything else of a request is read or answered."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import Flask, g, request

from chat_service.api import limits
from chat_service.api.context import caller, repositories
from chat_service.errors import ChatNotFoundError, InsufficientScopeError
from chat_service.models import Caller, Scope
from chat_service.repository.idempotency import is_recorded

API_PREFIX = "/api/"
"""Every address below it needs a key, also one that does not exist."""

CALLER = "chat_service.caller"
"""The WSGI variable with the caller whose key the server has just authenticated."""

TICKET_ENDPOINT = "log.read_log"
"""The endpoint that accepts a ticket: a browser cannot send a header to it. WebSockets do too, see realtime/gate.py."""

P = ParamSpec("P")
R = TypeVar("R")


def install(app: Flask) -> None:
    """Check the key of every request below `/api/`, before routing errors are answered."""
    app.before_request(_authenticate)


def _authenticate() -> None:
    if not request.path.startswith(API_PREFIX):
        return
    authenticated: Caller | None = request.environ.get(CALLER)
    g.caller = authenticated or _find_caller()


def _find_caller() -> Caller:
    """Return the caller that the key belongs to or, where a browser cannot send a key, the ticket.

    Raises:
        InvalidApiKeyError: neither is valid.
    """
    key, ticket = request.headers.get("X-API-Key"), request.args.get("ticket")
    if key is None and ticket is not None and request.endpoint == TICKET_ENDPOINT:
        return repositories().tickets.redeem(ticket)
    return repositories().keys.authenticate(key or "")


def requires(
    scope: Scope | None, *, counts: str | None = None, allow_deleted: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only callers with `scope` call the view, within their rate limit. The view's `required_scope` is the scope.

    None lets every key in; a GET or HEAD then counts as a read. A request takes one token, or one for each item of the
    list `counts` in its body. A chat in the path must not have a receipt: a restore of the database may have brought a
    deleted chat back. Views with `allow_deleted` are there for deleted chats too.

    Raises (when the view is called):
        InsufficientScopeError: the key was not given this scope.
        RateLimitedError: the key has no tokens left.
        ChatNotFoundError: the chat was deleted.
    """

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if scope is not None and scope not in caller().scopes:
                raise InsufficientScopeError(scope.value)
            limits.count_request(_counted_as(scope), counts)
            if not allow_deleted and "chat_id" in kwargs:
                _require_not_deleted(str(kwargs["chat_id"]))
            try:
                return view(*args, **kwargs)
            except ChatNotFoundError as error:
                raise _with_receipt(error, str(kwargs["chat_id"])) from error.__cause__

        guarded.required_scope = scope  # type: ignore[attr-defined]  # read by the structural tests
        return guarded

    return decorate


def _counted_as(scope: Scope | None) -> Scope:
    """Return the scope whose limit counts the request: governing, and what every key may do, count as read or write."""
    if scope is None or scope is Scope.GOVERN:
        return Scope.READ if request.method in {"GET", "HEAD"} else Scope.WRITE
    return scope


def _require_not_deleted(chat_id: str) -> None:
    """Check that the chat has no receipt. A retry gets the first response again, also after the chat was deleted."""
    tenant_id, key = caller().tenant_id, request.headers.get("Idempotency-Key")
    deleted_at = repositories().receipts.of_chats(tenant_id, [chat_id]).get(chat_id)
    if deleted_at is None:
        return
    if key is None or not is_recorded(repositories().database, tenant_id, key):
        raise ChatNotFoundError(chat_id, deleted_at)


def _with_receipt(error: ChatNotFoundError, chat_id: str) -> ChatNotFoundError:
    """Return the error with the time at which the tenant deleted the chat, if that is why it does not exist."""
    if error.deleted_at is not None:
        return error
    who = caller()
    had_grace = who.grace is not None
    return ChatNotFoundError(chat_id, repositories().receipts.deleted_at(who.tenant_id, chat_id, had_grace=had_grace))
