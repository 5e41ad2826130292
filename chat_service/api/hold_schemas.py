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
    """What to hold: these chats, or all chats of the tenant, including chats that are created later."""

    name = Text(NAME_CHARACTERS, required=True, metadata={"example": "Inquiry 42"})
    chat_ids = _chat_ids(1)
    everything = Flag(
        validate=validate.Equal(True), metadata={"description": "`true`: all chats, in place of `chat_ids`."}
    )

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        if ("chat_ids" in data) == ("everything" in data):
            raise ValidationError("Send either `chat_ids` or `everything: true`.")


class HoldPatch(Schema):
    """Which chats to add to the hold, and which to remove from it."""

    add = _chat_ids(1)
    remove = _chat_ids(1)

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        if not data:
            raise ValidationError("Send chats to `add` or to `remove`.")
        if set(data.get("add", ())) & set(data.get("remove", ())):
            raise ValidationError("`add` and `remove` must not have a chat in common.")


class HoldOut(Schema):
    """A hold: until it is released, its chats cannot be deleted."""

    id = fields.String(metadata={"format": "uuid"})
    name = fields.String()
    everything = fields.Boolean(metadata={"description": "Whether it is on all chats, including future ones."})
    chat_count = fields.Integer(metadata={"description": "How many chats it is on; 0 if it is on everything."})
    placed_at = Time()
    active_from = Time(metadata={"description": "From then on nothing of its chats can be deleted."})
    placed_by = fields.String(metadata={"description": "The id of the key that placed it, or `operator`."})
    released_at = Time(allow_none=True)


class HoldPageOut(Schema):
    """A page of holds, latest first, including released ones."""

    items = fields.List(fields.Nested(HoldOut()))
    next_cursor = fields.String(allow_none=True)
