"""Webhooks: to which URLs a tenant's log entries are sent, and the secrets that sign them. See also deliveries.py."""

import base64
import secrets
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pymongo import ReturnDocument

from chat_service.errors import ChatServiceError, TooManyWebhooksError, WebhookNotFoundError
from chat_service.models import IdempotencyKey, Kind, ListPosition, Webhook
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import webhook_key
from chat_service.repository.lists import latest_first
from chat_service.repository.receivers import check_receiver
from chat_service.repository.sealing import Sealer
from chat_service.repository.unit_of_work import UnitOfWork

MOST_OF_TENANT = 20

SECRET_BYTES = 32
SECRET_PREFIX = "whsec_"  # noqa: S105 - how the standard marks a secret

BOTH_FOR = timedelta(hours=24)
"""How long the old secret also signs after a rotation."""

Document = dict[str, Any]


class Webhooks:
    """The webhooks collection."""

    def __init__(self, database: Database, sealer: Sealer, *, private_networks: bool) -> None:
        self._database = database
        self._sealer = sealer
        self.private_networks = private_networks
        """Whether webhooks may lead into private networks, and need no https."""

    @property
    def are_on(self) -> bool:
        """Whether there is a key to seal and open the secrets of webhooks."""
        return self._sealer.is_ready

    def create(
        self,
        tenant_id: str,
        url: str,
        kinds: Sequence[Kind] | None,
        created_by: str,
        key: IdempotencyKey | None = None,
    ) -> tuple[Webhook, str]:
        """Create a webhook that gets new entries of these kinds, of all with None; return it and its secret.

        Raises:
            WebhooksOffError: there is no key to seal secrets with.
            ReceiverRefusedError: `url` may not be called.
            TooManyWebhooksError: the tenant has `MOST_OF_TENANT` webhooks.
            IdempotencyKeyReusedError: `key` was used for another request before.
        """
        secret = self._sealer.seal(secrets.token_bytes(SECRET_BYTES))
        check_receiver(url, private_networks=self.private_networks)
        webhook_id = str(uuid.uuid4())

        def work(tx: UnitOfWork) -> Document | ChatServiceError:
            if tx.webhooks.count_documents({"_id.tenant_id": tenant_id}) >= MOST_OF_TENANT:
                return TooManyWebhooksError()
            head = tx.log_heads.find_one({"_id": tenant_id}) or {"seq": 0}
            document = {
                "_id": webhook_key(tenant_id, webhook_id),
                "url": url,
                "kinds": None if kinds is None else [kind.value for kind in kinds],
                "enabled": True,
                "disabled_by": None,
                "created_at": tx.now,
                "created_by": created_by,
                "secrets": [{"sealed": secret, "until": None}],
                "position": head["seq"],
                "generation": 0,
                "replay": None,
            }
            tx.webhooks.insert_one(document)
            return document

        def recall(facts: Document) -> Document:
            return self._find(tenant_id, facts["id"])

        work_once = once(key, work, lambda _: {"id": webhook_id}, recall)
        document = self._database.transaction(work_once)
        return from_document(document), self._newest_secret(document)

    def _find(self, tenant_id: str, webhook_id: str) -> Document:
        with self._database.operation():
            document: Document | None = self._database.webhooks.find_one({"_id": webhook_key(tenant_id, webhook_id)})
        if document is None:
            raise WebhookNotFoundError
        return document

    def _newest_secret(self, document: Document) -> str:
        return SECRET_PREFIX + base64.b64encode(self._sealer.open(document["secrets"][0]["sealed"])).decode()

    def get(self, tenant_id: str, webhook_id: str) -> Webhook:
        """Return a webhook.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
        """
        return from_document(self._find(tenant_id, webhook_id))

    def page(self, tenant_id: str, limit: int, after: ListPosition | None) -> list[Webhook]:
        """Return up to `limit` webhooks after a position in the list, latest first."""
        own = {"_id.tenant_id": tenant_id}
        with self._database.operation():
            documents = latest_first(
                self._database.webhooks, own, "created_at", limit, after, id_field="_id.webhook_id"
            )
            return [from_document(document) for document in documents]

    def update(self, tenant_id: str, webhook_id: str, changes: Document) -> Webhook:
        """Change `url`, `kinds` or `enabled`; return the webhook. When enabled again, it continues at its position.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
            ReceiverRefusedError: the new `url` may not be called.
        """
        if "url" in changes:
            check_receiver(changes["url"], private_networks=self.private_networks)
        if "enabled" in changes:
            changes = {**changes, "disabled_by": None if changes["enabled"] else "key"}
        return self._change(tenant_id, webhook_id, {"$set": changes})

    def _change(self, tenant_id: str, webhook_id: str, change: Document) -> Webhook:
        key = {"_id": webhook_key(tenant_id, webhook_id)}
        with self._database.operation(writes=True):
            document = self._database.webhooks.find_one_and_update(key, change, return_document=ReturnDocument.AFTER)
        if document is None:
            raise WebhookNotFoundError
        return from_document(document)

    def delete(self, tenant_id: str, webhook_id: str) -> None:
        """Delete a webhook with its deliveries.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
        """

        def work(tx: UnitOfWork) -> ChatServiceError | None:
            if not tx.webhooks.delete_one({"_id": webhook_key(tenant_id, webhook_id)}).deleted_count:
                return WebhookNotFoundError()
            tx.deliveries.delete_many({"_id.tenant_id": tenant_id, "_id.webhook_id": webhook_id})
            return None

        self._database.transaction(work)

    def rotate(self, tenant_id: str, webhook_id: str) -> tuple[Webhook, str]:
        """Give the webhook a new secret; return the webhook and the secret. The old one also signs for `BOTH_FOR`.

        Raises:
            WebhooksOffError: there is no key to seal secrets with.
            WebhookNotFoundError: the tenant has no such webhook.
        """
        sealed = self._sealer.seal(secrets.token_bytes(SECRET_BYTES))
        old = self._find(tenant_id, webhook_id)["secrets"][0]
        both = [{"sealed": sealed, "until": None}, {**old, "until": self._database.now() + BOTH_FOR}]
        webhook = self._change(tenant_id, webhook_id, {"$set": {"secrets": both}})
        return webhook, self._newest_secret({"secrets": both})

    def replay(self, tenant_id: str, webhook_id: str, after: int) -> Webhook:
        """Send the entries after seq `after` again, up to the webhook's position, as new messages.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
        """
        document = self._find(tenant_id, webhook_id)
        replay = {"position": after, "until": document["position"], "generation": document["generation"] + 1}
        return self._change(tenant_id, webhook_id, {"$set": {"replay": replay}, "$inc": {"generation": 1}})

    def disable(self, tenant_id: str, webhook_id: str, by: str) -> Webhook:
        """Send nothing more to the webhook until it is enabled again.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
        """
        return self._change(tenant_id, webhook_id, {"$set": {"enabled": False, "disabled_by": by}})


def from_document(document: Document) -> Webhook:
    """Return the webhook of a document."""
    kinds = document["kinds"]
    return Webhook(
        id=document["_id"]["webhook_id"],
        url=document["url"],
        kinds=None if kinds is None else [Kind(kind) for kind in kinds],
        enabled=document["enabled"],
        disabled_by=document["disabled_by"],
        created_at=document["created_at"],
        created_by=document["created_by"],
        position=document["position"],
    )
