"""marshmallow schemas of messages, in requests, responses and exports. No I/O.

Message pages are dumped by `message_json` and orjson instead: marshmallow takes sixty times as long for a page of 100.
"""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, fields, post_load, validate, validates_schema

from chat_service.api.compiled import compiled
from chat_service.api.fields import Metadata, Number, Rfc3339, Text, Time, Uuid
from chat_service.api.schemas import CURSOR, PAGE_DEFAULT, PAGE_MOST, TITLE_CHARACTERS, refuse_empty
from chat_service.models import Chat, Message, NewMessage, Role, milliseconds

CONTENT_CHARACTERS = 32_768
SENDER_ID_CHARACTERS = 200
BATCH_MESSAGES = 1_000

MOST_SEQ = 10**18 - 1
"""The largest number of 18 digits: no seq will ever be larger, and it does not overflow."""


class MessageIn(Schema):
    """One message to post."""

    role = fields.Enum(Role, by_value=True, load_default=Role.USER)
    content = Text(CONTENT_CHARACTERS, required=True, metadata={"example": "Where is my parcel?"})
    sender_id = Text(SENDER_ID_CHARACTERS, load_default=None, allow_none=True, metadata={"example": "ada"})
    metadata = Metadata(load_default=dict)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> NewMessage:
        """Return the message."""
        return NewMessage(**data)


_read_message = compiled(MessageIn())


class BatchIn(Schema):
    """Several messages to post: all or none."""

    messages = fields.List(fields.Nested(MessageIn()), required=True, validate=validate.Length(1, BATCH_MESSAGES))

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> list[NewMessage]:
        """Return the messages."""
        messages: list[NewMessage] = data["messages"]
        return messages


_read_batch = compiled(BatchIn())


class MessagesIn(BatchIn):
    """One message, or `{"messages": [...]}`; it is loaded as a list either way."""

    def load(self, data: Any, **_: Any) -> list[NewMessage]:
        """Return the messages to post.

        Raises:
            ValidationError: with the field names of the form that was sent.
        """
        is_batch = isinstance(data, Mapping) and "messages" in data
        messages: list[NewMessage] = _read_batch(data) if is_batch else [_read_message(data)]
        return messages


class MessagePatch(Schema):
    """Changes to a message; a field that is left out stays as it is."""

    content = Text(CONTENT_CHARACTERS, metadata={"example": "Where is my parcel now?"})
    metadata = Metadata()

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        refuse_empty(data)


class ClearedOut(Schema):
    """The result of emptying a chat."""

    success = fields.Constant(True)
    deleted = fields.Integer()


class ExportIn(Schema):
    """The format of an export."""

    format = fields.String(load_default="json", validate=validate.OneOf(["json", "ndjson", "markdown"]))


class MessageOut(Schema):
    """One message. Only for the OpenAPI document: `message_json` builds it."""

    seq = fields.Integer()
    role = fields.Enum(Role, by_value=True)
    sender_id = fields.String(allow_none=True)
    content = fields.String()
    metadata = fields.Dict()
    created_at = Time()
    edited_at = Time(allow_none=True)


class MessagesOut(Schema):
    """The messages that were posted, as they are stored."""

    messages = fields.List(fields.Nested(MessageOut()))


class MessagePageOut(Schema):
    """A page of messages."""

    items = fields.List(fields.Nested(MessageOut()))
    next_cursor = fields.String(allow_none=True)


_SEQS = validate.Range(0, MOST_SEQ)


class PageIn(Schema):
    """Which messages of the chat to list."""

    after = Number(load_default=None, validate=_SEQS, metadata={"description": "Only messages with a larger seq."})
    before = Number(load_default=None, validate=_SEQS, metadata={"description": "Only messages with a smaller seq."})
    limit = Number(load_default=PAGE_DEFAULT, validate=validate.Range(1, PAGE_MOST))
    order = fields.String(load_default=None, validate=validate.OneOf(["asc", "desc"]))
    cursor = fields.String(load_default=None, metadata=CURSOR)


class _ExportedChat(Schema):
    id = Uuid(required=True)
    title = Text(TITLE_CHARACTERS, 0, required=True, allow_none=True)
    metadata = Metadata(required=True)
    message_count = fields.Integer(required=True, strict=True)
    created_at = Rfc3339(required=True)
    updated_at = Rfc3339(required=True)
    last_message_at = Rfc3339(required=True, allow_none=True)


class _ExportedMessage(MessageIn):
    seq = fields.Integer(required=True, strict=True, validate=validate.Range(1, MOST_SEQ))
    created_at = Rfc3339(required=True)
    edited_at = Rfc3339(required=True, allow_none=True)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Message:
        """Return the message, as it was stored."""
        return Message(**{**data, "role": data["role"].value})


class ExportedChatIn(Schema):
    """The first line of an export."""

    type = fields.String(required=True, validate=validate.Equal("chat"))
    chat = fields.Nested(_ExportedChat(), required=True)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Chat:
        """Return the chat. Its number of messages is not trusted: whoever reads the export counts them."""
        return Chat(**data["chat"], active_connections=0, revision=1)


class ExportedMessageIn(Schema):
    """Each of the lines between the first and the last."""

    type = fields.String(required=True, validate=validate.Equal("message"))
    message = fields.Nested(_ExportedMessage(), required=True)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Message:
        """Return the message."""
        message: Message = data["message"]
        return message


read_exported_message = compiled(ExportedMessageIn())
"""Return the message of a line of an export."""


class ExportedEndIn(Schema):
    """The last line of an export."""

    type = fields.String(required=True, validate=validate.Equal("end"))
    message_count = fields.Integer(required=True, strict=True)
    revision = fields.Integer(strict=True)  # exports of version 0.1 have none
    sha256 = fields.String(required=True, validate=validate.Regexp("[0-9a-f]{64}$"))


def message_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON."""
    return {
        "seq": message.seq,
        "role": message.role,
        "sender_id": message.sender_id,
        "content": message.content,
        "metadata": message.metadata,
        "created_at": milliseconds(message.created_at),
        "edited_at": None if message.edited_at is None else milliseconds(message.edited_at),
    }
