"""Idempotent requests: the same request with the same Idempotency-Key gets the first response again.

The record of a response is written in the transaction of the work itself, so that neither exists without the other. It
stores the facts from which the response can be made again (ids, numbers, times), and no content: the content of a
deleted chat must not be found here. Refusals are not recorded, so a repeated request is tried again. Of two requests
at once one commits first; the other conflicts with its record, starts again and finds the record.
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
"""How long a response is recorded: longer than any caller repeats a request (the contract promises 24 h)."""

Facts = dict[str, Any]


def once(
    key: IdempotencyKey | None,
    work: Callable[[UnitOfWork], T | ChatServiceError],
    remember: Callable[[T], Facts],
    recall: Callable[[Facts], T],
) -> Callable[[UnitOfWork], T | ChatServiceError]:
    """Return `work` for a transaction, changed so that it runs only once for the key; without a key, `work` itself.

    `remember` returns the facts of the value that `work` returned, and `recall` makes the same value of the facts. This
    costs two commands. The work returns IdempotencyKeyReusedError if the key came with another request before.
    """
    if key is None:
        return work

    def work_once(tx: UnitOfWork) -> T | ChatServiceError:
        facts = find(tx, key)
        if isinstance(facts, ChatServiceError):
            return facts
        if facts is not None:
            return recall(facts)
        result = work(tx)
        if not isinstance(result, ChatServiceError):
            _record(tx, key, remember(result))
        return result

    return work_once


CLAIM = timedelta(seconds=5)
"""How long a claim lasts, for a request that takes several transactions. A run that was killed or cut off holds the key
for no longer than this. If a run stalls for so long, another run may start beside it: each of their transactions works
on the true state, and both go on."""

RENEW_SECONDS = 1.0
"""A claim is renewed when at least this time has passed since it was made or renewed."""

CLAIM_AGAIN_SECONDS = 0.05
"""The pause between two tries to claim a key that another run holds."""


class Claim:
    """The right of one run to do the work of a key; it ends by itself unless it is renewed."""

    def __init__(self, database: Database, key: IdempotencyKey) -> None:
        self._database = database
        self._key = key
        self._until = database.now()

    def acquire(self) -> bool:
        """Try to claim the key, and return whether that succeeded: it fails while another run holds the key.

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
        """Extend the claim if `RENEW_SECONDS` have passed; do nothing if it was lost or the database is unavailable."""
        now = self._database.now()
        if self._until - now < CLAIM - timedelta(seconds=RENEW_SECONDS):
            self._set_end(now + CLAIM)

    def give_up(self) -> None:
        """End the claim, so that another run can have the key; if the database is unavailable, it ends by itself."""
        self._set_end(self._database.now())

    def _set_end(self, until: datetime) -> None:
        own = {"_id": _record_key(self._key), "claimed_until": self._until}
        with suppress(ChatServiceError), self._database.operation(writes=True):
            if self._database.idempotency.update_one(own, {"$set": {"claimed_until": until}}).matched_count:
                self._until = until


@contextmanager
def claimed(database: Database, key: IdempotencyKey, seconds: float) -> Iterator[Claim]:
    """Run the block of a request that takes several transactions, while nobody else runs it with the same key.

    Waits up to `seconds` for another run to end. The record says only which request came with the key; what each of the
    transactions did is seen in the documents that they wrote.

    Raises:
        IdempotencyKeyReusedError: the key came with another request before.
        RequestInProgressError: another run is still at work after that time.
        DatabaseUnavailableError, OutcomeUnknownError: the key could not be claimed, and the block was not run.
    """
    claim = Claim(database, key)
    end = time.monotonic() + seconds
    while not claim.acquire():
        if time.monotonic() > end:
            raise RequestInProgressError
        time.sleep(CLAIM_AGAIN_SECONDS)
    try:
        yield claim
    finally:
        claim.give_up()


def is_recorded(database: Database, tenant_id: str, key: str) -> bool:
    """Tell whether a response is recorded under the key, whatever the request was."""
    unexpired = {"_id": {"tenant_id": tenant_id, "key": key}, "expires_at": {"$gt": database.now()}}
    with database.operation():
        return database.idempotency.find_one(unexpired, {"_id": True}) is not None


def find(tx: UnitOfWork, key: IdempotencyKey) -> Facts | IdempotencyKeyReusedError | None:
    """Return the facts recorded under the key, None if there are none, or an error if they are of another request."""
    record = tx.idempotency.find_one({"_id": _record_key(key), "expires_at": {"$gt": tx.now}})
    if record is None:
        return None
    if record["fingerprint"] != key.fingerprint:
        return IdempotencyKeyReusedError()
    facts: Facts = record["facts"]
    return facts


def _record(tx: UnitOfWork, key: IdempotencyKey, facts: Facts) -> None:
    # Replaces, because an expired record may still be there.
    tx.idempotency.replace_one(
        {"_id": _record_key(key)},
        {"fingerprint": key.fingerprint, "facts": facts, "expires_at": tx.now + KEPT},
        upsert=True,
    )


def _record_key(key: IdempotencyKey) -> dict[str, str]:
    return {"tenant_id": key.tenant_id, "key": key.key}
