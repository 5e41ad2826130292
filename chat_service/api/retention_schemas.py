"""marshmallow schemas of retention policies, in requests and responses. No I/O."""

from marshmallow import Schema, fields, validate

from chat_service.api.fields import Number, Time, WholeNumber
from chat_service.models import RetentionAction

DAYS_MOST = 3_650
PER_DAY_MOST = 100_000

ACTIONS = [action.value for action in RetentionAction]


class RetentionIn(Schema):
    """After how long the policy applies to a chat, and what it does."""

    delete_after_days = WholeNumber(
        required=True,
        validate=validate.Range(1, DAYS_MOST),
        metadata={"description": "Days without activity.", "example": 365},
    )
    action = fields.String(
        load_default=RetentionAction.DELETE.value,
        validate=validate.OneOf(ACTIONS),
        metadata={"description": "`trash` keeps the chats in the trash for 30 more days."},
    )
    max_per_day = WholeNumber(
        load_default=PER_DAY_MOST,
        validate=validate.Range(1, PER_DAY_MOST),
        metadata={"description": "A safety limit: the policy deletes or trashes no more chats in a day (UTC)."},
    )


class EarlierOut(Schema):
    """The policy that was in force before."""

    delete_after_days = fields.Integer()
    action = fields.String(validate=validate.OneOf(ACTIONS))
    max_per_day = fields.Integer()


class RetentionOut(EarlierOut):
    """A tenant's policy."""

    active_from = Time(metadata={"description": "24 h after the change. Until then the change can be undone."})
    changed_at = Time()
    changed_by = fields.String(metadata={"description": "The id of the key that changed it, or `operator`."})
    before = fields.Nested(
        EarlierOut(),
        allow_none=True,
        metadata={"description": "The earlier policy. Until `active_from`, only chats that both cover are affected."},
    )


class RetentionPreviewIn(Schema):
    """The policy to preview."""

    delete_after_days = Number(required=True, validate=validate.Range(1, DAYS_MOST))


class RetentionPreviewOut(Schema):
    """What the policy would delete or trash if it were in force now."""

    delete_after_days = fields.Integer()
    chats = fields.Integer()
    messages = fields.Integer()
    held = fields.Integer(metadata={"description": "Chats that a hold keeps. They are not counted in `chats`."})
    as_of = Time()
