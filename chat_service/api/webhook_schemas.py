"""marshmallow schemas of webhooks and their deliveries, in requests and responses. No I/O."""

from typing import Any

from marshmallow import Schema, fields, validate, validates_schema

from chat_service.api.fields import Flag, IfThere, Text, Time, WholeNumber
from chat_service.api.message_schemas import MOST_SEQ
from chat_service.api.schemas import refuse_empty
from chat_service.models import DeliveryState, Kind
from chat_service.repository.receivers import URL_CHARACTERS

KINDS = [kind.value for kind in Kind]

_URL = {"format": "uri", "example": "https://example.com/hooks/chats"}


def _kinds(**options: Any) -> fields.List[Any]:
    return fields.List(
        fields.String(validate=validate.OneOf(KINDS)),
        validate=validate.Length(1, len(KINDS)),
        allow_none=True,
        metadata={"description": "The kinds of entries to send; null for all.", "example": ["chat.deleted"]},
        **options,
    )


class WebhookIn(Schema):
    """The address to send entries of the log to, and which kinds of entries."""

    url = Text(URL_CHARACTERS, required=True, metadata=_URL)
    kinds = _kinds(load_default=None)


class WebhookPatch(Schema):
    """Changes to a webhook; a field that is left out stays as it is."""

    url = Text(URL_CHARACTERS, metadata=_URL)
    kinds = _kinds()
    enabled = Flag(metadata={"description": "If it is enabled again, it continues in the log where it was."})

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        refuse_empty(data)


class WebhookOut(Schema):
    """A webhook: the address that entries of the log are sent to."""

    id = fields.String(metadata={"format": "uuid"})
    url = fields.String(metadata={"format": "uri"})
    kinds = fields.List(fields.String(), allow_none=True, metadata={"description": "Null for all kinds."})
    enabled = fields.Boolean()
    disabled_by = fields.String(
        allow_none=True,
        validate=validate.OneOf(["key", "operator", "410", None]),
        metadata={"description": "`410`: the receiver answered 410, which means that it is gone."},
    )
    created_at = Time()
    created_by = fields.String(metadata={"description": "The id of the key that created it."})
    position = fields.Integer(metadata={"description": "The last `seq` for which deliveries were created."})
    secret = IfThere(metadata={"description": "`whsec_…`, to verify signatures with. It is shown only once."})


class WebhookPageOut(Schema):
    """A page of webhooks, latest first."""

    items = fields.List(fields.Nested(WebhookOut()))
    next_cursor = fields.String(allow_none=True)


class ReplayIn(Schema):
    """From where to send the log again: from the entry after `after`."""

    after = WholeNumber(required=True, validate=validate.Range(0, MOST_SEQ))


class DeliveryOut(Schema):
    """The delivery of an entry to a webhook, and its result so far."""

    id = fields.String(metadata={"format": "uuid", "description": "The `webhook-id`, without the prefix `msg_`."})
    seq = fields.Integer(allow_none=True, metadata={"description": "The `seq` of the entry; null for a test."})
    type = fields.String(attribute="kind")
    state = fields.String(validate=validate.OneOf([state.value for state in DeliveryState]))
    created_at = Time()
    tries = fields.Integer()
    tried_at = Time(allow_none=True)
    next_try_at = Time(allow_none=True)
    status = fields.Integer(
        allow_none=True, metadata={"description": "Of the receiver's last response; null if there was none."}
    )
    reason = fields.String(allow_none=True, metadata={"description": "Why the last attempt failed, in a word."})


class DeliveryPageOut(Schema):
    """A page of deliveries, latest first. Finished deliveries are kept for 30 days."""

    items = fields.List(fields.Nested(DeliveryOut()))
    next_cursor = fields.String(allow_none=True)
