"""The targets of fuzzing. Each gets any bytes: an error of the service's own is right, any other exception is a bug.

An accepted input must also be storable (BSON) and sendable (JSON), or the caller would get a 500 after all.
"""

import hashlib
import io
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import bson
import orjson
from flask import Flask
from marshmallow import RAISE, Schema, ValidationError
from werkzeug.exceptions import BadRequest

from chat_service.api import cursors, imports, message_schemas, parsing, schemas, strict_json
from chat_service.errors import InvalidCursorError, InvalidImportError, InvalidJsonError, ValidationFailedError
from chat_service.models import Chat, ListPosition, Message, NewMessage, milliseconds
from chat_service.repository import chats, messages

TENANT, CHAT = "tenant", "c0ffee00-1111-4222-8333-444444444444"

_APP = Flask("fuzz")


def json(data: bytes) -> None:
    """A JSON body. Two parsers agree on the value of an accepted one, and it can be serialized again."""
    with suppress(InvalidJsonError):
        value = strict_json.parse_json(data)
        assert orjson.loads(orjson.dumps(value)) == orjson.loads(data)


def cursor(data: bytes) -> None:
    """A cursor of messages, and of a list. An accepted one is the same after it is written and read again."""
    text = data.decode("utf-8", "replace")
    page = {"cursor": text, "after": None, "before": None, "order": None}
    with suppress(InvalidCursorError, ValidationFailedError):
        span = cursors.requested_span(page, TENANT, CHAT)
        last = span.before if span.newest_first else span.after
        assert (
            cursors.requested_span({**page, "cursor": cursors.next_cursor(span, last, TENANT, CHAT)}, TENANT, CHAT)
            == span
        )
    with suppress(InvalidCursorError):
        position = cursors.read_position(text, TENANT)
        assert position is not None
        assert cursors.read_position(cursors.write_position(position, TENANT), TENANT) == position
        assert bson.encode({"at": position.at})


def cursor_of_ours(data: bytes) -> None:
    """As `cursor`, with the mark that ties a cursor to its list, which no fuzzer would guess."""
    span_mark = cursors._SPAN.pack(False, 0, 0, cursors._list_mark(TENANT, CHAT))[-8:]
    list_mark = cursors._list_mark(TENANT)
    cursor(cursors._write(data[:17].ljust(17, b"\0") + span_mark).encode())
    cursor(cursors._write(data[:24].ljust(24, b"\0") + list_mark).encode())


def if_match(data: bytes) -> None:
    """An If-Match header gives revisions that fit a BSON integer, any revision, or a 400."""
    text = data.decode("latin-1").replace("\r", "").replace("\n", "")
    with _APP.test_request_context(headers={"If-Match": text}), suppress(BadRequest):
        revisions = parsing.expected_revisions()
        assert bson.encode({"revisions": list(revisions or ())})


def chat_id(data: bytes) -> None:
    """A UUID: an accepted text is a UUID, and is returned in its canonical form."""
    text = data.decode("utf-8", "replace")
    canonical = parsing.parse_uuid(text)
    if canonical is not None:
        assert canonical == str(uuid.UUID(text))
        assert canonical.isascii()


def exported(data: bytes) -> None:
    """An import of any lines."""
    with suppress(InvalidImportError):
        export = imports.Export(io.BytesIO(data))
        chat = export.chat()
        _store(chat, [message for batch in export.batches() for message in batch])


def exported_whole(data: bytes) -> None:
    """An import whose last line has the right count and hash of the lines before it."""
    body = data.removesuffix(b"\n") + b"\n"
    count = len(body.splitlines()) - 1
    end = {"type": "end", "message_count": count, "sha256": hashlib.sha256(body).hexdigest()}
    exported(body + orjson.dumps(end) + b"\n")


SCHEMAS: list[Schema] = [
    message_schemas.MessagesIn(),
    message_schemas.MessagePatch(),
    message_schemas.PageIn(),
    message_schemas.ExportIn(),
    schemas.ChatIn(),
    schemas.ChatPatch(),
    schemas.BulkIn(),
    schemas.ReceiptPageIn(),
    message_schemas.ExportedChatIn(),
    message_schemas.ExportedMessageIn(),
    message_schemas.ExportedEndIn(),
]


def fields(data: bytes) -> None:
    """JSON for the schema of a body or a query, chosen by the first byte. An accepted value can be stored."""
    schema = SCHEMAS[data[0] % len(SCHEMAS)] if data else SCHEMAS[0]
    with suppress(InvalidJsonError, ValidationError):
        loaded = schema.load(strict_json.parse_json(data[1:]), unknown=RAISE)
        _store_loaded(loaded)


def _store_loaded(loaded: Any) -> None:
    if isinstance(loaded, list):
        for item in loaded:
            _store_loaded(item)
    elif isinstance(loaded, NewMessage):
        _store_message(Message(1, loaded.role.value, loaded.sender_id, loaded.content, loaded.metadata, _AT, None))
    elif isinstance(loaded, Message):
        _store_message(loaded)
    elif isinstance(loaded, Chat):
        _store(loaded, [])
    else:
        assert bson.encode(loaded)


_AT = cursors._EPOCH


def _store(chat: Chat, chat_messages: list[Message]) -> None:
    assert bson.encode(chats.to_document(TENANT, chat))
    assert orjson.dumps([chat.title, chat.metadata, milliseconds(chat.created_at), milliseconds(chat.updated_at)])
    assert cursors.write_position(ListPosition(chat.updated_at, chat.id), TENANT)
    for message in chat_messages:
        _store_message(message)


def _store_message(message: Message) -> None:
    assert bson.encode(messages.to_document(TENANT, CHAT, message))
    assert orjson.dumps(message_schemas.message_json(message))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "json": json,
    "cursor": cursor,
    "cursor_of_ours": cursor_of_ours,
    "if_match": if_match,
    "chat_id": chat_id,
    "exported": exported,
    "exported_whole": exported_whole,
    "fields": fields,
}

_CHAT_LINE = (
    b'{"type":"chat","chat":{"id":"%s","title":"t","metadata":{"a":[1,-2.5e3,null,true]},"message_count":1,'
    b'"created_at":"2024-01-15T10:45:00.000Z","updated_at":"2024-01-15T10:45:00.000+01:00","last_message_at":null}}\n'
    % CHAT.encode()
)
_MESSAGE_LINE = (
    b'{"type":"message","message":{"seq":1,"role":"user","sender_id":null,"content":"\\u00e9\\ud83d\\ude00",'
    b'"metadata":{},"created_at":"0001-01-01T00:00:00Z","edited_at":null}}\n'
)

SEEDS: dict[str, list[bytes]] = {
    "json": [b'{"a": [1, -2.5e3, null, true, "\\u00e9\\ud83d\\ude00"]}', b'{"a": 1, "a": 2}', b"[9223372036854775807]"],
    "cursor": [b"AAAA", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
    "cursor_of_ours": [b"\0" * 24],
    "if_match": [b'"1"', b'W/"1", "2"', b"*", b'""'],
    "chat_id": [CHAT.encode(), CHAT.upper().encode()],
    "exported": [_CHAT_LINE + _MESSAGE_LINE],
    "exported_whole": [_CHAT_LINE + _MESSAGE_LINE, _CHAT_LINE],
    "fields": [
        b'\x00{"content": "x", "role": "tool", "sender_id": "s", "metadata": {"k": {"l": []}}}',
        b'\x00{"messages": [{"content": "x"}, {"content": "y", "metadata": {}}]}',
        b'\x01{"content": "x", "metadata": {"a": 1.5}}',
        b'\x02{"after": "1", "before": "2", "limit": "3", "order": "asc", "cursor": "A"}',
        b'\x04{"title": "t", "metadata": {}, "id": "%s"}' % CHAT.encode(),
        b'\x05{"title": null}',
        b'\x06{"chat_ids": ["%s"]}' % CHAT.encode(),
        b'\x07{"since": "2024-01-15T10:45:00Z", "limit": "3"}',
        b"\x08" + _CHAT_LINE,
        b"\x09" + _MESSAGE_LINE,
        b'\x0a{"type": "end", "message_count": 1, "sha256": "%s"}' % (b"0" * 64),
    ],
}
"""The inputs that the fuzzer starts from: from valid ones it gets further much sooner than from nothing."""

TOKENS = (
    *(r"\u0000", r"\ud800", r"\udc00", r"\u00e9", "\x00", "\u0660", "\uff11", "\ufeff"),
    *('"$ne"', '"$', ".", '"a.b"', '{"', '":', "[[[[[[[[", "{}", "[]", "null", "true", '""', ","),
    *("NaN", "Infinity", "-0", "1e999", "1e-999", "9223372036854775807", "9223372036854775808", "0.1", "1_0"),
    *('"role"', '"content"', '"sender_id"', '"metadata"', '"messages"', '"title"', '"id"', '"chat_ids"', '"since"'),
    *('"seq"', '"created_at"', '"edited_at"', '"message_count"', '"type"', '"sha256"', '"last_message_at"'),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "-23:59", "+23:59", "T24:00:00", "02-30", "W/", "*"),
)
"""Tokens that the fuzzer may insert: those of the requests, and some that have broken other programs."""
