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
    500, "internal_error", "Internal error", "Something failed in the service. The request id finds it in our logs."
)

DOMAIN: dict[type[errors.ChatServiceError], Problem] = {
    errors.InvalidChatIdError: Problem(
        400, "invalid_chat_id", "Invalid chat id", "The chat id in the path must be a UUID: 8-4-4-4-12 hex digits."
    ),
    errors.InvalidJsonError: Problem(
        400,
        "invalid_json",
        "Invalid JSON",
        "The body must be one JSON value in UTF-8, without duplicate keys, NaN or unpaired surrogates.",
        extras=lambda error: {"reason": error.reason},
    ),
    errors.InvalidCursorError: Problem(
        400, "invalid_cursor", "Invalid cursor", "Pass next_cursor of a page of this very list, unchanged."
    ),
    errors.InvalidApiKeyError: Problem(
        401,
        "invalid_api_key",
        "Invalid API key",
        "Send your tenant's API key in the X-API-Key header. One that has expired says so in `expired_at`.",
        extras=lambda error: {} if error.expired_at is None else {"expired_at": seconds(error.expired_at)},
        headers=lambda _: {"WWW-Authenticate": 'ApiKey realm="chat-service"'},
    ),
    errors.InsufficientScopeError: Problem(
        403,
        "insufficient_scope",
        "Insufficient scope",
        "The key is good, but it was not given the scope this operation needs.",
        extras=lambda error: {"required_scope": error.scope},
    ),
    errors.RateLimitedError: Problem(
        429,
        "rate_limited",
        "Rate limited",
        "Nothing was done: your key may ask only so often. Wait as many seconds as Retry-After says, and try again.",
        extras=lambda error: {"limited_scope": error.scope},
        headers=lambda error: {"Retry-After": str(error.retry_after)},
    ),
    errors.TooMuchUnreadError: Problem(
        429,
        "too_much_unread",
        "Too much unread",
        "Your tenant's clients have not read the answers they asked for. Read them, or hang up, and try again.",
        headers=_retry_after(2),
    ),
    errors.TooManyExportsError: Problem(
        429,
        "too_many_exports",
        "Too many exports",
        "As many exports are under way as there may be at once. Read those that you have begun, and try again.",
        headers=_retry_after(5),
    ),
    errors.TooManyListenersError: Problem(
        429,
        "too_many_listeners",
        "Too many listeners",
        "As many of your tenant follow the log, or wait for it, as may at once. End some, or ask without `wait`.",
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
        "The chat has no message with this seq (any more).",
    ),
    errors.DeletionNotFoundError: Problem(
        404, "not_found", "Not found", "Your tenant has no receipt for this id: it has deleted no such chat."
    ),
    errors.NotInTrashError: Problem(
        404, "not_in_trash", "Not in trash", "Your tenant's trash has no chat with this id (any more)."
    ),
    errors.InvalidIdempotencyKeyError: Problem(
        400,
        "invalid_idempotency_key",
        "Invalid idempotency key",
        "The Idempotency-Key must be 1 to 255 visible ASCII characters, without spaces and commas.",
    ),
    errors.IdempotencyKeyReusedError: Problem(
        422,
        "idempotency_key_reused",
        "Idempotency key reused",
        "This Idempotency-Key came with another request within the last 24 hours. Use a new key for a new request.",
    ),
    errors.RequestInProgressError: Problem(
        409,
        "request_in_progress",
        "Request in progress",
        "The same request is still being worked on under this Idempotency-Key. Repeat it later to hear how it went.",
        headers=_retry_after(5),
    ),
    errors.PreconditionFailedError: Problem(
        412,
        "precondition_failed",
        "Precondition failed",
        "The chat has changed since you saw it, and nothing was done. Look again, and send its new ETag in If-Match.",
    ),
    errors.InvalidImportError: Problem(
        422,
        "invalid_import",
        "Invalid import",
        "The body is not a whole ndjson export, so nothing was created.",
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
        "Nothing was deleted or changed: the holds under `holds` keep the chat. Release them, or take it out of them.",
        extras=lambda error: {"holds": error.holds},
    ),
    errors.NotDeletableError: Problem(
        409,
        "not_deletable",
        "Not deletable",
        "Nothing was deleted or changed: your tenant's administration keeps this chat. It can be moved to the trash.",
    ),
    errors.HoldNotFoundError: Problem(404, "hold_not_found", "Hold not found", "Your tenant has no hold of this id."),
    errors.ErasureNotFoundError: Problem(
        404, "erasure_not_found", "Erasure not found", "Your tenant has no erasure of this id."
    ),
    errors.WebhookNotFoundError: Problem(
        404, "webhook_not_found", "Webhook not found", "Your tenant has no webhook of this id."
    ),
    errors.WebhooksOffError: Problem(
        409,
        "webhooks_off",
        "Webhooks off",
        "Nothing was made: the service has no key to seal secrets with. Its operator sets WEBHOOK_SECRET_KEY.",
    ),
    errors.TooManyWebhooksError: Problem(
        409, "too_many_webhooks", "Too many webhooks", "Your tenant has as many as it may have. Delete one first."
    ),
    errors.NotSignedError: Problem(
        404,
        "not_signed",
        "Not signed",
        "This service signs nothing. Its operator makes a key with `flask --app wsgi keys signing`.",
    ),
    errors.ProofNotReadyError: Problem(
        404,
        "proof_not_ready",
        "Proof not ready",
        "The log does not say so yet. It does within a second of a deletion, or when a large chat's purge is done.",
        headers=_retry_after(1),
    ),
    errors.UnknownSizeError: Problem(
        404,
        "unknown_size",
        "Unknown size",
        "Your log never had as many entries. Was the checkpoint of another tenant, or of another service?",
        extras=lambda error: {"size": error.size},
    ),
    errors.NoRetentionError: Problem(
        404, "no_retention", "No retention", "Your tenant has no retention policy: chats stay until they are deleted."
    ),
    errors.HoldUnchangeableError: Problem(
        409,
        "hold_unchangeable",
        "Hold unchangeable",
        "Nothing was changed: the hold was released, or is on everything. Place another one.",
    ),
    errors.ChatExistsError: Problem(
        409, "chat_exists", "Chat exists", "Your tenant has a chat with this id. Choose another, or leave the id out."
    ),
    errors.ChatInTrashError: Problem(
        409, "chat_in_trash", "Chat in trash", "A chat with this id is in your tenant's trash. Restore that one."
    ),
    errors.ChatIdRetiredError: Problem(
        409, "chat_id_retired", "Chat id retired", "A chat with this id was deleted, and a deleted id never comes back."
    ),
    errors.ValidationFailedError: Problem(
        422,
        "validation_error",
        "Validation error",
        "The request was understood, but the fields under `errors` need to change.",
        extras=lambda error: {"errors": error.errors},
    ),
    errors.ImportTooLargeError: Problem(
        413,
        "import_too_large",
        "Import too large",
        "The export is over the limit for imports (MAX_IMPORT_BYTES), or takes longer than a request may. Nothing was "
        "created. Whoever runs the service can take in a file of any size with `flask --app wsgi chats import`.",
    ),
    errors.UploadStorageError: Problem(
        503,
        "upload_storage_unavailable",
        "Upload storage unavailable",
        "The server has no place to keep the body while it arrives. Nothing was changed; try again later.",
        headers=_retry_after(30),
    ),
    errors.DatabaseUnavailableError: Problem(
        503,
        "database_unavailable",
        "Database unavailable",
        "The database could not be asked in time. Nothing was changed; try again.",
        headers=_retry_after(2),
    ),
    errors.LedgerBehindError: Problem(
        503,
        "ledger_behind",
        "Ledger behind",
        "A backup was restored, and what was deleted since then has to be deleted again first. Nothing was done.",
        headers=_retry_after(30),
    ),
    errors.OutcomeUnknownError: Problem(
        503,
        "outcome_unknown",
        "Outcome unknown",
        "The change was sent to the database and no answer came: it was made whole or not at all. Look, or try again.",
        headers=_retry_after(2),
    ),
}

HTTP: dict[int, Problem] = {
    400: Problem(400, "bad_request", "Bad request", "The request is not well-formed HTTP."),
    403: Problem(
        403,
        "forbidden_origin",
        "Forbidden origin",
        "Pages of this origin may not connect. The service's operator lists those that may in CORS_ORIGINS.",
    ),
    404: Problem(404, "not_found", "Not found", "There is nothing at this address. See the API documentation."),
    405: Problem(405, "method_not_allowed", "Method not allowed", "The Allow header lists what can be done here."),
    406: Problem(406, "not_acceptable", "Not acceptable", "The answer is application/json; let Accept include it."),
    408: Problem(408, "request_timeout", "Request timeout", "The body took too long to arrive. Nothing was changed."),
    413: Problem(
        413, "content_too_large", "Content too large", "The body is over the limit. Send it in smaller parts."
    ),
    414: Problem(414, "uri_too_long", "URI too long", "The request line is over the limit."),
    415: Problem(
        415,
        "unsupported_media_type",
        "Unsupported media type",
        "Send the body as `Content-Type: application/json`, in UTF-8, without a Content-Encoding.",
    ),
    426: Problem(426, "upgrade_required", "Upgrade required", "This address speaks WebSocket only."),
    431: Problem(431, "headers_too_large", "Request header fields too large", "Send fewer or shorter header fields."),
    500: INTERNAL,
    501: Problem(501, "not_implemented", "Not implemented", "Only `Transfer-Encoding: chunked` is understood."),
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
