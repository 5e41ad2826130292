"""marshmallow shapes of what arrives and what leaves. No I/O.

Message pages are dumped by `message_json` and orjson instead: marshmallow takes sixty times as long for a page of 100.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from chat_service.api.requests import parse_uuid
from chat_service.models import Message, NewMessage, Role

TITLE_CHARACTERS = 200
CONTENT_CHARACTERS = 32_768
SENDER_ID_CHARACTERS = 200
BATCH_MESSAGES = 1_000
METADATA_BYTES = 16 * 2**10
METADATA_DEPTH = 32
"""MongoDB stores documents up to 100 deep; a third leaves room for where we put them, and is more than anyone reads."""

PAGE_DEFAULT = 50
PAGE_MOST = 200


def milliseconds(time: datetime) -> str:
    """Return a UTC time in RFC 3339 with milliseconds and `Z`."""
    return time.isoformat(timespec="milliseconds")[:-6] + "Z"


def seconds(time: datetime) -> str:
    """Return a UTC time in RFC 3339 with whole seconds and `Z`, as `deleted_at` is published."""
    return time.isoformat(timespec="seconds")[:-6] + "Z"


class Time(fields.Field[datetime]):
    """A time that leaves in milliseconds."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else milliseconds(value)


class Metadata(fields.Dict):
    """An object of the caller's own, kept as it is."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        loaded: dict[str, Any] = super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call]
        _check_storable(loaded, METADATA_DEPTH)
        if len(orjson.dumps(loaded)) > METADATA_BYTES:
            raise ValidationError(f"Longer than {METADATA_BYTES:,} bytes as JSON.")
        return loaded


def _check_storable(value: Any, depth: int) -> None:
    """Refuse what MongoDB cannot store or would read as an operator."""
    if depth == 0:
        raise ValidationError(f"Nested deeper than {METADATA_DEPTH} levels.")
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.startswith("$") or "." in key or "\0" in key:
                raise ValidationError("A key may not start with $ or contain a dot or NUL.")
            _check_storable(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_storable(inner, depth - 1)


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise ValidationError("May not contain NUL.")


def _text(most: int, least: int = 1) -> list[Any]:
    return [validate.Length(least, most), _refuse_nul]


class Uuid(fields.String):
    """A UUID in either case, as its canonical lower-case form."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        canonical = parse_uuid(super()._deserialize(value, *args, **kwargs))
        if canonical is None:
            raise ValidationError("Not a UUID: 8-4-4-4-12 hexadecimal digits.")
        return canonical


class Number(fields.Integer):
    """A whole number in a query string: ASCII digits, no sign, no spaces, no underscores."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not re.fullmatch("[0-9]{1,18}", str(value), re.ASCII):
            raise ValidationError("Not a whole number of at most 18 digits.")
        number = super()._deserialize(value, *args, **kwargs)
        assert number is not None  # noqa: S101 - fields.Integer returns None only for None
        return number


class ChatIn(Schema):
    """A chat to create."""

    title = fields.String(load_default=None, allow_none=True, validate=_text(TITLE_CHARACTERS, 0))
    metadata = Metadata(load_default=dict)
    id = Uuid(load_default=None, metadata={"description": "Choose the id yourself, so that a retry cannot create two."})


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


class MessageIn(Schema):
    """One message to post."""

    role = fields.Enum(Role, by_value=True, load_default=Role.USER)
    content = fields.String(required=True, validate=_text(CONTENT_CHARACTERS))
    sender_id = fields.String(load_default=None, allow_none=True, validate=_text(SENDER_ID_CHARACTERS))
    metadata = Metadata(load_default=dict)

    @post_load
    def _build(self, data: dict[str, Any], **_: Any) -> NewMessage:
        return NewMessage(**data)


class BatchIn(Schema):
    """Several messages to post, all or none."""

    messages = fields.List(fields.Nested(MessageIn()), required=True, validate=validate.Length(1, BATCH_MESSAGES))


class MessagesIn(BatchIn):
    """One message, or `{"messages": [...]}`; loads to a list either way."""

    def load(self, data: Any, **_: Any) -> list[NewMessage]:
        """Return the messages to post.

        Raises:
            ValidationError: with the field names of the form that was sent.
        """
        if isinstance(data, Mapping) and "messages" in data:
            batch: list[NewMessage] = BatchIn().load(data, unknown=RAISE)["messages"]
            return batch
        one: NewMessage = MessageIn().load(data, unknown=RAISE)
        return [one]


class PageIn(Schema):
    """Which messages of a chat."""

    after = Number(load_default=None, metadata={"description": "Only messages with a larger seq."})
    before = Number(load_default=None, metadata={"description": "Only messages with a smaller seq."})
    limit = Number(load_default=PAGE_DEFAULT, validate=validate.Range(1, PAGE_MOST))
    order = fields.String(load_default=None, validate=validate.OneOf(["asc", "desc"]))
    cursor = fields.String(load_default=None)


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
