"""Imports: read an ndjson export as it arrives, and trust nothing in it until its last line has been checked."""

import hashlib
import hmac
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any, BinaryIO, NamedTuple, NoReturn

from flask import abort, request
from marshmallow import ValidationError

from chat_service.api.context import repositories
from chat_service.api.message_schemas import ExportedChatIn, ExportedEndIn, read_exported_message
from chat_service.api.parsing import is_encoded
from chat_service.api.strict_json import parse_json
from chat_service.errors import InvalidImportError, InvalidJsonError
from chat_service.models import Chat, IdempotencyKey, Message

MEDIA_TYPES = {"application/x-ndjson", "application/ndjson"}

LINE_BYTES = 2**20
"""More than any line of an export has: 32,768 characters of content, each as two `\\u` escapes, take 400 KB."""

BATCH_BYTES, BATCH_MESSAGES = 2**20, 1_000
"""How much is read and written at a time."""


class _Line(NamedTuple):
    number: int
    text: bytes


def require_export() -> None:
    """Check that the current request declares its body as an export.

    Raises:
        UnsupportedMediaType: it does not.
    """
    if request.mimetype not in MEDIA_TYPES or is_encoded(request):
        abort(415)


def create_from_export(
    tenant_id: str,
    source: BinaryIO,
    on_line: Callable[[bytes], object] = lambda _: None,
    get_key: Callable[[], IdempotencyKey | None] = lambda: None,
) -> Chat:
    """Create a chat of the tenant from an export and return it, or the chat that was created before under the same key.

    `on_line` is called with each line, and `get_key` after the last one.

    Raises:
        InvalidImportError: `source` is not a complete export.
        ImportTooLargeError: it takes longer than a request may.
        IdempotencyKeyReusedError: the key came with another request before.
    """
    export = Export(source, on_line)
    with repositories().imports.begin(tenant_id, export.chat()) as new_import:
        for batch in export.batches():
            new_import.add(batch)
        return new_import.finish(get_key())


class Export:
    """The lines of an export. Each is read together with the next one, because the last line is of another kind."""

    def __init__(self, source: BinaryIO, on_line: Callable[[bytes], object] = lambda _: None) -> None:
        self._pairs = _with_next(_lines(source, on_line))
        self._digest = hashlib.sha256()

    def chat(self) -> Chat:
        """Return the chat of the first line, under a new id."""
        first, following = next(self._pairs, (_Line(1, b""), None))
        if following is None:
            raise InvalidImportError("An export has at least two lines: the chat and the end.")
        self._digest.update(first.text)
        chat: Chat = _load(ExportedChatIn().load, first)
        return replace(chat, id=str(uuid.uuid4()))

    def batches(self) -> Iterator[list[Message]]:
        """Yield the messages. The last batch comes only if the last line is right, so finish the import after that."""
        batch: list[Message] = []
        size, last_seq = 0, 0
        for line, following in self._pairs:
            if following is None:
                self._check_end(line)
                break
            self._digest.update(line.text)
            message: Message = _load(read_exported_message, line)
            if message.seq <= last_seq:
                _refuse(line, "seq must be larger than in the message before.")
            if size >= BATCH_BYTES or len(batch) == BATCH_MESSAGES:
                yield batch
                batch, size = [], 0
            batch.append(message)
            size, last_seq = size + len(line.text), message.seq
        if batch:
            yield batch

    def _check_end(self, line: _Line) -> None:
        end: dict[str, Any] = _load(ExportedEndIn().load, line)
        messages = line.number - 2
        if end["message_count"] != messages:
            _refuse(line, f"It says that there are {end['message_count']} messages, but there are {messages}.")
        if not hmac.compare_digest(self._digest.hexdigest(), end["sha256"]):
            _refuse(line, "Its SHA-256 does not match the lines before it.")


def _lines(source: BinaryIO, on_line: Callable[[bytes], object]) -> Iterator[_Line]:
    for number in count(1):
        line = _Line(number, source.readline(LINE_BYTES + 1))
        if not line.text:
            return
        if len(line.text) > LINE_BYTES:
            _refuse(line, f"It is longer than {LINE_BYTES:,} bytes, and no line of an export is.")
        on_line(line.text)
        yield line


def _with_next(lines: Iterator[_Line]) -> Iterator[tuple[_Line, _Line | None]]:
    line = next(lines, None)
    while line is not None:
        following = next(lines, None)
        yield line, following
        line = following


def _load(read: Callable[[Any], Any], line: _Line) -> Any:
    try:
        return read(parse_json(line.text))
    except InvalidJsonError as error:
        _refuse(line, f"It is not JSON. {error.reason}")
    except ValidationError as error:
        _refuse(line, f"These fields are wrong: {', '.join(sorted(_field_names(error.messages)))}.")


def _field_names(messages: Any) -> set[str]:
    return {str(name) for name in messages} if isinstance(messages, dict) else {"body"}


def _refuse(line: _Line, reason: str) -> NoReturn:
    raise InvalidImportError(f"Line {line.number}: {reason}")
