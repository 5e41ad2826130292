"""Reads an ndjson export and trusts nothing in it until its last line has been checked."""

import hashlib
import hmac
import uuid
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

from flask import abort, request
from marshmallow import ValidationError

from chat_service.api.message_schemas import ExportedChatIn, ExportedEndIn, ExportedMessageIn
from chat_service.api.parsing import is_encoded, parse_json
from chat_service.errors import InvalidImportError, InvalidJsonError
from chat_service.models import Chat, Message

MEDIA_TYPES = {"application/x-ndjson", "application/ndjson"}

_MESSAGE_LINE = ExportedMessageIn()  # made once: to make it takes longer than to use it


def read_export() -> tuple[Chat, list[Message]]:
    """Return the chat in the request's body, under a new id, and its messages.

    Raises:
        InvalidImportError: the body is not a whole export.
        UnsupportedMediaType: it does not say that it is one.
    """
    if request.mimetype not in MEDIA_TYPES or is_encoded(request):
        abort(415)
    lines = request.get_data().splitlines(keepends=True)
    if len(lines) < 2:  # noqa: PLR2004 - the chat and the end
        raise InvalidImportError("An export has at least two lines: the chat and the end.")
    _check_end(lines)
    chat: Chat = _load(ExportedChatIn(), lines[0], 1)
    messages: list[Message] = [_load(_MESSAGE_LINE, line, number) for number, line in enumerate(lines[1:-1], 2)]
    for number, (message, following) in enumerate(pairwise(messages), 3):
        if following.seq <= message.seq:
            _refuse(number, "seq must grow from message to message.")
    return replace(chat, id=str(uuid.uuid4()), message_count=len(messages)), messages


def _check_end(lines: list[bytes]) -> None:
    end: dict[str, Any] = _load(ExportedEndIn(), lines[-1], len(lines))
    if end["message_count"] != len(lines) - 2:
        _refuse(len(lines), f"It counts {end['message_count']} messages, and there are {len(lines) - 2}.")
    digest = hashlib.sha256()
    for line in lines[:-1]:
        digest.update(line)
    if not hmac.compare_digest(digest.hexdigest(), end["sha256"]):
        _refuse(len(lines), "Its SHA-256 is not that of the lines before.")


def _load(schema: Any, line: bytes, number: int) -> Any:
    try:
        return schema.load(parse_json(line))
    except InvalidJsonError as error:
        _refuse(number, f"It is not JSON. {error.reason}")
    except ValidationError as error:
        _refuse(number, f"These fields are wrong: {', '.join(sorted(_names(error.messages)))}.")


def _names(messages: Any) -> set[str]:
    return {str(name) for name in messages} if isinstance(messages, dict) else {"body"}


def _refuse(number: int, reason: str) -> NoReturn:
    raise InvalidImportError(f"Line {number}: {reason}")
