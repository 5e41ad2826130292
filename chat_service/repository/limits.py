"""How often a key may ask: token buckets in the database, so that a limit holds over all processes.

- There is a bucket for each key and scope. One command fills it by the server's clock, takes the tokens if there are
  enough, and tells what is left. Where there is no limit nothing is sent.
- It fails open: when the database does not answer in time, or at all, the request goes on. A limit protects the
  service; it must not be what takes it down.
- A bucket that was lost, in a failover or as an idle one that was swept up, is a full one. So it is written without
  waiting for other members or for the journal.
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
"""Measured, the command takes 0.4 ms and 1 ms at p99. This is far above, and so little that a request which waits it
out in vain still has its own 12 s, and the caller hardly notices."""

LOG_SECONDS = 10.0
"""At most one line in this time: when the database is away it would be one for each request."""

LARGEST_STEP_BACK_SECONDS = 1.0
"""Two commands may reach the bucket in another order than they read the clock, and what the later one was given for
the time between is taken back, to the millisecond. More than this is another server's clock, after a failover: it costs
a key no more than this much of its rate."""

_log = logging.getLogger(__name__)


class RateLimits:
    """The rate_limits collection."""

    def __init__(self, database: Database, defaults: Limits, on_failure: Callable[[], None] = lambda: None) -> None:
        """Limit by the tenant's own limits, else by `defaults`. `on_failure` is told of each request let through."""
        self._database = database
        self._defaults = defaults
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._logged_at = -math.inf

    def of(self, limits: Limits, scope: Scope) -> RateLimit | None:
        """Return the limit that holds for a tenant with these `limits` of its own, or None if there is none."""
        return limits[scope] if scope in limits else self._defaults.get(scope)

    def take(self, caller: Caller, scope: Scope, tokens: int = 1) -> Verdict | None:
        """Take `tokens` from the caller's bucket for `scope` if there are as many, and return what the bucket says.

        None means: go on. There is no limit, or the database did not answer within `DEADLINE_SECONDS`. More tokens than
        the limit's `burst` are never granted. Costs one command, and none without a limit. Raises nothing.
        """
        limit = self.of(caller.limits, scope)
        if limit is None:
            return None
        key = bucket_key(caller.tenant_id, caller.key_id, scope.value)
        try:
            # Not find_one_and_update, which could be repeated: the server then keeps an image of each bucket it has
            # answered with, and takes a third longer.
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
                "The database did not answer for a rate limit, so requests go on without: %s", type(error).__name__
            )


def _pipeline(limit: RateLimit, tokens: int) -> list[dict[str, Any]]:
    """Return the update of a bucket: fill it, take from it if there is enough, and say when it may be swept up."""
    milliseconds = {"$subtract": ["$$NOW", {"$ifNull": ["$at", "$$NOW"]}]}
    filled = {"$add": [{"$ifNull": ["$tokens", limit.burst]}, {"$multiply": [limit.rate / 1000, milliseconds]}]}
    lowest = -limit.rate * LARGEST_STEP_BACK_SECONDS
    full_at = {"$add": ["$at", {"$multiply": [{"$subtract": [limit.burst, "$tokens"]}, 1000 / limit.rate]}]}
    return [
        {"$set": {"tokens": {"$max": [lowest, {"$min": [limit.burst, filled]}]}, "at": "$$NOW"}},
        {"$set": {"granted": {"$gte": ["$tokens", tokens]}}},
        {"$set": {"tokens": {"$subtract": ["$tokens", {"$cond": ["$granted", tokens, 0]}]}}},
        # The end of the hour in which it is full: a time that seldom changes is seldom written to the index.
        {"$set": {"expires_at": {"$dateTrunc": {"date": {"$add": [full_at, 3_600_000]}, "unit": "hour"}}}},
    ]


def _verdict(limit: RateLimit, tokens: int, *, granted: bool, level: float) -> Verdict:
    """Return what a bucket says that holds `level` tokens after the answer."""
    return Verdict(
        granted=granted,
        limit=limit,
        left=max(math.floor(level), 0),
        retry_after=0 if granted else max(math.ceil((tokens - level) / limit.rate), 1),
        full_after=max(math.ceil((limit.burst - level) / limit.rate), 0),
    )
