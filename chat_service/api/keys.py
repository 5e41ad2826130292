"""The API key of a request: whose it is, and what it may do."""

from dataclasses import asdict
from typing import Any

from flask_smorest import Blueprint
from marshmallow import Schema, fields

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.fields import Time
from chat_service.models import EVERYDAY_SCOPES, Scope

blueprint = Blueprint("keys", __name__, url_prefix="/api/v1", description="The key of a request")


class LimitOut(Schema):
    """A token bucket: `burst` requests at once, and then `rate` requests a second."""

    rate = fields.Float()
    burst = fields.Integer()


class LimitsOut(Schema):
    """The rate limits of a key, by scope; null where there is no limit."""

    read = fields.Nested(LimitOut(), allow_none=True)
    write = fields.Nested(LimitOut(), allow_none=True)
    delete = fields.Nested(LimitOut(), allow_none=True)


class MeOut(Schema):
    """Whose key this is, and what it may do."""

    tenant_id = fields.UUID()
    key_id = fields.String()
    label = fields.String()
    scopes = fields.List(fields.Enum(Scope, by_value=True))
    limits = fields.Nested(LimitsOut())
    expires_at = Time(allow_none=True, metadata={"description": "Null if it does not expire."})


@blueprint.get("/me")
@requires(None)
@blueprint.response(200, MeOut())
def describe_caller() -> dict[str, Any]:
    """Describe the key of this request: whose it is, and what it may do.

    A limit is null if there is none.
    """
    key = repositories().keys.get(caller().tenant_id, caller().key_id)
    limits = {scope: repositories().limits.of(caller().limits, scope) for scope in EVERYDAY_SCOPES}
    return {
        "tenant_id": key.tenant_id,
        "key_id": key.id,
        "label": key.label,
        "scopes": sorted(key.scopes, key=list(Scope).index),
        "limits": {scope.value: limit and asdict(limit) for scope, limit in limits.items()},
        "expires_at": key.expires_at,
    }
