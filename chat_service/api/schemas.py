"""marshmallow schemas of chats and their deletion, in requests and responses. No I/O.

Those of messages are in message_schemas.py.
"""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from chat_service.api.fields import IfThere, ListIfThere, Metadata, Number, Rfc3339, Seconds, Text, Time, Uuid

TITLE_CHARACTERS = 200
BULK_CHATS = 1_000
PAGE_DEFAULT = 50
PAGE_MOST = 200

EXPIRES_AT = {
    "description": "When the chat expires: every route then answers as if it were deleted. It must be in the future."
}

CURSOR = {"description": "`next_cursor` of the previous page, unchanged.", "format": "cursor"}


class ChatIn(Schema):
    """A chat to create."""

    title = Text(TITLE_CHARACTERS, 0, load_default=None, allow_none=True, metadata={"example": "Where is my parcel?"})
    metadata = Metadata(load_default=dict)
    id = Uuid(
        load_default=None, metadata={"description": "Choose it yourself, so that a retry cannot create a second chat."}
    )
    expires_at = Rfc3339(load_default=None, allow_none=True, metadata=EXPIRES_AT)


class ChatPatch(Schema):
    """Changes to a chat; a field that is left out stays as it is."""

    title = Text(TITLE_CHARACTERS, 0, allow_none=True, metadata={"example": "My parcel"})
    metadata = Metadata()
    expires_at = Rfc3339(allow_none=True, metadata={"description": f"{EXPIRES_AT['description']} Null removes it."})

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        refuse_empty(data)


def refuse_empty(data: dict[str, Any]) -> None:
    """Raise ValidationError if there is no field to change."""
    if not data:
        raise ValidationError("Name at least one field to change.")


class ChatOut(Schema):
    """A chat without its messages."""

    id = fields.String(metadata={"format": "uuid", "example": "a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"})
    title = fields.String(allow_none=True, metadata={"example": "Where is my parcel?"})
    metadata = fields.Dict(metadata={"example": {"customer": 42}})
    message_count = fields.Integer(metadata={"example": 3})
    active_connections = fields.Integer(metadata={"example": 0})
    created_at = Time()
    updated_at = Time()
    last_message_at = Time(allow_none=True)
    expires_at = Time(
        allow_none=True,
        attribute="ends_at",
        metadata={
            "description": "When the chat expires, to the millisecond; or the earliest time at which the tenant's "
            "retention policy deletes or trashes it."
        },
    )
    expires_by = fields.String(
        allow_none=True,
        attribute="ends_by",
        metadata={
            "enum": ["chat", "policy", None],
            "description": "Whether `expires_at` is the chat's own, or follows from the tenant's retention policy.",
        },
    )


class PageIn(Schema):
    """Which page of a list to return."""

    limit = Number(load_default=PAGE_DEFAULT, validate=validate.Range(1, PAGE_MOST))
    cursor = fields.String(load_default=None, metadata=CURSOR)


class ChatPageOut(Schema):
    """A page of chats, latest activity first."""

    items = fields.List(fields.Nested(ChatOut()))
    next_cursor = fields.String(allow_none=True)


class DeletionOut(Schema):
    """The published response of DELETE: these three fields and nothing else."""

    success = fields.Constant(True, metadata={"type": "boolean", "const": True})
    message = fields.Constant("Chat deleted successfully", metadata={"const": "Chat deleted successfully"})
    deleted_at = Seconds()


class PreviewOut(Schema):
    """What deleting a chat now would do."""

    chat_id = fields.String(metadata={"format": "uuid"})
    message_count = fields.Integer()
    active_connections = fields.Integer()
    bytes = fields.Integer(metadata={"description": "The stored size; above 1,000 messages, estimated from a sample."})
    bytes_estimated = fields.Boolean()
    mode = fields.Function(
        lambda preview: "staged" if preview.staged else "inline",
        metadata={"type": "string", "enum": ["inline", "staged"]},
    )
    deletable = fields.Function(lambda preview: not preview.held, metadata={"type": "boolean"})
    holds = ListIfThere(
        fields.String(metadata={"format": "uuid"}),
        metadata={"description": "The holds that forbid it; only for a key with the scope `govern`."},
    )


class BulkIn(Schema):
    """The ids of chats. An id that is sent twice has one result."""

    chat_ids = fields.List(
        fields.String(validate=validate.Length(1, 64)),
        required=True,
        validate=validate.Length(1, BULK_CHATS),
        metadata={"example": ["a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"]},
    )


class Deleted(Schema):
    """A chat that was deleted."""

    chat_id = fields.String()
    deleted_at = fields.String(metadata={"format": "date-time"})


class NotDone(Schema):
    """A chat that was not changed, and why: `status` and `code` are those that a request for this chat alone gets."""

    chat_id = fields.String()
    status = fields.Integer()
    code = fields.String()


class BulkOut(Schema):
    """The result for each chat."""

    successful = fields.List(fields.Nested(Deleted()))
    failed = fields.List(fields.Nested(NotDone()))


class PurgeOut(Schema):
    """The progress of a purge, which removes the messages of a deleted chat. No route can read them any more."""

    state = fields.Function(
        lambda deletion: "running" if deletion.completed_at is None else "complete",
        metadata={"type": "string", "enum": ["running", "complete"]},
    )
    deleted = fields.Integer(attribute="purged")
    remaining = fields.Integer()
    completed_at = Time(allow_none=True)
    estimated_at = Time(allow_none=True)


class ConnectionOut(Schema):
    """A live connection. It ends at `expires_at` unless it is renewed before."""

    id = fields.String(attribute="connection_id", metadata={"format": "uuid"})
    name = fields.String(
        allow_none=True, metadata={"description": "The name that the client gave itself, which nobody checks."}
    )
    connected_at = Time()
    expires_at = Time()


class ConnectionPageOut(Schema):
    """A page of live connections, latest first."""

    items = fields.List(fields.Nested(ConnectionOut()))
    next_cursor = fields.String(allow_none=True)


class TicketOut(Schema):
    """A ticket that is valid for one connection."""

    ticket = fields.String(metadata={"description": "Send it as `?ticket=`. It is shown only once."})
    expires_at = Time()


class DeleteIn(Schema):
    """How to delete a chat."""

    on_active = fields.String(
        load_default="fail",
        validate=validate.OneOf(["fail", "evict"]),
        metadata={"description": "If connections are live, `fail` refuses with 409, `evict` closes them with 4410."},
    )


class DeleteChatIn(DeleteIn):
    """How to delete a chat, and which export of it the receipt names."""

    export_sha256 = fields.String(
        load_default=None,
        validate=[validate.Regexp("^[0-9a-f]{64}$"), validate.Length(equal=64)],  # `$` accepts a line end after it
        metadata={"description": "The SHA-256 of the export that you keep, for the receipt and the log. Unchecked."},
    )


class _Itself(fields.Nested):
    """A nested field that holds the same object once more, in another shape."""

    def get_value(self, obj: Any, *_: Any, **__: Any) -> Any:
        """Return the object that is being dumped."""
        return obj


class ReceiptOut(Schema):
    """The receipt of a deleted chat. It outlives the chat, and has no content."""

    chat_id = fields.String(metadata={"format": "uuid"})
    deleted_at = Seconds()
    message_count = fields.Integer()
    purge = _Itself(PurgeOut())
    requested_by = fields.String(metadata={"description": "The id of the key that requested it."})
    export_sha256 = IfThere(
        metadata={"description": "The SHA-256 of the export that was kept, if the delete named it; else left out."}
    )


class ReceiptPageIn(Schema):
    """Which receipts of the tenant to list."""

    since = Rfc3339(load_default=None, metadata={"description": "Only chats that were deleted at this time or later."})
    limit = Number(load_default=PAGE_DEFAULT, validate=validate.Range(1, PAGE_MOST))
    cursor = fields.String(load_default=None, metadata=CURSOR)


class ReceiptPageOut(Schema):
    """A page of receipts, latest first."""

    items = fields.List(fields.Nested(ReceiptOut()))
    next_cursor = fields.String(allow_none=True)
