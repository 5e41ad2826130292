"""Requests that can be repeated without fear: the same Idempotency-Key and request gets the first answer again.

The record of an answer is written in the transaction of what it answers, so that there is never one without the other.
It keeps facts from which the same answer can be made again (ids, numbers, times), and no content: what a deleted chat
said must not come back out of here. Refusals are not kept; a repetition asks again. Of two at once one commits first,
the other conflicts with its record, starts again and finds it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from pymongo.errors import DuplicateKeyError

from chat_service.errors import ChatServiceError, IdempotencyKeyReusedError, RequestInProgressError
from chat_service.models import IdempotencyKey
from chat_service.repository.database import Database
from chat_service.repository.transaction import T
from chat_service.repository.unit_of_work import UnitOfWork

KEPT = timedelta(hours=24)
"""How long an answer is kept: longer than any caller goes on repeating a request (the contract promises 24 h)."""

Facts = dict[str, Any]


def once(
    key: IdempotencyKey | None,
    work: Callable[[UnitOfWork], T | ChatServiceError],
    remember: Callable[[T], Facts],
    recall: Callable[[Facts], T],
) -> Callable[[UnitOfWork], T | ChatServiceError]:
    """Return `work` for a transaction, made such that it runs once for each key; without a key it is `work` itself.

    `remember` gives the facts of what `work` returned, `recall` the same value from them. Costs two commands.
    The transaction returns IdempotencyKeyReusedError where the key came with another request before.
    """
    if key is None:
        return work

    def work_once(tx: UnitOfWork) -> T | ChatServiceError:
        facts = find(tx, key)
        if isinstance(facts, ChatServiceError):
            return facts
        if facts is not None:
            return recall(facts)
        verdict = work(tx)
        if not isinstance(verdict, ChatServiceError):
            _keep(tx, key, remember(verdict))
        return verdict

    return work_once


CLAIM = timedelta(seconds=30)
"""For the run of a request that takes several transactions, longer than any such run: then it was cut off."""

CLAIM_AGAIN_SECONDS = 0.05


@contextmanager
def claimed(database: Database, key: IdempotencyKey, seconds: float) -> Iterator[None]:
    """Run the block for a request that takes several transactions, while nobody else runs it under the same key.

    Waits for another run for up to `seconds`. The record says only which request came with the key: what each of its
    transactions did is told by what these have left.

    Raises:
        IdempotencyKeyReusedError: the key came with another request before.
        RequestInProgressError: another run is still at work.
        DatabaseUnavailableError, OutcomeUnknownError: the key could not be claimed, and the block was not run.
    """
    end = time.monotonic() + seconds
    while (until := _claim(database, key)) is None:
        if time.monotonic() > end:
            raise RequestInProgressError
        time.sleep(CLAIM_AGAIN_SECONDS)
    try:
        yield
    finally:
        with suppress(ChatServiceError), database.operation(writes=True):  # else it ends by itself
            own = {"_id": _record_key(key), "claimed_until": until}
            database.idempotency.update_one(own, {"$set": {"claimed_until": database.now()}})


def _claim(database: Database, key: IdempotencyKey) -> datetime | None:
    """Return until when the key is claimed now, or None if another run holds it."""
    now = database.now()
    record = {"fingerprint": key.fingerprint, "facts": {}, "claimed_until": now + CLAIM, "expires_at": now + KEPT}
    free = {"_id": _record_key(key), "claimed_until": {"$not": {"$gt": now}}}
    with database.operation(writes=True):
        facts = find(database.unbound(), key)
        if isinstance(facts, ChatServiceError):
            raise facts
        try:
            database.idempotency.replace_one(free, record, upsert=True)
        except DuplicateKeyError:
            return None
    return now + CLAIM


def find(tx: UnitOfWork, key: IdempotencyKey) -> Facts | IdempotencyKeyReusedError | None:
    """Return the facts kept under the key, None if there are none, or the error if they are of another request."""
    record = tx.idempotency.find_one({"_id": _record_key(key), "expires_at": {"$gt": tx.now}})
    if record is None:
        return None
    if record["fingerprint"] != key.fingerprint:
        return IdempotencyKeyReusedError()
    facts: Facts = record["facts"]
    return facts


def _keep(tx: UnitOfWork, key: IdempotencyKey, facts: Facts) -> None:
    # A replacement, because an expired record may not have been swept up yet.
    tx.idempotency.replace_one(
        {"_id": _record_key(key)},
        {"fingerprint": key.fingerprint, "facts": facts, "expires_at": tx.now + KEPT},
        upsert=True,
    )


def _record_key(key: IdempotencyKey) -> dict[str, str]:
    return {"tenant_id": key.tenant_id, "key": key.key}
