"""Whole chats: export as a download, import as a new chat.

Only the ndjson form can be imported: a first line with the chat, a line for each message, and a last line with the
number of messages and the SHA-256 of every byte before it. A stream that was cut off has no such line, no closing
bracket (json) or no last sentence (markdown), and over HTTP no clean end.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import orjson
from flask import Response, request
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.chats import created, etag
from chat_service.api.context import caller, repositories
from chat_service.api.imports import create_from_export, require_export
from chat_service.api.message_schemas import ExportIn
from chat_service.api.openapi import raises
from chat_service.api.parsing import Fingerprint, require_acceptable
from chat_service.api.schemas import ChatOut
from chat_service.errors import ImportTooLargeError, InvalidImportError, TooManyExportsError, UploadStorageError
from chat_service.models import Chat, Scope, milliseconds
from chat_service.repository.exports import Row

blueprint = Blueprint("exports", __name__, url_prefix="/api/v1", description="Export of whole chats, and their import")

Batches = Iterator[list[Row]]

LINES = "The lines of an export."
# As a file: code generators that do not know ndjson can send a file, and none would write the lines by itself.
IMPORTED = {"application/x-ndjson": {"schema": {"type": "string", "format": "binary", "description": LINES}}}
EXPORTED = {
    "application/json": {"schema": {"$ref": "#/components/schemas/Export"}},
    "application/x-ndjson": {"schema": {"type": "string", "description": LINES}},
    "text/markdown": {"schema": {"type": "string"}},
}
"""The descriptions of the bodies that have no schema: of an import, and of an export."""


@blueprint.get("/chats/<chat_id>/export")
@requires(Scope.READ)
@raises(TooManyExportsError)
@blueprint.arguments(ExportIn(), location="query")
@blueprint.doc(responses={"200": {"description": "The chat, streamed.", "content": EXPORTED}})
def export_chat(query: dict[str, Any], chat_id: str) -> Response:
    """Export the whole chat as a download, as it is at this moment.

    Only `ndjson` can be imported again: its last line has the number of messages and the SHA-256 of every byte before
    it. Without that line the export was cut off, for example because the chat was deleted during the export. The `ETag`
    is the `revision` of the last line in quotes: a delete with it in `If-Match` deletes exactly what you have, and with
    `export_sha256` the receipt says that you have it.
    """
    media_type, suffix, write = _FORMATS[query["format"]]
    require_acceptable(media_type)
    with ExitStack() as stack:
        chat, batches = stack.enter_context(repositories().exports.open(caller(), chat_id))
        response = Response(write(chat, batches), mimetype=media_type)
        response.call_on_close(stack.pop_all().close)
    response.headers["Content-Disposition"] = f'attachment; filename="chat-{chat.id}.{suffix}"'
    response.headers.update(etag(chat.revision))
    return response


@blueprint.post("/chats/import")
@requires(Scope.WRITE)
@raises(InvalidImportError, ImportTooLargeError, UploadStorageError, headers="Idempotency-Key")
@blueprint.doc(requestBody={"required": True, "content": IMPORTED})
@blueprint.response(201, ChatOut())
def import_chat() -> tuple[Chat, dict[str, str]]:
    """Create a new chat from an ndjson export: all of it, or nothing.

    The chat gets a new id; the messages keep their numbers and times. The body may have up to `MAX_IMPORT_BYTES`, more
    than other bodies.
    """
    require_export()
    fingerprint = Fingerprint()
    body = io.BufferedReader(request.stream)  # type: ignore[type-var]  # the stream itself reads lines byte by byte
    return created(create_from_export(caller().tenant_id, body, fingerprint.add, fingerprint.key))


def chat_json(chat: Chat) -> dict[str, Any]:
    """Return the part of a chat that an export keeps."""
    return {
        "id": chat.id,
        "title": chat.title,
        "metadata": chat.metadata,
        "message_count": chat.message_count,
        "created_at": milliseconds(chat.created_at),
        "updated_at": milliseconds(chat.updated_at),
        "last_message_at": chat.last_message_at and milliseconds(chat.last_message_at),
    }


def ndjson(chat: Chat, batches: Batches) -> Iterator[bytes]:
    """Yield the lines of an export that can be imported again, many at a time."""
    digest = hashlib.sha256()
    count = 0
    chunk = orjson.dumps({"type": "chat", "chat": chat_json(chat)}, option=orjson.OPT_APPEND_NEWLINE)
    digest.update(chunk)
    yield chunk
    for batch in batches:
        count += len(batch)
        # The frame is written by hand: measured, it costs a third of what a dictionary around each message does.
        chunk = b"".join([b'{"type":"message","message":%b}\n' % orjson.dumps(row) for row in batch])
        digest.update(chunk)
        yield chunk
    end = {"type": "end", "message_count": count, "revision": chat.revision, "sha256": digest.hexdigest()}
    yield orjson.dumps(end, option=orjson.OPT_APPEND_NEWLINE)


def _json(chat: Chat, batches: Batches) -> Iterator[bytes]:
    yield b'{"chat":' + orjson.dumps(chat_json(chat)) + b',"messages":['
    separator = b""
    for batch in batches:
        yield separator + orjson.dumps(batch)[1:-1]
        separator = b","
    yield b"]}\n"


def _markdown(chat: Chat, batches: Batches) -> Iterator[bytes]:
    yield f"# {_one_line(chat.title or 'Untitled chat')}\n\nChat {chat.id}, {chat.message_count} messages.\n".encode()
    count = 0
    for batch in batches:
        count += len(batch)
        yield "".join(map(_markdown_message, batch)).encode()
    yield f"\n---\n\n*End of the chat: {count} messages.*\n".encode()


def _markdown_message(row: Row) -> str:
    sender = f" ({_one_line(row['sender_id'])})" if row["sender_id"] else ""
    quoted = "\n".join(f"> {line}" for line in row["content"].split("\n"))
    return f"\n**{row['seq']}. {row['role']}{sender}**, {row['created_at']}\n\n{quoted}\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


_FORMATS: dict[str, tuple[str, str, Callable[[Chat, Batches], Iterator[bytes]]]] = {
    "json": ("application/json", "json", _json),
    "ndjson": ("application/x-ndjson", "ndjson", ndjson),
    "markdown": ("text/markdown", "md", _markdown),
}
