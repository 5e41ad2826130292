"""Parsing requests, strictly: what is wrong is refused with its reason, and never guessed."""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NoReturn, ParamSpec

from flask import Flask, Request, Response, abort, current_app, request
from flask_smorest import Blueprint
from marshmallow import ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import BaseConverter

from chat_service.api.auth import API_PREFIX
from chat_service.api.context import caller
from chat_service.api.strict_json import parse_json
from chat_service.errors import (
    ErasureNotFoundError,
    HoldNotFoundError,
    ImportTooLargeError,
    InvalidChatIdError,
    InvalidIdempotencyKeyError,
    MessageNotFoundError,
    ValidationFailedError,
    WebhookNotFoundError,
)
from chat_service.models import IdempotencyKey

# RFC 9562, section 4: 8-4-4-4-12 hexadecimal digits, in either case.
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

# RFC 9110, section 13.1.1: `*`, or a list of entity tags.
IF_MATCH = r'^(\*|(W/)?"[!#-~]*"( ?, ?(W/)?"[!#-~]*")*)$'

# A tag of ours: the revision, the number of live connections, and the end by the tenant's retention policy.
_ETAG = re.compile(r"([0-9]{1,18})(?:-[0-9]+)?(?:\.-?[0-9.]+)?", re.ASCII)
_NAMED_BY_UUID = {
    "hold_id": HoldNotFoundError,
    "erasure_id": ErasureNotFoundError,
    "webhook_id": WebhookNotFoundError,
}
_SEQ = re.compile("[1-9][0-9]{0,17}", re.ASCII)

# No comma: two headers of this name arrive as one, with a comma between.
_IDEMPOTENCY_KEY = re.compile("[!-+\\--~]{1,255}", re.ASCII)

P = ParamSpec("P")

_UNDECLARED = {"", "application/x-www-form-urlencoded"}
"""The types of a JSON body from clients that do not declare it: none, and the one that curl adds to `-d`."""


def parse_uuid(text: str) -> str | None:
    """Return the canonical, lower-case form of a UUID, or None if `text` is not a UUID."""
    return text.lower() if _UUID.fullmatch(text) else None


def is_encoded(request: Request) -> bool:
    """Return whether the body has a content coding, such as gzip: their names have no case (RFC 9110, 8.4)."""
    return (request.content_encoding or "identity").lower() != "identity"


class PathPart(BaseConverter):
    """A variable part of a path, but no word that is an address of its own: those answer 405 to other methods."""

    regex = "(?!(?:delete|import|restore|trash)$)[^/]+"
    part_isolating = True


class Parser(FlaskParser):
    """webargs, with a strict JSON reader and our error shape."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": "raise"}  # noqa: RUF012

    def load_json(self, req: Request, schema: Any) -> Any:
        """Return the body as JSON; where the schema says `may_be_left_out`, no body is an empty object.

        Raises:
            InvalidJsonError: the body is not strict JSON.
            UnsupportedMediaType: the body is declared as something else than JSON in UTF-8.
        """
        charset = req.mimetype_params.get("charset", "utf-8").lower()
        if charset not in {"utf-8", "utf8"} or is_encoded(req):
            abort(415)
        if req.mimetype != "application/json" and req.mimetype not in _UNDECLARED:
            abort(415)
        body = req.get_data()
        return {} if not body and getattr(schema, "may_be_left_out", False) else parse_json(body)

    def handle_error(self, error: ValidationError, *_: Any, **__: Any) -> NoReturn:
        """Raise the errors that the schema found, without webargs' level for the location."""
        messages = error.messages
        if isinstance(messages, dict) and len(messages) == 1 and next(iter(messages)) in {"json", "query"}:
            messages = next(iter(messages.values()))
        by_field = messages if isinstance(messages, dict) else {"body": messages}
        raise ValidationFailedError({("body" if name == "_schema" else name): text for name, text in by_field.items()})


Blueprint.ARGUMENTS_PARSER = Parser()


def expected_revisions() -> set[int] | None:
    """Return the revisions that `If-Match` allows, or None if it allows any. A tag that is not ours matches none.

    Raises:
        BadRequest: the header is not a list of entity tags.
    """
    header = request.headers.get("If-Match", "*")
    if not re.fullmatch(IF_MATCH, header):  # werkzeug would skip what it cannot parse
        abort(400)
    if header == "*":
        return None
    # The strong tags only: a weak one never matches here (RFC 9110, section 13.1.1).
    tags = [_ETAG.fullmatch(tag or "") for tag in request.if_match]
    return {int(tag[1]) for tag in tags if tag is not None}


def honours_if_none_match(view: Callable[P, Response]) -> Callable[P, Response]:
    """Answer 304 to a caller whose `If-None-Match` names what the view returns."""

    @wraps(view)
    def respond(*args: P.args, **kwargs: P.kwargs) -> Response:
        response = view(*args, **kwargs)
        tag, _ = response.get_etag()
        # Not `make_conditional`, which would look at If-Match too, and answer 412 in a shape that is not ours.
        if tag is not None and request.if_none_match.contains_weak(tag):
            response.status_code = 304
        return response

    return respond


class Fingerprint:
    """A digest that tells apart different requests with the same Idempotency-Key; without a key it does nothing."""

    def __init__(self) -> None:
        """Begin with the method, the address and the If-Match of the current request.

        Raises:
            InvalidIdempotencyKeyError: the key is not valid.
        """
        self._key = request.headers.get("Idempotency-Key")
        if self._key is not None and not _IDEMPOTENCY_KEY.fullmatch(self._key):
            raise InvalidIdempotencyKeyError
        head = (request.method, request.full_path, request.headers.get("If-Match", ""))
        self._digest = hashlib.sha256("\n".join(head).encode() + b"\n")

    def add(self, part: bytes) -> None:
        """Add a part of the body to the digest."""
        if self._key is not None:
            self._digest.update(part)

    def key(self) -> IdempotencyKey | None:
        """Return the caller's key with the digest of the request, or None if there is no key."""
        return None if self._key is None else IdempotencyKey(caller().tenant_id, self._key, self._digest.hexdigest())


def idempotency_key() -> IdempotencyKey | None:
    """Return the caller's Idempotency-Key with a digest of this request, or None if it sent none.

    Raises:
        InvalidIdempotencyKeyError: the key is not valid.
    """
    if "Idempotency-Key" not in request.headers:
        return None
    fingerprint = Fingerprint()
    fingerprint.add(request.get_data())
    return fingerprint.key()


_QUERY_FIELDS = "chat_service.query_fields"


def declare_query_fields(app: Flask, fields: Mapping[str, set[str]]) -> None:
    """Allow each endpoint these query parameters, and no others."""
    app.extensions[_QUERY_FIELDS] = fields


def install(app: Flask) -> None:
    """Check what all operations have in common, after the key and before the view."""
    app.before_request(_check_request)


def _check_request() -> None:
    _check_http()
    if not request.path.startswith(API_PREFIX) or request.routing_exception is not None:
        return
    _check_accept()
    _check_size()
    _check_query()
    _check_path()


def _check_http() -> None:
    """Refuse what RFC 9112 forbids and the layers below let pass."""
    if "Host" not in request.headers and request.environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        abort(400)
    if request.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        abort(501)
    if request.environ["PATH_INFO"].startswith("//"):  # which `request.path` does not show
        abort(404)


def _check_accept() -> None:
    if request.endpoint not in CHECK_ACCEPT_THEMSELVES:
        require_acceptable("application/json")


CHECK_ACCEPT_THEMSELVES = {
    "exports.export_chat",
    "log.read_log",
    "proofs.get_checkpoint",
    "proofs.prove_growth",
    "proofs.prove_deletion",
}
"""Endpoints that check `Accept` themselves, once they know the media type of their response."""


def require_acceptable(media_type: str) -> None:
    """Check that the caller accepts this media type: the most specific range that matches it decides.

    Raises:
        NotAcceptable: the caller does not accept it.
    """
    preferred(media_type)


def preferred(*media_types: str) -> str:
    """Return which of these media types the caller prefers; the first, if `Accept` does not say.

    Raises:
        NotAcceptable: the caller accepts none of them.
    """
    if not request.headers.get("Accept", "").strip():
        return media_types[0]
    best = max(media_types, key=_quality)
    if _quality(best) == 0:
        abort(406)
    return best


def _quality(media_type: str) -> float:
    """Return the quality that `Accept` gives to this media type; 0 if the type is not accepted.

    Parameters of a range are ignored: our types have none (RFC 9110, section 12.5.1).
    """
    specificity = {media_type: 2, media_type.split("/", maxsplit=1)[0] + "/*": 1, "*/*": 0}
    if media_type == "application/json":
        specificity["application/problem+json"] = 2  # it is JSON, and what our errors are
    matches = [
        (specificity[accepted], quality)
        for text, quality in request.accept_mimetypes
        if (accepted := text.split(";")[0].strip().lower()) in specificity
    ]
    return max(matches, default=(0, 0.0))[1]


def _check_size() -> None:
    """Refuse a body that is too large, on every operation, also where it would not be read."""
    is_import = request.endpoint == "exports.import_chat"
    if is_import:
        request.max_content_length = current_app.config["MAX_IMPORT_BYTES"]
    limit = request.max_content_length
    if limit is not None and (request.content_length or 0) > limit:
        raise ImportTooLargeError if is_import else RequestEntityTooLarge


def _check_query() -> None:
    if not request.query_string:
        return
    allowed = current_app.extensions[_QUERY_FIELDS].get(request.endpoint, set())
    errors: dict[str, object] = {}
    for name, values in request.args.lists():
        if name not in allowed:
            errors[name] = ["Unknown parameter. Leave it out."]
        elif len(values) > 1:
            errors[name] = ["Must not be sent more than once."]
    if errors:
        raise ValidationFailedError(errors)


def _check_path() -> None:
    """Validate and canonicalise the ids in the path.

    Raises:
        InvalidChatIdError: the chat id is not a UUID.
        HoldNotFoundError, ErasureNotFoundError, WebhookNotFoundError: the id is not a UUID.
        MessageNotFoundError: the seq is not a number that a message can have.
    """
    arguments = request.view_args or {}
    if "chat_id" in arguments:
        chat_id = parse_uuid(arguments["chat_id"])
        if chat_id is None:
            raise InvalidChatIdError
        arguments["chat_id"] = chat_id
    for name, not_found in _NAMED_BY_UUID.items():
        if name in arguments:
            uuid = parse_uuid(arguments[name])
            if uuid is None:
                raise not_found
            arguments[name] = uuid
    if "seq" in arguments:
        if not _SEQ.fullmatch(arguments["seq"]):
            raise MessageNotFoundError
        arguments["seq"] = int(arguments["seq"])
