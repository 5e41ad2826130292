"""marshmallow schemas of holds, in requests and responses. No I/O."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from chat_service.api.fields import Flag, Text, Time, Uuid
from chat_service.api.schemas import BULK_CHATS

NAME_CHARACTERS = 200

_EXAMPLE = {"example": ["a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"]}


def _chat_ids(least: int, **options: Any) -> fields.List[Any]:
    return fields.List(Uuid(), validate=validate.Length(least, BULK_CHATS), metadata=_EXAMPLE, **options)


class HoldIn(Schema):
    """What to hold: these chats, or everything of the tenant, also chats that are created later."""

    name = Text(NAME_CHARACTERS, required=True, metadata={"example": "Inquiry 42"})
    chat_ids = _chat_ids(1)
    everything = Flag(validate=validate.Equal(True), metadata={"description": "In place of `chat_ids`: `true`."})

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        if ("chat_ids" in data) == ("everything" in data):
            raise ValidationError("Name either `chat_ids`, or `everything: true`.")


class HoldPatch(Schema):
    """Which chats to put under the hold, and which to take out of it."""

    add = _chat_ids(1)
    remove = _chat_ids(1)

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        if not data:
            raise ValidationError("Name chats to `add` or to `remove`.")
        if set(data.get("add", ())) & set(data.get("remove", ())):
            raise ValidationError("A chat cannot be added and removed at once.")


class HoldOut(Schema):
    """A hold: its chats must not be destroyed until it is released."""

    id = fields.String(metadata={"format": "uuid"})
    name = fields.String()
    everything = fields.Boolean(metadata={"description": "Whether it is on all chats, also those still to come."})
    chat_count = fields.Integer(metadata={"description": "On how many chats it is; 0 if on everything."})
    placed_at = Time()
    active_from = Time(metadata={"description": "From then on nothing that it is on is destroyed."})
    placed_by = fields.String(metadata={"description": "The id of the key that asked for it, or `operator`."})
    released_at = Time(allow_none=True)


class HoldPageOut(Schema):
    """A page of holds, latest first, also released ones."""

    items = fields.List(fields.Nested(HoldOut()))
    next_cursor = fields.String(allow_none=True)
