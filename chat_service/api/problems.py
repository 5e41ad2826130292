"""The table of errors: each that can be answered -> status, code, title (RFC 9457), and the one shape that all share.

`success: false` is there so that the published samples, which read that field, work on errors too.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, current_app
from werkzeug.exceptions import HTTPException

from chat_service import errors
from chat_service.api.context import caller
from chat_service.api.fields import seconds
from chat_service.telemetry.observation import note
from chat_service.telemetry.request_ids import request_id

MEDIA_TYPE = "application/problem+json"

Extras = Mapping[str, object]
Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table."""

    status: int
    code: str
    title: str
    detail: str
    extras: Callable[[Any], Extras] = lambda _: {}
    headers: Callable[[Any], Headers] = lambda _: {}

    @property
    def path(self) -> str:
        """The path at which the service describes the problem."""
        return f"/problems/{self.code.replace('_', '-')}"

    def type(self, public_url: str) -> str:
        """Return the problem's URI; it is relative if the service does not know its own address (RFC 9457, 3.1.1)."""
        return public_url + self.path


def _retry_after(delay: int) -> Callable[[Any], Headers]:
    return lambda _: {"Retry-After": str(delay)}


def _deletion_extras(error: errors.ChatNotFoundError) -> Extras:
    """Return when the caller's own tenant deleted the chat, and where the receipt is; nothing if it did not."""
    if error.deleted_at is None:
        return {}
    return {"deleted_at": seconds(error.deleted_at), "deletion": f"/api/v1/deletions/{error.chat_id}"}


INTERNAL = Problem(
    500,
    "internal_error",
    "Internal error",
    "An unexpected error occurred in the service. Give the request id to its operator: the log has the cause under it.",
)

DOMAIN: dict[type[errors.ChatServiceError], Problem] = {
    errors.InvalidChatIdError: Problem(
        400,
        "invalid_chat_id",
        "Invalid chat id",
        "The chat id in the path must be a UUID: 8-4-4-4-12 hexadecimal digits.",
    ),
    errors.InvalidJsonError: Problem(
        400,
        "invalid_json",
        "Invalid JSON",
        "The body must be one JSON value in UTF-8, without duplicate keys, NaN or unpaired surrogates. `reason` says "
        "what is wrong.",
        extras=lambda error: {"reason": error.reason},
    ),
    errors.InvalidCursorError: Problem(
        400,
        "invalid_cursor",
        "Invalid cursor",
        "The cursor is not one of this list. Pass `next_cursor` of the page before, unchanged, or start without one.",
    ),
    errors.InvalidApiKeyError: Problem(
        401,
        "invalid_api_key",
        "Invalid API key",
        "The request has no valid API key or ticket. Send one of your tenant's keys in the X-API-Key header. If there "
        "is an `expired_at`, the key that you sent has expired.",
        extras=lambda error: {} if error.expired_at is None else {"expired_at": seconds(error.expired_at)},
        headers=lambda _: {"WWW-Authenticate": 'ApiKey realm="chat-service"'},
    ),
    errors.InsufficientScopeError: Problem(
        403,
        "insufficient_scope",
        "Insufficient scope",
        "The key is valid, but does not have the scope that this operation needs. Use a key with `required_scope`.",
        extras=lambda error: {"required_scope": error.scope},
    ),
    errors.RateLimitedError: Problem(
        429,
        "rate_limited",
        "Rate limited",
        "Nothing was done: the key has used up its rate limit. Wait for as many seconds as Retry-After says.",
        extras=lambda error: {"limited_scope": error.scope},
        headers=lambda error: {"Retry-After": str(error.retry_after)},
    ),
    errors.TooMuchUnreadError: Problem(
        429,
        "too_much_unread",
        "Too much unread",
        "Your tenant's clients have left too much of their earlier responses unread. Read those responses or close "
        "their connections, then try again.",
        headers=_retry_after(2),
    ),
    errors.TooManyExportsError: Problem(
        429,
        "too_many_exports",
        "Too many exports",
        "Too many exports are running at once. Read those that you have started to their end, then try again.",
        headers=_retry_after(5),
    ),
    errors.TooManyListenersError: Problem(
        429,
        "too_many_listeners",
        "Too many listeners",
        "Too many clients follow the log, or wait for it, at once. Close some of yours, or ask without `wait`.",
        headers=_retry_after(5),
    ),
    errors.ChatNotFoundError: Problem(
        404,
        "chat_not_found",
        "Chat not found",
        "Your tenant has no chat with this id. It may have been deleted.",
        extras=_deletion_extras,
    ),
    errors.MessageNotFoundError: Problem(
        404,
        "message_not_found",
        "Message not found",
        "The chat has no message with this seq: it was never posted, or it was deleted.",
    ),
    errors.DeletionNotFoundError: Problem(
        404, "not_found", "Not found", "There is no receipt for this id: your tenant has deleted no such chat."
    ),
    errors.NotInTrashError: Problem(
        404,
        "not_in_trash",
        "Not in trash",
        "Your tenant's trash has no chat with this id: it was restored, it was deleted, or it was never there.",
    ),
    errors.InvalidIdempotencyKeyError: Problem(
        400,
        "invalid_idempotency_key",
        "Invalid idempotency key",
        "The Idempotency-Key must be 1 to 255 visible ASCII characters, without spaces or commas.",
    ),
    errors.IdempotencyKeyReusedError: Problem(
        422,
        "idempotency_key_reused",
        "Idempotency key reused",
        "Nothing was done: this Idempotency-Key was sent with a different request within the last 24 hours. Use a new "
        "key for each new request.",
    ),
    errors.RequestInProgressError: Problem(
        409,
        "request_in_progress",
        "Request in progress",
        "The same request is still running under this Idempotency-Key. Repeat it later, with the same key, to "
        "get its response.",
        headers=_retry_after(5),
    ),
    errors.PreconditionFailedError: Problem(
        412,
        "precondition_failed",
        "Precondition failed",
        "Nothing was done: the chat has changed since you read it. Read it again, and send its new ETag in If-Match.",
    ),
    errors.InvalidImportError: Problem(
        422,
        "invalid_import",
        "Invalid import",
        "Nothing was created: the body is not a complete, unchanged ndjson export. `reason` says what is wrong.",
        extras=lambda error: {"reason": error.reason},
    ),
    errors.ActiveConnectionsError: Problem(
        409,
        "active_connections",
        "Chat has active connections",
        "Nothing was deleted: the chat has live WebSocket connections. Close them and try again.",
        extras=lambda error: {"active_connections": error.count},
        headers=_retry_after(5),
    ),
    errors.LegalHoldError: Problem(
        409,
        "legal_hold",
        "Legal hold",
        "Nothing was deleted or changed: the holds in `holds` forbid it. Release them, or remove the chat from them.",
        extras=lambda error: {"holds": error.holds},
    ),
    errors.NotDeletableError: Problem(
        409,
        "not_deletable",
        "Not deletable",
        "Nothing was deleted or changed: your tenant's administrators do not allow it for this chat. It can be moved "
        "to the trash.",
    ),
    errors.HoldNotFoundError: Problem(
        404, "hold_not_found", "Hold not found", "Your tenant has no hold with this id. `GET /holds` lists its holds."
    ),
    errors.ErasureNotFoundError: Problem(
        404,
        "erasure_not_found",
        "Erasure not found",
        "Your tenant has no erasure with this id. `GET /erasures` lists its erasures.",
    ),
    errors.WebhookNotFoundError: Problem(
        404,
        "webhook_not_found",
        "Webhook not found",
        "Your tenant has no webhook with this id. `GET /webhooks` lists its webhooks.",
    ),
    errors.WebhooksOffError: Problem(
        409,
        "webhooks_off",
        "Webhooks off",
        "Nothing was created or changed: the service has no key to encrypt the secrets of webhooks with. Its operator "
        "can set one in WEBHOOK_SECRET_KEY.",
    ),
    errors.TooManyWebhooksError: Problem(
        409,
        "too_many_webhooks",
        "Too many webhooks",
        "Nothing was created: your tenant has as many webhooks as are allowed. Delete one first.",
    ),
    errors.NotSignedError: Problem(
        404,
        "not_signed",
        "Not signed",
        "The service has no signing key, so there are no checkpoints and no proofs. Its operator can make a key with "
        "`flask --app wsgi keys signing`, and set it in SIGNING_KEY.",
    ),
    errors.ProofNotReadyError: Problem(
        404,
        "proof_not_ready",
        "Proof not ready",
        "The log does not have the entry yet. It has `chat.deleted` within a second of the deletion, and `chat.purged` "
        "of a large chat when its purge is complete. Ask again then.",
        headers=_retry_after(1),
    ),
    errors.UnknownSizeError: Problem(
        404,
        "unknown_size",
        "Unknown size",
        "Your log never had as many entries as `old` says: it has `size`. Check that the checkpoint is of this tenant "
        "and of this service.",
        extras=lambda error: {"size": error.size},
    ),
    errors.NoRetentionError: Problem(
        404, "no_retention", "No retention", "Your tenant has no retention policy: chats stay until they are deleted."
    ),
    errors.HoldUnchangeableError: Problem(
        409,
        "hold_unchangeable",
        "Hold unchangeable",
        "Nothing was changed: the hold was released, or it is on everything. Place another hold.",
    ),
    errors.ChatExistsError: Problem(
        409,
        "chat_exists",
        "Chat exists",
        "Nothing was created: your tenant has a chat with this id. Choose another id, or leave it out.",
    ),
    errors.ChatInTrashError: Problem(
        409,
        "chat_in_trash",
        "Chat in trash",
        "Nothing was created: your tenant's trash has a chat with this id. Restore that chat, or choose another id.",
    ),
    errors.ChatIdRetiredError: Problem(
        409,
        "chat_id_retired",
        "Chat id retired",
        "Nothing was created: a chat with this id was deleted, and its id is never used again. Choose another id.",
    ),
    errors.ValidationFailedError: Problem(
        422,
        "validation_error",
        "Validation error",
        "Some fields are not valid. `errors` says for each of them what to change.",
        extras=lambda error: {"errors": error.errors},
    ),
    errors.ImportTooLargeError: Problem(
        413,
        "import_too_large",
        "Import too large",
        "Nothing was created: the export is larger than MAX_IMPORT_BYTES, or its import takes longer than a request "
        "may. The service's operator can import a file of any size with `flask --app wsgi chats import`.",
    ),
    errors.UploadStorageError: Problem(
        503,
        "upload_storage_unavailable",
        "Upload storage unavailable",
        "Nothing was changed: the server has no room to store the body while it arrives. Try again later.",
        headers=_retry_after(30),
    ),
    errors.DatabaseUnavailableError: Problem(
        503,
        "database_unavailable",
        "Database unavailable",
        "Nothing was changed: the database could not be reached in time. Try again in a few seconds.",
        headers=_retry_after(2),
    ),
    errors.LedgerBehindError: Problem(
        503,
        "ledger_behind",
        "Ledger behind",
        "Nothing was done: a backup of the database was restored, and what was deleted since the backup must be "
        "deleted again first. Try again later.",
        headers=_retry_after(30),
    ),
    errors.OutcomeUnknownError: Problem(
        503,
        "outcome_unknown",
        "Outcome unknown",
        "The database's reply to the change was lost: the change was made completely, or not at all. Look whether it "
        "was made, or repeat the request with its Idempotency-Key.",
        headers=_retry_after(2),
    ),
}

HTTP: dict[int, Problem] = {
    400: Problem(
        400, "bad_request", "Bad request", "The request is not valid HTTP. Check its headers and its body's length."
    ),
    403: Problem(
        403,
        "forbidden_origin",
        "Forbidden origin",
        "Pages of this origin may not open a WebSocket. The service's operator can add the origin to CORS_ORIGINS.",
    ),
    404: Problem(404, "not_found", "Not found", "There is nothing at this path. The documentation is at /docs."),
    405: Problem(
        405,
        "method_not_allowed",
        "Method not allowed",
        "This path does not support the method. The Allow header lists those that it supports.",
    ),
    406: Problem(
        406,
        "not_acceptable",
        "Not acceptable",
        "Accept excludes the media type of the response. Accept application/json, or the type that the API's "
        "documentation names for this path.",
    ),
    408: Problem(
        408,
        "request_timeout",
        "Request timeout",
        "Nothing was changed: the request took too long to arrive. Send it again, or in smaller parts.",
    ),
    413: Problem(
        413, "content_too_large", "Content too large", "The body is larger than allowed. Send it in smaller parts."
    ),
    414: Problem(414, "uri_too_long", "URI too long", "The request line is too long. Shorten the query."),
    415: Problem(
        415,
        "unsupported_media_type",
        "Unsupported media type",
        "Send the body as application/json, an import as application/x-ndjson, in UTF-8, without a Content-Encoding.",
    ),
    426: Problem(
        426, "upgrade_required", "Upgrade required", "This path accepts only WebSockets. Open it with ws:// or wss://."
    ),
    431: Problem(
        431,
        "headers_too_large",
        "Request header fields too large",
        "Send fewer or shorter header fields. Large cookies are a common cause.",
    ),
    500: INTERNAL,
    501: Problem(
        501,
        "not_implemented",
        "Not implemented",
        "The only supported Transfer-Encoding is chunked. Send the body chunked, or with a Content-Length.",
    ),
}


def body(problem: Problem, request_id: str, public_url: str, extras: Extras | None = None) -> bytes:
    """Return an error in the one shape, as JSON."""
    members = {
        "type": problem.type(public_url),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "success": False,
        "code": problem.code,
        "request_id": request_id,
    }
    return json.dumps({**members, **(extras or {})}, ensure_ascii=False).encode()


def install(app: Flask) -> None:
    """Answer every error of the application in the one shape."""
    app.register_error_handler(errors.ChatServiceError, _answer_domain_error)
    app.register_error_handler(HTTPException, answer_http_error)
    app.register_error_handler(Exception, _answer_bug)


def _response(problem: Problem, error: Exception) -> Response:
    text = body(problem, request_id(), current_app.config["PUBLIC_URL"], problem.extras(error))
    response = Response(text, problem.status, mimetype=MEDIA_TYPE)
    response.headers.update(problem.headers(error))
    return response


def visible_error(error: errors.ChatServiceError) -> errors.ChatServiceError:
    """Return the error that the caller may see: only a key that governs may see that there is a hold."""
    if isinstance(error, errors.LegalHoldError) and not caller().governs:
        return errors.NotDeletableError()
    return error


def _answer_domain_error(error: errors.ChatServiceError) -> Response:
    visible = visible_error(error)
    problem = DOMAIN[type(visible)]
    note(problem.code, error.__cause__)
    return _response(problem, visible)


def answer_http_error(error: HTTPException) -> Response:
    """Answer what Flask, Werkzeug or webargs refused, with the headers that the status requires."""
    problem = HTTP.get(error.code or 500)
    if problem is None:
        problem = HTTP[400] if 400 <= (error.code or 500) < 500 else INTERNAL  # noqa: PLR2004 - the client error range
    note(problem.code)
    response = _response(problem, error)
    response.headers.extend((name, value) for name, value in error.get_headers() if name in {"Allow", "Upgrade"})
    return response


def _answer_bug(error: Exception) -> Response:
    note(INTERNAL.code, error, bug=True)
    return _response(INTERNAL, error)
