"""marshmallow schemas of the trash, in requests and responses. No I/O."""

from marshmallow import Schema, fields, validate

from chat_service.api.fields import Time, WholeNumber
from chat_service.api.schemas import BulkIn, NotDone

KEEP_DAYS = 30
KEEP_DAYS_MOST = 90


class TrashIn(Schema):
    """For how many days the chat can be restored."""

    may_be_left_out = True

    keep_days = WholeNumber(load_default=KEEP_DAYS, validate=validate.Range(1, KEEP_DAYS_MOST))


class TrashingOut(Schema):
    """The chat is in the trash: since when, and until when it can be restored."""

    success = fields.Constant(True, metadata={"type": "boolean", "const": True})
    message = fields.Constant("Chat moved to trash", metadata={"const": "Chat moved to trash"})
    trashed_at = Time()
    purge_at = Time()


class TrashedChatOut(Schema):
    """A chat of the trash."""

    id = fields.String(metadata={"format": "uuid"})
    title = fields.String(allow_none=True)
    message_count = fields.Integer()
    trashed_at = Time()
    purge_at = Time(metadata={"description": "Until then it can be restored."})
    trashed_by = fields.String(metadata={"description": "The id of the key that moved it there."})
    held = fields.Boolean(metadata={"description": "Whether a hold forbids its deletion. It can be restored."})


class TrashPageOut(Schema):
    """A page of the trash, latest first."""

    items = fields.List(fields.Nested(TrashedChatOut()))
    next_cursor = fields.String(allow_none=True)


class BulkTrashIn(BulkIn, TrashIn):
    """The chats to move to the trash, and for how many days. An id that is sent twice has one result."""

    may_be_left_out = False


class BulkTrashed(Schema):
    """A chat that is in the trash."""

    chat_id = fields.String()
    trashed_at = fields.String(metadata={"format": "date-time"})
    purge_at = fields.String(metadata={"format": "date-time"})


class BulkTrashOut(Schema):
    """The result for each chat."""

    successful = fields.List(fields.Nested(BulkTrashed()))
    failed = fields.List(fields.Nested(NotDone()))


class BulkRestoreIn(BulkIn):
    """The chats to restore. An id that is sent twice has one result."""


class BulkRestored(Schema):
    """A chat that is live again."""

    chat_id = fields.String()
    message_count = fields.Integer()


class BulkRestoreOut(Schema):
    """The result for each chat."""

    successful = fields.List(fields.Nested(BulkRestored()))
    failed = fields.List(fields.Nested(NotDone()))
