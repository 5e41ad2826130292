"""Retention: after how many days without activity a tenant's chats are deleted, or moved to the trash."""

from typing import Any

from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.openapi import raises
from chat_service.api.parsing import idempotency_key
from chat_service.api.retention_schemas import RetentionIn, RetentionOut, RetentionPreviewIn, RetentionPreviewOut
from chat_service.errors import NoRetentionError
from chat_service.models import Retention, RetentionAction, RetentionPreview, Scope

blueprint = Blueprint("retention", __name__, url_prefix="/api/v1", description="How long inactive chats are kept")


@blueprint.get("/retention")
@requires(Scope.GOVERN)
@raises(NoRetentionError)
@blueprint.response(200, RetentionOut())
def get_retention() -> Retention:
    """Get the tenant's policy, whether or not it is in force yet.

    404 `no_retention` if there is none: chats stay until somebody deletes them.
    """
    return repositories().retention.get(caller().tenant_id)


@blueprint.put("/retention")
@requires(Scope.GOVERN)
@raises(headers="Idempotency-Key")
@blueprint.arguments(RetentionIn())
@blueprint.response(200, RetentionOut())
def put_retention(body: dict[str, Any]) -> Retention:
    """Set a policy: delete or trash chats after so many days without activity. It takes effect in 24 h: `active_from`.

    It deletes as callers do: with receipts and entries in the log, and not if a hold forbids it. Chats with live
    connections are passed over until they have none. A chat's own `expires_at` takes precedence. Look at the preview
    first.
    """
    who, action = caller(), RetentionAction(body["action"])
    return repositories().retention.put(
        who.tenant_id, body["delete_after_days"], action, body["max_per_day"], who.key_id, idempotency_key()
    )


@blueprint.delete("/retention")
@requires(Scope.GOVERN)
@raises(NoRetentionError)
@blueprint.response(204)
def end_retention() -> None:
    """End the policy at once: within seconds, it stops deleting and trashing chats.

    The chats that it has moved to the trash stay there until their `purge_at`.
    """
    repositories().retention.end(caller().tenant_id, caller().key_id)


@blueprint.get("/retention/preview")
@requires(Scope.GOVERN)
@blueprint.arguments(RetentionPreviewIn(), location="query")
@blueprint.response(200, RetentionPreviewOut())
def preview_retention(query: dict[str, Any]) -> RetentionPreview:
    """Count what a policy of so many days would delete or trash if it were in force now.

    Nothing is changed.
    """
    return repositories().retention.preview(caller().tenant_id, query["delete_after_days"])
