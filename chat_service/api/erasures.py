"""Erasures: erase a person, which is everything that one sender has said in the tenant's chats."""

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
    """Request the erasure of all messages of a sender, in all chats of the tenant, including those in the trash.

    A worker does it; `Location` is the path of its progress. What a hold keeps is erased after the hold's release, but
    not before 24 h have passed. The erasure is complete when a full scan has found nothing left; its record then no
    longer has the sender's id.
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

    Complete erasures stay in the list. Follow `next_cursor` until it is null.
    """
    return repositories().erasures.page(caller().tenant_id, limit, after)


@blueprint.get("/erasures/<erasure_id>")
@requires(Scope.GOVERN)
@blueprint.response(200, ErasureOut())
def get_erasure(erasure_id: str) -> Erasure:
    """Get the progress of an erasure.

    Its counts are exact: each message is counted once, by the transaction that erases it.
    """
    return repositories().erasures.get(caller().tenant_id, erasure_id)
