"""Deliveries: what of the log has to be told to which webhook, when it is tried, and what came of it.

What this module keeps:

- A delivery is made in the transaction that moves the webhook's place in the log: none is forgotten or made twice.
- Its id follows from the webhook and the entry: all tries of it bear the same `webhook-id`.
- A try is claimed before it is made. Of a worker that was killed in it, it is due again when the claim is over.
- What was not taken after the last try stays in the list as failed, and can be told again by a replay.
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
"""Until the next try, after each that failed."""

JITTER = 0.1
LONGEST_WAIT = timedelta(hours=24)
"""That a receiver may ask for."""

CLAIM = timedelta(seconds=40)
"""For a try, which takes 15 s at most."""

PAUSE = timedelta(minutes=1)
"""Until a webhook is looked at again that is disabled."""

AT_ONCE = 200
"""Entries that are made deliveries of with one transaction."""

MOST_PENDING = 1_000
"""Of a webhook; the rest waits in the log."""

KEPT = timedelta(days=30)
"""How long a delivery that is over stays in the list."""

TEST = "webhook.test"
"""The type of what is sent to see whether it arrives."""

Document = dict[str, Any]

_log = logging.getLogger(__name__)


class Deliveries:
    """The deliveries collection: a queue, and what came of it."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._log = Log(database)
        self._sealer = sealer

    def enqueue_some(self) -> int:
        """Make deliveries of entries that webhooks have not been told; return how many entries were looked at."""
        with self._database.operation():
            webhooks = list(self._database.webhooks.find({"enabled": True}))
            heads = self._log.heads({webhook["_id"]["tenant_id"] for webhook in webhooks}) if webhooks else {}
        looked_at = 0
        for webhook in webhooks:
            is_behind = webhook["position"] < heads.get(webhook["_id"]["tenant_id"], 0)
            if (is_behind or webhook["replay"]) and not self._is_full(webhook):
                looked_at += self._enqueue(webhook)
        return looked_at

    def _is_full(self, webhook: Document) -> bool:
        pending = {**_of_webhook(webhook["_id"]), "state": DeliveryState.PENDING.value}
        with self._database.operation():
            number: int = self._database.deliveries.count_documents(pending, limit=MOST_PENDING)
        return number >= MOST_PENDING

    def _enqueue(self, webhook: Document) -> int:
        """Make deliveries of the next entries, those of a replay first; return how many were looked at."""
        replay = webhook["replay"]
        tenant_id, place = webhook["_id"]["tenant_id"], replay or webhook
        page = self._log.page(tenant_id, place["position"], AT_ONCE)
        entries = [entry for entry in page.entries if replay is None or entry.seq <= replay["until"]]
        generation = replay["generation"] if replay else 0
        is_over = replay is not None and (page.next_after >= replay["until"] or not page.entries)
        moved = {"replay": None} if is_over else {f"{'replay.' if replay else ''}position": page.next_after}

        def work(tx: UnitOfWork) -> int:
            same = {"_id": webhook["_id"], "position": webhook["position"], "replay": replay}
            if not tx.webhooks.update_one(same, {"$set": moved}).matched_count:
                return 0  # another worker was faster
            kinds = webhook["kinds"]
            wanted = [entry for entry in entries if kinds is None or entry.event.kind.value in kinds]
            documents = [_new(tx, webhook, entry.seq, entry.event.kind.value, generation) for entry in wanted]
            if documents:
                tx.deliveries.insert_many(documents)
            return len(entries)

        return self._database.transaction(work)

    def test(self, tenant_id: str, webhook_id: str) -> Delivery:
        """Have a message sent that says nothing, and return its delivery.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
        """
        place = {"_id": webhook_key(tenant_id, webhook_id)}

        def work(tx: UnitOfWork) -> Delivery | WebhookNotFoundError:
            webhook = tx.webhooks.find_one_and_update(
                place, {"$inc": {"generation": 1}}, return_document=ReturnDocument.AFTER
            )
            if webhook is None:
                return WebhookNotFoundError()
            document = _new(tx, webhook, 0, TEST, webhook["generation"])
            tx.deliveries.insert_one(document)
            return _from_document(document)

        return self._database.transaction(work)

    def page(self, tenant_id: str, webhook_id: str, limit: int, after: ListPosition | None) -> list[Delivery]:
        """Return up to `limit` deliveries that come after a place in the list, latest first.

        Raises:
            WebhookNotFoundError: the tenant has no such webhook.
        """
        place = webhook_key(tenant_id, webhook_id)
        with self._database.operation():
            if self._database.webhooks.find_one({"_id": place}, {"_id": True}) is None:
                raise WebhookNotFoundError
            deliveries, own = self._database.deliveries, _of_webhook(place)
            found = latest_first(deliveries, own, "created_at", limit, after, id_field="_id.delivery_id")
            return [_from_document(document) for document in found]

    def claim(self, busy: Sequence[str]) -> Attempt | None:
        """Claim the delivery that is due longest, not to a webhook of the `busy` ones; None if none is due."""
        while True:
            now = self._database.now()
            due = {**_DUE, "due_at": {"$lte": now}, "_id.webhook_id": {"$nin": list(busy)}}
            claim = {"$set": {"due_at": now + CLAIM, "tried_at": now}, "$inc": {"tries": 1}}
            with self._database.operation(writes=True):
                found = self._database.deliveries.find_one_and_update(
                    due, claim, sort=[("due_at", ASCENDING)], return_document=ReturnDocument.AFTER
                )
                if found is None:
                    return None
                webhook = self._database.webhooks.find_one({"_id": _webhook_of(found)})
            if webhook is not None and webhook["enabled"]:
                try:
                    return self._to_attempt(found, webhook, now)
                except SecretsUnreadableError:
                    _log.warning("A webhook's secret cannot be opened: WEBHOOK_SECRET_KEY has not the key for it.")
            self._pause(found)

    def _pause(self, delivery: Document) -> None:
        """Leave a webhook alone for a while that cannot be told; the delivery that was claimed was not tried."""
        later = {"$set": {"due_at": self._database.now() + PAUSE}}
        waiting = {**_of_webhook(_webhook_of(delivery)), **_DUE, "due_at": {"$lte": self._database.now()}}
        with self._database.operation(writes=True):
            self._database.deliveries.update_one({"_id": delivery["_id"]}, {**later, "$inc": {"tries": -1}})
            self._database.deliveries.update_many(waiting, later)

    def _to_attempt(self, found: Document, webhook: Document, now: datetime) -> Attempt:
        tenant_id, seq = found["_id"]["tenant_id"], found["seq"]
        entry = self._log.get(tenant_id, seq) if seq else None
        good = [one for one in webhook["secrets"] if one["until"] is None or one["until"] > now]
        return Attempt(
            tenant_id=tenant_id,
            webhook_id=found["_id"]["webhook_id"],
            delivery_id=found["_id"]["delivery_id"],
            url=webhook["url"],
            secrets=[self._sealer.open(one["sealed"]) for one in good],
            number=found["tries"],
            at=now,
            type=found["kind"],
            entry=entry,
        )

    def settle(self, attempt: Attempt, status: int | None, reason: str, retry_after: float | None = None) -> None:
        """Put down what came of a try: the receiver's status, None if there was none, and why in a word.

        2xx is success; 410 disables the webhook. Otherwise it is tried again, in `retry_after` seconds if that is
        later, unless this was the last try.
        """
        now = self._database.now()
        seen: Document = {"status": status, "reason": reason}
        is_taken = status is not None and 200 <= status < 300  # noqa: PLR2004 - what HTTP calls success
        if is_taken:
            change = {**seen, "state": DeliveryState.DELIVERED.value, "expires_at": now + KEPT}
        elif attempt.number > len(SCHEDULE) or status == _GONE:
            change = {**seen, "state": DeliveryState.FAILED.value, "expires_at": now + KEPT}
        else:
            change = {**seen, "due_at": now + next_wait(attempt.number, retry_after)}
        own = {"_id": _key(attempt.tenant_id, attempt.webhook_id, attempt.delivery_id)}
        with self._database.operation(writes=True):
            # One whose claim was over may have been taken by another worker's try.
            self._database.deliveries.update_one({**own, "state": DeliveryState.PENDING.value}, {"$set": change})
            if status == _GONE:
                place = {"_id": webhook_key(attempt.tenant_id, attempt.webhook_id)}
                disabled = {"enabled": False, "disabled_by": "410"}
                self._database.webhooks.update_one(place, {"$set": disabled})


_GONE = 410

_DUE = {"state": DeliveryState.PENDING.value}


def next_wait(tries: int, retry_after: float | None = None) -> timedelta:
    """Return how long to wait after so many tries, and not less than the receiver has asked for, up to a day."""
    wait = SCHEDULE[tries - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
    asked = timedelta(seconds=min(max(retry_after or 0, 0), LONGEST_WAIT.total_seconds()))
    return max(wait, asked)


def _webhook_of(delivery: Document) -> Document:
    """Return the `_id` of the webhook that a delivery is for."""
    return webhook_key(delivery["_id"]["tenant_id"], delivery["_id"]["webhook_id"])


def _of_webhook(place: Document) -> Document:
    """Return the condition of the deliveries of a webhook."""
    return {f"_id.{name}": value for name, value in place.items()}


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
