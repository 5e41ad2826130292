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


CLAIM = timedelta(seconds=5)
"""For the run of a request that takes several transactions. Who was killed or cut off holds the key for no longer. A
run that stalls for so long may get company: each of their transactions says what is so, and both go on."""

RENEW_SECONDS = 1.0

CLAIM_AGAIN_SECONDS = 0.05


class Claim:
    """One run's right to the work of a key; it ends by itself unless it is renewed."""

    def __init__(self, database: Database, key: IdempotencyKey) -> None:
        self._database = database
        self._key = key
        self._until = database.now()

    def take(self) -> bool:
        """Claim the key, and tell whether that went well: it does not while another run holds it.

        Raises:
            IdempotencyKeyReusedError: the key came with another request before.
        """
        now = self._database.now()
        until = now + CLAIM
        record = {"fingerprint": self._key.fingerprint, "facts": {}, "claimed_until": until, "expires_at": now + KEPT}
        free = {"_id": _record_key(self._key), "claimed_until": {"$not": {"$gt": now}}}
        with self._database.operation(writes=True):
            facts = find(self._database.unbound(), self._key)
            if isinstance(facts, ChatServiceError):
                raise facts
            try:
                self._database.idempotency.replace_one(free, record, upsert=True)
            except DuplicateKeyError:
                return False
        self._until = until
        return True

    def renew(self) -> None:
        """Hold the key for longer, if a while has passed; where it was lost, or the database is away, do nothing."""
        now = self._database.now()
        if self._until - now < CLAIM - timedelta(seconds=RENEW_SECONDS):
            self._move(now + CLAIM)

    def give_up(self) -> None:
        """Let another run have it; where the database is away, it ends by itself."""
        self._move(self._database.now())

    def _move(self, until: datetime) -> None:
        own = {"_id": _record_key(self._key), "claimed_until": self._until}
        with suppress(ChatServiceError), self._database.operation(writes=True):
            if self._database.idempotency.update_one(own, {"$set": {"claimed_until": until}}).matched_count:
                self._until = until


@contextmanager
def claimed(database: Database, key: IdempotencyKey, seconds: float) -> Iterator[Claim]:
    """Run the block for a request that takes several transactions, while nobody else runs it under the same key.

    Waits for another run for up to `seconds`. The record says only which request came with the key: what each of its
    transactions did is told by what these have left.

    Raises:
        IdempotencyKeyReusedError: the key came with another request before.
        RequestInProgressError: another run is still at work.
        DatabaseUnavailableError, OutcomeUnknownError: the key could not be claimed, and the block was not run.
    """
    claim = Claim(database, key)
    end = time.monotonic() + seconds
    while not claim.take():
        if time.monotonic() > end:
            raise RequestInProgressError
        time.sleep(CLAIM_AGAIN_SECONDS)
    try:
        yield claim
    finally:
        claim.give_up()


def is_recorded(database: Database, tenant_id: str, key: str) -> bool:
    """Tell whether an answer is kept under the key, to whatever request."""
    kept = {"_id": {"tenant_id": tenant_id, "key": key}, "expires_at": {"$gt": database.now()}}
    with database.operation():
        return database.idempotency.find_one(kept, {"_id": True}) is not None


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
