"""Webhooks: the log, told to other services as it grows, by Standard Webhooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from flask import url_for
from flask_smorest import Blueprint

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.openapi import raises
from chat_service.api.paging import paged
from chat_service.api.parsing import idempotency_key
from chat_service.api.schemas import PageIn
from chat_service.api.webhook_schemas import (
    DeliveryOut,
    DeliveryPageOut,
    ReplayIn,
    WebhookIn,
    WebhookOut,
    WebhookPageOut,
    WebhookPatch,
)
from chat_service.errors import (
    ReceiverRefusedError,
    TooManyWebhooksError,
    ValidationFailedError,
    WebhooksOffError,
)
from chat_service.models import Delivery, Kind, ListPosition, Scope, Webhook

blueprint = Blueprint("webhooks", __name__, url_prefix="/api/v1", description="The log, told to other services")


@blueprint.post("/webhooks")
@requires(Scope.GOVERN)
@raises(WebhooksOffError, TooManyWebhooksError, headers="Idempotency-Key")
@blueprint.arguments(WebhookIn())
@blueprint.response(201, WebhookOut())
def create_webhook(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Have entries of the log told to an address, from now on. The answer has the secret, the only time it is shown.

    As Standard Webhooks has it: a POST for each entry with `webhook-id`, `webhook-timestamp`, `webhook-signature`, and
    `{type, timestamp, data}`, where `data` is the entry. What is not answered with 2xx within 15 s is tried again after
    5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h, always under the same `webhook-id`. 410 disables the webhook.
    """
    who, kinds = caller(), body["kinds"] and [Kind(name) for name in dict.fromkeys(body["kinds"])]
    with _told_as_field():
        webhook, secret = repositories().webhooks.create(
            who.tenant_id, body["url"], kinds, who.key_id, idempotency_key()
        )
    return {**asdict(webhook), "secret": secret}, {"Location": url_for("webhooks.get_webhook", webhook_id=webhook.id)}


@blueprint.get("/webhooks")
@requires(Scope.GOVERN)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, WebhookPageOut())
@paged("webhooks", lambda webhook: ListPosition(webhook.created_at, webhook.id))
def list_webhooks(limit: int, after: ListPosition | None) -> list[Webhook]:
    """List the webhooks of the tenant, latest first.

    Follow `next_cursor` until it is null.
    """
    return repositories().webhooks.page(caller().tenant_id, limit, after)


@blueprint.get("/webhooks/<webhook_id>")
@requires(Scope.GOVERN)
@blueprint.response(200, WebhookOut())
def get_webhook(webhook_id: str) -> Webhook:
    """Look a webhook up.

    Its secret is not shown again; `rotate` makes a new one.
    """
    return repositories().webhooks.get(caller().tenant_id, webhook_id)


@blueprint.patch("/webhooks/<webhook_id>")
@requires(Scope.GOVERN)
@blueprint.arguments(WebhookPatch())
@blueprint.response(200, WebhookOut())
def update_webhook(changes: dict[str, Any], webhook_id: str) -> Webhook:
    """Change where a webhook goes, which kinds it is told, or whether it is told at all.

    What is left out stays. Enabled again, it goes on in the log where it was, and nothing is left out.
    """
    with _told_as_field():
        return repositories().webhooks.update(caller().tenant_id, webhook_id, changes)


@blueprint.delete("/webhooks/<webhook_id>")
@requires(Scope.GOVERN)
@blueprint.response(204)
def delete_webhook(webhook_id: str) -> None:
    """Delete a webhook, and what it was still to be told.

    A try that is under way may still arrive.
    """
    repositories().webhooks.delete(caller().tenant_id, webhook_id)


@blueprint.post("/webhooks/<webhook_id>/rotate")
@requires(Scope.GOVERN)
@raises(WebhooksOffError)
@blueprint.response(200, WebhookOut())
def rotate_secret(webhook_id: str) -> dict[str, Any]:
    """Give a webhook a new secret, and show it once. For 24 h every message has the signatures of both.

    So a receiver can take the new one up at any time in between.
    """
    webhook, secret = repositories().webhooks.rotate(caller().tenant_id, webhook_id)
    return {**asdict(webhook), "secret": secret}


@blueprint.post("/webhooks/<webhook_id>/test")
@requires(Scope.GOVERN)
@blueprint.response(202, DeliveryOut())
def test_webhook(webhook_id: str) -> Delivery:
    """Have a message of the type `webhook.test` sent, to see whether it arrives.

    What comes of it is in the list of deliveries.
    """
    return repositories().deliveries.test(caller().tenant_id, webhook_id)


@blueprint.post("/webhooks/<webhook_id>/replay")
@requires(Scope.GOVERN)
@blueprint.arguments(ReplayIn())
@blueprint.response(202, WebhookOut())
def replay_webhook(body: dict[str, Any], webhook_id: str) -> Webhook:
    """Have the entries after one told again, up to where the webhook is now.

    They come as new messages, each with a `webhook-id` of its own.
    """
    return repositories().webhooks.replay(caller().tenant_id, webhook_id, body["after"])


@blueprint.get("/webhooks/<webhook_id>/deliveries")
@requires(Scope.GOVERN)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, DeliveryPageOut())
@paged("deliveries", lambda delivery: ListPosition(delivery.created_at, delivery.id))
def list_deliveries(limit: int, after: ListPosition | None, webhook_id: str) -> list[Delivery]:
    """List what a webhook was told and is being told, latest first, and what came of each.

    What is over stays for 30 days. Follow `next_cursor` until it is null.
    """
    return repositories().deliveries.page(caller().tenant_id, webhook_id, limit, after)


@contextmanager
def _told_as_field() -> Iterator[None]:
    """Say of an address that may not be called under which field it stands."""
    try:
        yield
    except ReceiverRefusedError as error:
        raise ValidationFailedError({"url": [error.reason]}) from None
