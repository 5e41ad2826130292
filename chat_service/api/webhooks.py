"""Webhooks: send the log to other services as it grows, by Standard Webhooks."""

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

blueprint = Blueprint("webhooks", __name__, url_prefix="/api/v1", description="The log, sent to other services")


@blueprint.post("/webhooks")
@requires(Scope.GOVERN)
@raises(WebhooksOffError, TooManyWebhooksError, headers="Idempotency-Key")
@blueprint.arguments(WebhookIn())
@blueprint.response(201, WebhookOut())
def create_webhook(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Send entries of the log to an address, from now on. The response has the secret, which is shown only once.

    As in Standard Webhooks: a POST for each entry with `webhook-id`, `webhook-timestamp`, `webhook-signature`, and
    `{type, timestamp, data}`, where `data` is the entry. A POST that is not answered with 2xx within 15 s is retried
    after 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h, always under the same `webhook-id`. 410 disables the webhook.
    """
    who, kinds = caller(), body["kinds"] and [Kind(name) for name in dict.fromkeys(body["kinds"])]
    with _refusal_as_field_error():
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
    """Get a webhook.

    Its secret is not shown again. `POST /webhooks/{webhook_id}/rotate` makes a new one.
    """
    return repositories().webhooks.get(caller().tenant_id, webhook_id)


@blueprint.patch("/webhooks/<webhook_id>")
@requires(Scope.GOVERN)
@blueprint.arguments(WebhookPatch())
@blueprint.response(200, WebhookOut())
def update_webhook(changes: dict[str, Any], webhook_id: str) -> Webhook:
    """Change the address of a webhook, the kinds of entries that it gets, or whether it gets any.

    A field that is left out stays as it is. A webhook that is enabled again continues in the log where it was, and
    misses nothing.
    """
    with _refusal_as_field_error():
        return repositories().webhooks.update(caller().tenant_id, webhook_id, changes)


@blueprint.delete("/webhooks/<webhook_id>")
@requires(Scope.GOVERN)
@blueprint.response(204)
def delete_webhook(webhook_id: str) -> None:
    """Delete a webhook, and its pending deliveries.

    An attempt that is under way may still arrive.
    """
    repositories().webhooks.delete(caller().tenant_id, webhook_id)


@blueprint.post("/webhooks/<webhook_id>/rotate")
@requires(Scope.GOVERN)
@raises(WebhooksOffError)
@blueprint.response(200, WebhookOut())
def rotate_secret(webhook_id: str) -> dict[str, Any]:
    """Give a webhook a new secret, and show it once. For 24 h every message has the signatures of both.

    So the receiver can switch to the new secret at any time within those 24 h.
    """
    webhook, secret = repositories().webhooks.rotate(caller().tenant_id, webhook_id)
    return {**asdict(webhook), "secret": secret}


@blueprint.post("/webhooks/<webhook_id>/test")
@requires(Scope.GOVERN)
@blueprint.response(202, DeliveryOut())
def test_webhook(webhook_id: str) -> Delivery:
    """Send a message of the type `webhook.test`, to test whether it arrives.

    The result is in the list of deliveries.
    """
    return repositories().deliveries.test(caller().tenant_id, webhook_id)


@blueprint.post("/webhooks/<webhook_id>/replay")
@requires(Scope.GOVERN)
@blueprint.arguments(ReplayIn())
@blueprint.response(202, WebhookOut())
def replay_webhook(body: dict[str, Any], webhook_id: str) -> Webhook:
    """Send the entries after `after` again, up to where the webhook is now.

    They are sent as new messages, each with a `webhook-id` of its own.
    """
    return repositories().webhooks.replay(caller().tenant_id, webhook_id, body["after"])


@blueprint.get("/webhooks/<webhook_id>/deliveries")
@requires(Scope.GOVERN)
@blueprint.arguments(PageIn(), location="query")
@blueprint.response(200, DeliveryPageOut())
@paged("deliveries", lambda delivery: ListPosition(delivery.created_at, delivery.id))
def list_deliveries(limit: int, after: ListPosition | None, webhook_id: str) -> list[Delivery]:
    """List the deliveries to a webhook, finished and under way, latest first, each with its result.

    Finished deliveries are kept for 30 days. Follow `next_cursor` until it is null.
    """
    return repositories().deliveries.page(caller().tenant_id, webhook_id, limit, after)


@contextmanager
def _refusal_as_field_error() -> Iterator[None]:
    """Turn ReceiverRefusedError into a ValidationFailedError of the field `url`: the address may not be called."""
    try:
        yield
    except ReceiverRefusedError as error:
        raise ValidationFailedError({"url": [error.reason]}) from None
