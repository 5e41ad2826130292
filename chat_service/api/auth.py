"""X-API-Key -> Caller. The key is checked before anything else about a request is looked at or told."""

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
"""Everything below needs a key, also what does not exist."""

CALLER = "chat_service.caller"
"""The WSGI variable that holds whom the server has just found the key to belong to."""

TAKES_TICKETS = "log.read_log"
"""The operation that a browser calls without being able to send a header; so are WebSockets, see realtime/gate.py."""

P = ParamSpec("P")
R = TypeVar("R")


def install(app: Flask) -> None:
    """Check the key of every request below `/api/`, before routing errors are told."""
    app.before_request(_authenticate)


def _authenticate() -> None:
    if not request.path.startswith(API_PREFIX):
        return
    known: Caller | None = request.environ.get(CALLER)
    g.caller = known or _find_caller()


def _find_caller() -> Caller:
    """Return whose key or, where a browser cannot send one, whose ticket it is.

    Raises:
        InvalidApiKeyError: neither is good.
    """
    key, ticket = request.headers.get("X-API-Key"), request.args.get("ticket")
    if key is None and ticket is not None and request.endpoint == TAKES_TICKETS:
        return repositories().tickets.redeem(ticket)
    return repositories().keys.authenticate(key or "")


def requires(
    scope: Scope | None, *, counts: str | None = None, of_deleted: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only callers with `scope` in, as often as they may; the scope can be read from the view as `required_scope`.

    None lets every key in, and counts as a read. A request takes one token, or as many as there are items in the list
    `counts` of its body. A chat in its path must not have a receipt, unless the view is there for deleted chats too: a
    restore may have brought the chat back.

    Raises (when the view is called):
        InsufficientScopeError: the key was not given this scope.
        RateLimitedError: it has asked too often.
        ChatNotFoundError: the chat was deleted.
    """

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if scope is not None and scope not in caller().scopes:
                raise InsufficientScopeError(scope.value)
            limits.take(_counted_as(scope), counts)
            if not of_deleted and "chat_id" in kwargs:
                _require_not_deleted(str(kwargs["chat_id"]))
            try:
                return view(*args, **kwargs)
            except ChatNotFoundError as error:
                raise _with_receipt(error, str(kwargs["chat_id"])) from error.__cause__

        guarded.required_scope = scope  # type: ignore[attr-defined]  # read by the structural tests
        return guarded

    return decorate


def _counted_as(scope: Scope | None) -> Scope:
    """Return the scope by whose limit a request is counted: what every key may do, and governing, have none."""
    if scope is None or scope is Scope.GOVERN:
        return Scope.READ if request.method in {"GET", "HEAD"} else Scope.WRITE
    return scope


def _require_not_deleted(chat_id: str) -> None:
    """See that the chat has no receipt. The answer to a repetition stays what it was before the chat was deleted."""
    tenant_id, key = caller().tenant_id, request.headers.get("Idempotency-Key")
    deleted_at = repositories().receipts.of_chats(tenant_id, [chat_id]).get(chat_id)
    if deleted_at is None:
        return
    if key is None or not is_recorded(repositories().database, tenant_id, key):
        raise ChatNotFoundError(chat_id, deleted_at)


def _with_receipt(error: ChatNotFoundError, chat_id: str) -> ChatNotFoundError:
    """Return the error with when the tenant has deleted the chat, if that is why it is not there."""
    if error.deleted_at is not None:
        return error
    who = caller()
    had_grace = who.grace is not None
    return ChatNotFoundError(chat_id, repositories().receipts.deleted_at(who.tenant_id, chat_id, had_grace=had_grace))
