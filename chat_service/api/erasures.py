"""Erasing a person: everything that one sender has said in the tenant's chats."""

from typing import Any

from flask import url_for
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.erasure_schemas import ErasureIn, ErasureOut, ErasurePageOut
from chat_service.api.openapi import raises
from chat_service.api.paging import paged
from chat_service.api.parsing import idempotency_key
from chat_service.api.schemas import PageIn
from chat_service.models import Erasure, ErasureMode, ListPosition, Scope

blueprint = Blueprint("erasures", __name__, url_prefix="/api/v1", description="Erasing a person")


@blueprint.post("/erasures")
@requires(Scope.GOVERN)
@raises(headers="Idempotency-Key")
@blueprint.arguments(ErasureIn())
@blueprint.response(202, ErasureOut())
def request_erasure(body: dict[str, Any]) -> tuple[Erasure, dict[str, str]]:
    """Have everything of a sender erased, in all chats of the tenant, those of the trash too.

    A worker does it; `Location` is where to look how far it is. What a hold keeps is erased after its release, not
    before 24 h have passed. It is complete when a last look has found nothing, and then names the sender nowhere.
    """
    who, mode = caller(), ErasureMode(body["mode"])
    erasure = repositories().erasures.request(who.tenant_id, body["sender_id"], mode, who.key_id, idempotency_key())
    return erasure, {"Location": url_for("erasures.get_erasure", erasure_id=erasure.id)}


@blueprint.get("/erasures")
@requires(Scope.GOVERN)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, ErasurePageOut())
@paged("erasures", lambda erasure: ListPosition(erasure.requested_at, erasure.id))
def list_erasures(limit: int, after: ListPosition | None) -> list[Erasure]:
    """List the erasures of the tenant, latest first.

    They stay in the list when they are complete. Follow `next_cursor` until it is null.
    """
    return repositories().erasures.page(caller().tenant_id, limit, after)


@blueprint.get("/erasures/<erasure_id>")
@requires(Scope.GOVERN)
@blueprint.response(200, ErasureOut())
def get_erasure(erasure_id: str) -> Erasure:
    """Look how far an erasure is.

    Its counts are exact: each message once, with what has erased it.
    """
    return repositories().erasures.get(caller().tenant_id, erasure_id)
