"""marshmallow shapes of what arrives and what leaves. No I/O.

Message pages are dumped by `message_json` and orjson instead: marshmallow takes sixty times as long for a page of 100.
"""

from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate, validates_schema

from chat_service.api.fields import Metadata, Number, Time, UtcTime, Uuid, milliseconds, seconds, text_rules
from chat_service.models import Chat, Message, NewMessage, Role

TITLE_CHARACTERS = 200
CONTENT_CHARACTERS = 32_768
SENDER_ID_CHARACTERS = 200
BATCH_MESSAGES = 1_000
BULK_CHATS = 1_000
PAGE_DEFAULT = 50
PAGE_MOST = 200


class ChatIn(Schema):
    """A chat to create."""

    title = fields.String(load_default=None, allow_none=True, validate=text_rules(TITLE_CHARACTERS, 0))
    metadata = Metadata(load_default=dict)
    id = Uuid(load_default=None, metadata={"description": "Choose the id yourself, so that a retry cannot create two."})


class ChatPatch(Schema):
    """What can be changed of a chat; what is left out stays."""

    title = fields.String(allow_none=True, validate=text_rules(TITLE_CHARACTERS, 0))
    metadata = Metadata()

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        _refuse_empty(data)


class MessagePatch(Schema):
    """What can be changed of a message; what is left out stays."""

    content = fields.String(validate=text_rules(CONTENT_CHARACTERS))
    metadata = Metadata()

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        _refuse_empty(data)


def _refuse_empty(data: dict[str, Any]) -> None:
    if not data:
        raise ValidationError("Name at least one field to change.")


class ChatOut(Schema):
    """A chat without its messages."""

    id = fields.String()
    title = fields.String(allow_none=True)
    metadata = fields.Dict()
    message_count = fields.Integer()
    active_connections = fields.Integer()
    created_at = Time()
    updated_at = Time()
    last_message_at = Time(allow_none=True)


class DeletionOut(Schema):
    """The published answer of DELETE: these three fields and nothing else."""

    success = fields.Constant(True)
    message = fields.Constant("Chat deleted successfully")
    deleted_at = fields.Function(lambda deletion: seconds(deletion.deleted_at))


class PreviewOut(Schema):
    """What deleting a chat now would do."""

    chat_id = fields.String()
    message_count = fields.Integer()
    active_connections = fields.Integer()
    bytes = fields.Integer()
    bytes_estimated = fields.Boolean()
    mode = fields.Function(lambda preview: "staged" if preview.staged else "inline")


class BulkIn(Schema):
    """The chats to delete. An id that is given twice has one result."""

    chat_ids = fields.List(
        fields.String(validate=validate.Length(1, 64)), required=True, validate=validate.Length(1, BULK_CHATS)
    )


class _Deleted(Schema):
    chat_id = fields.String()
    deleted_at = fields.String()


class _NotDeleted(Schema):
    chat_id = fields.String()
    status = fields.Integer()
    code = fields.String()


class BulkOut(Schema):
    """What became of each chat."""

    successful = fields.List(fields.Nested(_Deleted()))
    failed = fields.List(fields.Nested(_NotDeleted()))


class _PurgeOut(Schema):
    state = fields.Function(lambda deletion: "running" if deletion.completed_at is None else "complete")
    deleted = fields.Integer(attribute="purged")
    remaining = fields.Function(
        lambda deletion: max(deletion.message_count - deletion.purged, 0) if deletion.completed_at is None else 0
    )
    completed_at = Time(allow_none=True)
    estimated_at = Time(allow_none=True)


class ReceiptOut(Schema):
    """The receipt of a deleted chat."""

    chat_id = fields.String()
    deleted_at = fields.Function(lambda deletion: seconds(deletion.deleted_at))
    message_count = fields.Integer()
    purge = fields.Function(lambda deletion: _PurgeOut().dump(deletion))
    requested_by = fields.String()


class ReceiptPageIn(Schema):
    """Which receipts of the tenant."""

    since = UtcTime(load_default=None)
    limit = Number(load_default=PAGE_DEFAULT, validate=validate.Range(1, PAGE_MOST))
    cursor = fields.String(load_default=None)


class ReceiptPageOut(Schema):
    """A page of receipts, latest first."""

    items = fields.List(fields.Nested(ReceiptOut()))
    next_cursor = fields.String(allow_none=True)


class MessageIn(Schema):
    """One message to post."""

    role = fields.Enum(Role, by_value=True, load_default=Role.USER)
    content = fields.String(required=True, validate=text_rules(CONTENT_CHARACTERS))
    sender_id = fields.String(load_default=None, allow_none=True, validate=text_rules(SENDER_ID_CHARACTERS))
    metadata = Metadata(load_default=dict)

    @post_load
    def _build(self, data: dict[str, Any], **_: Any) -> NewMessage:
        return NewMessage(**data)


_MESSAGE = MessageIn()


class BatchIn(Schema):
    """Several messages to post, all or none."""

    messages = fields.List(fields.Nested(_MESSAGE), required=True, validate=validate.Length(1, BATCH_MESSAGES))


_BATCH = BatchIn()


class MessagesIn(BatchIn):
    """One message, or `{"messages": [...]}`; loads to a list either way."""

    def load(self, data: Any, **_: Any) -> list[NewMessage]:
        """Return the messages to post.

        Raises:
            ValidationError: with the field names of the form that was sent.
        """
        if isinstance(data, Mapping) and "messages" in data:
            batch: list[NewMessage] = _BATCH.load(data, unknown=RAISE)["messages"]
            return batch
        one: NewMessage = _MESSAGE.load(data, unknown=RAISE)
        return [one]


class ChatPageIn(Schema):
    """Which chats of the tenant."""

    limit = Number(load_default=PAGE_DEFAULT, validate=validate.Range(1, PAGE_MOST))
    cursor = fields.String(load_default=None)


class ChatPageOut(Schema):
    """A page of chats, latest activity first."""

    items = fields.List(fields.Nested(ChatOut()))
    next_cursor = fields.String(allow_none=True)


class ClearedOut(Schema):
    """What emptying a chat did."""

    success = fields.Constant(True)
    deleted = fields.Integer()


class ExportIn(Schema):
    """How a chat is exported."""

    format = fields.String(load_default="json", validate=validate.OneOf(["json", "ndjson", "markdown"]))


class MessageOut(Schema):
    """One message, for the specification: what `message_json` builds."""

    seq = fields.Integer()
    role = fields.Enum(Role, by_value=True)
    sender_id = fields.String(allow_none=True)
    content = fields.String()
    metadata = fields.Dict()
    created_at = Time()
    edited_at = Time(allow_none=True)


class MessagesOut(Schema):
    """The messages that were posted, as they are kept."""

    messages = fields.List(fields.Nested(MessageOut()))


class MessagePageOut(Schema):
    """A page of messages."""

    items = fields.List(fields.Nested(MessageOut()))
    next_cursor = fields.String(allow_none=True)


class PageIn(Schema):
    """Which messages of a chat."""

    after = Number(load_default=None, metadata={"description": "Only messages with a larger seq."})
    before = Number(load_default=None, metadata={"description": "Only messages with a smaller seq."})
    limit = Number(load_default=PAGE_DEFAULT, validate=validate.Range(1, PAGE_MOST))
    order = fields.String(load_default=None, validate=validate.OneOf(["asc", "desc"]))
    cursor = fields.String(load_default=None)


class _ExportedChat(Schema):
    id = Uuid(required=True)
    title = fields.String(required=True, allow_none=True, validate=text_rules(TITLE_CHARACTERS, 0))
    metadata = Metadata(required=True)
    message_count = fields.Integer(required=True, strict=True)
    created_at = UtcTime(required=True)
    updated_at = UtcTime(required=True)
    last_message_at = UtcTime(required=True, allow_none=True)


class _ExportedMessage(MessageIn):
    seq = fields.Integer(required=True, strict=True, validate=validate.Range(1, 10**18 - 1))
    created_at = UtcTime(required=True)
    edited_at = UtcTime(required=True, allow_none=True)

    @post_load
    def _build(self, data: dict[str, Any], **_: Any) -> Message:
        return Message(**{**data, "role": data["role"].value})


class ExportedChatIn(Schema):
    """The first line of an export."""

    type = fields.String(required=True, validate=validate.Equal("chat"))
    chat = fields.Nested(_ExportedChat(), required=True)

    @post_load
    def _build(self, data: dict[str, Any], **_: Any) -> Chat:
        return Chat(**data["chat"], active_connections=0, revision=1)


class ExportedMessageIn(Schema):
    """Each of the lines between."""

    type = fields.String(required=True, validate=validate.Equal("message"))
    message = fields.Nested(_ExportedMessage(), required=True)

    @post_load
    def _build(self, data: dict[str, Any], **_: Any) -> Message:
        message: Message = data["message"]
        return message


class ExportedEndIn(Schema):
    """The last line."""

    type = fields.String(required=True, validate=validate.Equal("end"))
    message_count = fields.Integer(required=True, strict=True)
    sha256 = fields.String(required=True, validate=validate.Regexp("[0-9a-f]{64}$"))


def message_json(message: Message) -> dict[str, Any]:
    """Return a message as it leaves."""
    return {
        "seq": message.seq,
        "role": message.role,
        "sender_id": message.sender_id,
        "content": message.content,
        "metadata": message.metadata,
        "created_at": milliseconds(message.created_at),
        "edited_at": None if message.edited_at is None else milliseconds(message.edited_at),
    }
