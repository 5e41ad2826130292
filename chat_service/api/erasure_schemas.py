"""marshmallow schemas of erasures, in requests and responses. No I/O."""

from marshmallow import Schema, fields, validate

from chat_service.api.fields import Text, Time
from chat_service.api.message_schemas import SENDER_ID_CHARACTERS
from chat_service.models import Erasure, ErasureMode

MODES = [mode.value for mode in ErasureMode]
STATES = ["running", "deferred", "complete"]


class ErasureIn(Schema):
    """Which sender to erase, and how."""

    sender_id = Text(
        SENDER_ID_CHARACTERS, required=True, metadata={"description": "The `sender_id` of the messages to erase."}
    )
    mode = fields.String(
        required=True,
        validate=validate.OneOf(MODES),
        metadata={"description": "`redact` overwrites content, sender and metadata; `remove` removes the messages."},
    )


def _state(erasure: Erasure) -> str:
    if erasure.completed_at is not None:
        return "complete"
    return "deferred" if erasure.is_deferred else "running"


class ErasureOut(Schema):
    """The progress of an erasure. It does not name the sender."""

    id = fields.String(metadata={"format": "uuid"})
    mode = fields.String(validate=validate.OneOf(MODES))
    state = fields.Function(
        _state,
        metadata={
            "type": "string",
            "enum": STATES,
            "description": "`deferred`: a hold keeps what is left, or kept it until recently. It is erased later.",
        },
    )
    requested_at = Time()
    requested_by = fields.String(metadata={"description": "The id of the key that requested it, or `operator`."})
    chats = fields.Integer(metadata={"description": "How many chats had something erased so far."})
    messages = fields.Integer(metadata={"description": "How many messages were erased so far."})
    deferred_chats = fields.Integer(
        attribute="deferred", metadata={"description": "How many chats the last full scan skipped because of a hold."}
    )
    completed_at = Time(allow_none=True, metadata={"description": "When a full scan had found nothing left to erase."})


class ErasurePageOut(Schema):
    """A page of erasures, latest first."""

    items = fields.List(fields.Nested(ErasureOut()))
    next_cursor = fields.String(allow_none=True)
