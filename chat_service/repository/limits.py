"""Rate limits of keys: token buckets in the database, so that a limit applies across all processes.

- Each key has a bucket for each scope. One command refills it by the server's clock, takes the tokens if there are
  enough, and returns the level. Without a limit no command is sent.
- It fails open: if the database does not answer in time, or at all, the request goes on. A limit protects the service;
  it must not take it down.
- A bucket that was lost, in a failover or because it was idle and expired, counts as full. So a write does not wait for
  other members or for the journal.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

from chat_service.models import Caller, Limits, RateLimit, Scope, Verdict
from chat_service.repository.database import Database
from chat_service.repository.keys import bucket_key

DEADLINE_SECONDS = 0.25
"""The command's timeout. Measured, it takes 0.4 ms, and 1 ms at p99. This is far above, and so short that a request
that waits in vain still has its own 12 s, and the caller hardly notices."""

LOG_SECONDS = 10.0
"""At most one log line in this time: while the database is away there would be one for each request."""

LARGEST_STEP_BACK_SECONDS = 1.0
"""Two commands may reach the bucket in another order than they read the clock. Then the bucket takes back, to the
millisecond, what it was refilled for the time between. A larger step back is another server's clock, after a failover:
it costs a key no more than this much of its rate."""

_log = logging.getLogger(__name__)


class RateLimits:
    """The rate_limits collection."""

    def __init__(self, database: Database, defaults: Limits, on_failure: Callable[[], None] = lambda: None) -> None:
        """Apply the tenant's own limits, else `defaults`. `on_failure` is called for each request that failed open."""
        self._database = database
        self._defaults = defaults
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._logged_at = -math.inf

    def of(self, limits: Limits, scope: Scope) -> RateLimit | None:
        """Return the limit of a tenant that has these `limits` of its own, or None if it is unlimited."""
        return limits[scope] if scope in limits else self._defaults.get(scope)

    def take(self, caller: Caller, scope: Scope, tokens: int = 1) -> Verdict | None:
        """Take `tokens` from the caller's bucket for `scope`, if it has as many, and return the bucket's verdict.

        None lets the request go on: there is no limit, or the database did not answer within `DEADLINE_SECONDS`. More
        tokens than the limit's `burst` are never granted. One command, or none without a limit. Raises nothing.
        """
        limit = self.of(caller.limits, scope)
        if limit is None:
            return None
        key = bucket_key(caller.tenant_id, caller.key_id, scope.value)
        try:
            # Not find_one_and_update, which is retryable: for that the server stores an image of each bucket that it
            # returns, and takes a third longer.
            with pymongo.timeout(DEADLINE_SECONDS):
                bucket = self._database.database.command(
                    "findAndModify",
                    "rate_limits",
                    query={"_id": key},
                    update=_pipeline(limit, tokens),
                    upsert=True,
                    new=True,
                    writeConcern={"w": 1},
                )["value"]
        except PyMongoError as error:
            self._fail_open(error)
            return None
        return _verdict(limit, tokens, granted=bucket["granted"], level=bucket["tokens"])

    def _fail_open(self, error: PyMongoError) -> None:
        self._on_failure()
        now = time.monotonic()
        with self._lock:
            is_due = now - self._logged_at >= LOG_SECONDS
            if is_due:
                self._logged_at = now
        if is_due:
            _log.warning(
                "The database did not answer in time, so requests pass without rate limits: %s", type(error).__name__
            )


def _pipeline(limit: RateLimit, tokens: int) -> list[dict[str, Any]]:
    """Return the update of a bucket: refill it, take the tokens if there are enough, and set when it may expire."""
    milliseconds = {"$subtract": ["$$NOW", {"$ifNull": ["$at", "$$NOW"]}]}
    filled = {"$add": [{"$ifNull": ["$tokens", limit.burst]}, {"$multiply": [limit.rate / 1000, milliseconds]}]}
    lowest = -limit.rate * LARGEST_STEP_BACK_SECONDS
    full_at = {"$add": ["$at", {"$multiply": [{"$subtract": [limit.burst, "$tokens"]}, 1000 / limit.rate]}]}
    return [
        {"$set": {"tokens": {"$max": [lowest, {"$min": [limit.burst, filled]}]}, "at": "$$NOW"}},
        {"$set": {"granted": {"$gte": ["$tokens", tokens]}}},
        {"$set": {"tokens": {"$subtract": ["$tokens", {"$cond": ["$granted", tokens, 0]}]}}},
        # The end of the hour in which it is full again: a time that seldom changes is seldom written to the index.
        {"$set": {"expires_at": {"$dateTrunc": {"date": {"$add": [full_at, 3_600_000]}, "unit": "hour"}}}},
    ]


def _verdict(limit: RateLimit, tokens: int, *, granted: bool, level: float) -> Verdict:
    """Return the verdict of a bucket that has `level` tokens afterwards."""
    return Verdict(
        granted=granted,
        limit=limit,
        left=max(math.floor(level), 0),
        retry_after=0 if granted else max(math.ceil((tokens - level) / limit.rate), 1),
        full_after=max(math.ceil((limit.burst - level) / limit.rate), 0),
    )
