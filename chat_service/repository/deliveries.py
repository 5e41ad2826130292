"""Deliveries: which log entries are sent to which webhook, when each is tried, and with what result.

The invariants of this module:

- A delivery is made in the transaction that moves the webhook's position in the log: none is forgotten or made twice.
- Its id is derived from the webhook and the entry: all its tries have the same `webhook-id`.
- A worker claims a delivery before each try. If the worker is killed, the delivery is due again when the claim ends.
- A delivery whose last try failed stays in the list as failed. A replay can send the entry again.
"""

import logging
import random
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, ReturnDocument

from chat_service.errors import SecretsUnreadableError, WebhookNotFoundError
from chat_service.models import Attempt, Delivery, DeliveryState, ListPosition
from chat_service.repository.database import Database
from chat_service.repository.keys import webhook_key
from chat_service.repository.lists import latest_first
from chat_service.repository.log import Log
from chat_service.repository.sealing import Sealer
from chat_service.repository.unit_of_work import UnitOfWork

SCHEDULE = tuple(
    timedelta(seconds=seconds) for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""How long to wait for the next try, after each try that failed."""

JITTER = 0.1
LONGEST_WAIT = timedelta(hours=24)
"""The longest wait that a receiver may ask for."""

CLAIM = timedelta(seconds=40)
"""How long a worker's claim lasts; a try takes 15 s at most."""

PAUSE = timedelta(minutes=1)
"""How long to wait before the deliveries of a webhook that cannot be called are looked at again."""

AT_ONCE = 200
"""The most log entries that one transaction makes deliveries of."""

MOST_PENDING = 1_000
"""The most pending deliveries of a webhook; further entries wait in the log."""

KEPT = timedelta(days=30)
"""How long a delivery stays in the list after it was delivered or has failed."""

TEST = "webhook.test"
"""The type of a test message."""

Document = dict[str, Any]

_log = logging.getLogger(__name__)


class Deliveries:
    """The deliveries collection: a queue of pending deliveries, and the results of earlier ones."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._log = Log(database)
        self._sealer = sealer

    def enqueue_some(self) -> int:
        """Make deliveries of log entries that webhooks have not got yet; return how many entries were read."""
        with self._database.operation():
            webhooks = list(self._database.webhooks.find({"enabled": True}))
            heads = self._log.heads({webhook["_id"]["tenant_id"] for webhook in webhooks}) if webhooks else {}
        entry_count = 0
        for webhook in webhooks:
            is_behind = webhook["position"] < heads.get(webhook["_id"]["tenant_id"], 0)
            if (is_behind or webhook["replay"]) and not self._is_full(webhook):
                entry_count += self._enqueue(webhook)
        return entry_count

    def _is_full(self, webhook: Document) -> bool:
        pending = {**_own_deliveries(webhook["_id"]), "state": DeliveryState.PENDING.value}
        with self._database.operation():
            number: int = self._database.deliveries.count_documents(pending, limit=MOST_PENDING)
        return number >= MOST_PENDING

    def _enqueue(self, webhook: Document) -> int:
        """Make deliveries of the next entries, those of a replay first; return how many entries were read."""
        replay = webhook["replay"]
        tenant_id, cursor = webhook["_id"]["tenant_id"], replay or webhook
        page = self._log.page(tenant_id, cursor["position"], AT_ONCE)
        entries = [entry for entry in page.entries if replay is None or entry.seq <= replay["until"]]
        generation = replay["generation"] if replay else 0
        is_replayed = replay is not None and (page.next_after >= replay["until"] or not page.entries)
        moved = {"replay": None} if is_replayed else {f"{'replay.' if replay else ''}position": page.next_after}

        def work(tx: UnitOfWork) -> int:
            unchanged = {"_id": webhook["_id"], "position": webhook["position"], "replay": replay}
            if not tx.webhooks.update_one(unchanged, {"$set": moved}).matched_count:
                return 0  # another worker was faster
            kinds = webhook["kinds"]
            selected = [entry for entry in entries if kinds is None or entry.event.kind.value in kinds]
            documents = [_new(tx, webhook, entry.seq, entry.event.kind.value, generation) for entry in selected]
            if documents:
                tx.deliveries.insert_many(documents)
            return len(entries)

        return self._database.transaction(work)

    def test(self, tenant_id: str, webhook_id: str) -> Delivery:
        """Queue a test message without content, and return its delivery.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
        """
        own = {"_id": webhook_key(tenant_id, webhook_id)}

        def work(tx: UnitOfWork) -> Delivery | WebhookNotFoundError:
            webhook = tx.webhooks.find_one_and_update(
                own, {"$inc": {"generation": 1}}, return_document=ReturnDocument.AFTER
            )
            if webhook is None:
                return WebhookNotFoundError()
            document = _new(tx, webhook, 0, TEST, webhook["generation"])
            tx.deliveries.insert_one(document)
            return _from_document(document)

        return self._database.transaction(work)

    def page(self, tenant_id: str, webhook_id: str, limit: int, after: ListPosition | None) -> list[Delivery]:
        """Return up to `limit` deliveries that come after a position in the list, latest first.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
        """
        key = webhook_key(tenant_id, webhook_id)
        with self._database.operation():
            if self._database.webhooks.find_one({"_id": key}, {"_id": True}) is None:
                raise WebhookNotFoundError
            deliveries, own = self._database.deliveries, _own_deliveries(key)
            documents = latest_first(deliveries, own, "created_at", limit, after, id_field="_id.delivery_id")
            return [_from_document(document) for document in documents]

    def claim(self, busy: Sequence[str]) -> Attempt | None:
        """Claim the delivery that has been due longest, except to the `busy` webhooks; return None if none is due."""
        while True:
            now = self._database.now()
            due = {**_PENDING, "due_at": {"$lte": now}, "_id.webhook_id": {"$nin": list(busy)}}
            claim = {"$set": {"due_at": now + CLAIM, "tried_at": now}, "$inc": {"tries": 1}}
            with self._database.operation(writes=True):
                delivery = self._database.deliveries.find_one_and_update(
                    due, claim, sort=[("due_at", ASCENDING)], return_document=ReturnDocument.AFTER
                )
                if delivery is None:
                    return None
                webhook = self._database.webhooks.find_one({"_id": _webhook_key_of(delivery)})
            if webhook is not None and webhook["enabled"]:
                try:
                    return self._to_attempt(delivery, webhook, now)
                except SecretsUnreadableError:
                    _log.warning("A webhook's secret cannot be decrypted: its key is not in WEBHOOK_SECRET_KEY.")
            self._postpone(delivery)

    def _postpone(self, delivery: Document) -> None:
        """Postpone the due deliveries of a webhook that cannot be called; the claim of `delivery` counts as no try."""
        later = {"$set": {"due_at": self._database.now() + PAUSE}}
        waiting = {**_own_deliveries(_webhook_key_of(delivery)), **_PENDING, "due_at": {"$lte": self._database.now()}}
        with self._database.operation(writes=True):
            self._database.deliveries.update_one({"_id": delivery["_id"]}, {**later, "$inc": {"tries": -1}})
            self._database.deliveries.update_many(waiting, later)

    def _to_attempt(self, delivery: Document, webhook: Document, now: datetime) -> Attempt:
        tenant_id, seq = delivery["_id"]["tenant_id"], delivery["seq"]
        entry = self._log.get(tenant_id, seq) if seq else None
        valid = [secret for secret in webhook["secrets"] if secret["until"] is None or secret["until"] > now]
        return Attempt(
            tenant_id=tenant_id,
            webhook_id=delivery["_id"]["webhook_id"],
            delivery_id=delivery["_id"]["delivery_id"],
            url=webhook["url"],
            secrets=[self._sealer.open(secret["sealed"]) for secret in valid],
            number=delivery["tries"],
            at=now,
            type=delivery["kind"],
            entry=entry,
        )

    def settle(self, attempt: Attempt, status: int | None, reason: str, retry_after: float | None = None) -> None:
        """Record the result of a try: the receiver's HTTP status, or None if none came, and the reason in a word.

        2xx is success, and 410 disables the webhook. After anything else, the delivery is tried again unless this was
        the last try: by the schedule, or in `retry_after` seconds if that is later.
        """
        now = self._database.now()
        result: Document = {"status": status, "reason": reason}
        is_delivered = status is not None and 200 <= status < 300  # noqa: PLR2004 - what HTTP calls success
        if is_delivered:
            change = {**result, "state": DeliveryState.DELIVERED.value, "expires_at": now + KEPT}
        elif attempt.number > len(SCHEDULE) or status == _GONE:
            change = {**result, "state": DeliveryState.FAILED.value, "expires_at": now + KEPT}
        else:
            change = {**result, "due_at": now + next_wait(attempt.number, retry_after)}
        own = {"_id": _key(attempt.tenant_id, attempt.webhook_id, attempt.delivery_id)}
        with self._database.operation(writes=True):
            # If the claim ended during this try, another worker's try may have settled the delivery already.
            self._database.deliveries.update_one({**own, "state": DeliveryState.PENDING.value}, {"$set": change})
            if status == _GONE:
                webhook = {"_id": webhook_key(attempt.tenant_id, attempt.webhook_id)}
                disabled = {"enabled": False, "disabled_by": "410"}
                self._database.webhooks.update_one(webhook, {"$set": disabled})


_GONE = 410

_PENDING = {"state": DeliveryState.PENDING.value}


def next_wait(tries: int, retry_after: float | None = None) -> timedelta:
    """Return how long to wait after so many tries: at least `retry_after` seconds, of which at most a day counts."""
    wait = SCHEDULE[tries - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
    requested = timedelta(seconds=min(max(retry_after or 0, 0), LONGEST_WAIT.total_seconds()))
    return max(wait, requested)


def _webhook_key_of(delivery: Document) -> Document:
    """Return the `_id` of the webhook that a delivery is for."""
    return webhook_key(delivery["_id"]["tenant_id"], delivery["_id"]["webhook_id"])


def _own_deliveries(webhook_id: Document) -> Document:
    """Return the condition for the deliveries of the webhook with this `_id`."""
    return {f"_id.{name}": value for name, value in webhook_id.items()}


def _key(tenant_id: str, webhook_id: str, delivery_id: str) -> Document:
    return {"tenant_id": tenant_id, "webhook_id": webhook_id, "delivery_id": delivery_id}


def _new(tx: UnitOfWork, webhook: Document, seq: int, kind: str, generation: int) -> Document:
    tenant_id, webhook_id = webhook["_id"]["tenant_id"], webhook["_id"]["webhook_id"]
    delivery_id = str(uuid.uuid5(uuid.UUID(webhook_id), f"{seq}/{generation}"))
    return {
        "_id": _key(tenant_id, webhook_id, delivery_id),
        "seq": seq,
        "kind": kind,
        "state": DeliveryState.PENDING.value,
        "created_at": tx.now,
        "due_at": tx.now,
        "tries": 0,
        "tried_at": None,
        "status": None,
        "reason": None,
    }


def _from_document(document: Document) -> Delivery:
    is_pending = document["state"] == DeliveryState.PENDING.value
    return Delivery(
        id=document["_id"]["delivery_id"],
        seq=document["seq"] or None,
        kind=document["kind"],
        state=DeliveryState(document["state"]),
        created_at=document["created_at"],
        tries=document["tries"],
        tried_at=document["tried_at"],
        next_try_at=document["due_at"] if is_pending else None,
        status=document["status"],
        reason=document["reason"],
    )
