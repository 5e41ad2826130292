"""Token buckets, on a real mongod: its clock fills them, and no race grants a token twice."""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.read_concern import ReadConcern

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.models import Caller, RateLimit, Scope, Verdict, parse_limit
from chat_service.repository.database import Database
from chat_service.repository.limits import DEADLINE_SECONDS, RateLimits

CALLER = Caller("t", "0123456789ab", frozenset(Scope))


def server_time(database: Database) -> datetime:
    local_time: datetime = database.client.admin.command("hello")["localTime"]
    return local_time.replace(tzinfo=UTC)


def stored(database: Database) -> Any:
    """Return the collection for local reads: buckets are not written with a majority."""
    return database.database.get_collection("rate_limits", read_concern=ReadConcern("local"))


def hammer(buckets: list[RateLimits], seconds: float) -> int:
    """Take a token again and again, from a thread for each of `buckets`; return how many were granted."""
    granted = [0] * len(buckets)
    start = threading.Barrier(len(buckets))
    end = time.monotonic() + seconds

    def run(number: int) -> None:
        start.wait()
        while time.monotonic() < end:
            verdict = buckets[number].take(CALLER, Scope.WRITE)
            assert verdict is not None, "the database did not answer"
            granted[number] += verdict.granted

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(buckets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(granted)


@pytest.mark.usefixtures("patient_limits")
@pytest.mark.parametrize("limit", [RateLimit(50, 20), RateLimit(3, 1), RateLimit(400, 5)])
def test_racing_threads_of_two_processes_get_no_more_than_the_bucket_has(
    mongod: EmbeddedMongod, database: Database, limit: RateLimit
) -> None:
    """They get at most burst + rate * time by the server's clock, and there is only one bucket."""
    elsewhere = Database(mongod.uri)
    buckets = [RateLimits(db, {Scope.WRITE: limit}) for db in (database, elsewhere) for _ in range(5)]
    began = server_time(database)
    granted = hammer(buckets, 3.0)
    passed = (server_time(database) - began).total_seconds()
    elsewhere.close()
    assert granted <= limit.burst + limit.rate * passed
    assert granted >= limit.rate * passed / 2, "a stalled machine loses what flows into a full bucket, but not half"
    assert stored(database).count_documents({}) == 1


@pytest.mark.usefixtures("patient_limits")
def test_concurrent_first_requests_share_one_new_bucket(database: Database) -> None:
    """Ten first requests at once create one bucket, not ten full ones, and none of them fails."""
    limits = RateLimits(database, {Scope.WRITE: RateLimit(0.001, 1)})
    for number in range(20):
        caller = Caller("t", str(number), frozenset())
        start = threading.Barrier(10)
        verdicts: list[Verdict | None] = []

        def ask(caller: Caller = caller, start: threading.Barrier = start, received: list = verdicts) -> None:
            start.wait()
            received.append(limits.take(caller, Scope.WRITE))

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [verdict.granted for verdict in verdicts].count(True) == 1


def test_tokens_are_taken_together_or_not_at_all(database: Database) -> None:
    """A refusal takes no token; the verdict says when there will be enough, and when the bucket will be full."""
    limits = RateLimits(database, {Scope.DELETE: RateLimit(0.1, 100)})
    first = limits.take(CALLER, Scope.DELETE, 70)
    assert (first.granted, first.left, first.retry_after) == (True, 30, 0)
    assert 699 <= first.full_after <= 700
    second = limits.take(CALLER, Scope.DELETE, 40)
    assert (second.granted, second.left) == (False, 30)
    assert 99 <= second.retry_after <= 100
    third = limits.take(CALLER, Scope.DELETE, 30)
    assert (third.granted, third.left) == (True, 0)
    never = limits.take(CALLER, Scope.DELETE, 101)
    assert not never.granted


def test_after_retry_after_there_are_enough_tokens(database: Database) -> None:
    """A client that waits for `retry_after` is not refused again."""
    limits = RateLimits(database, {Scope.READ: RateLimit(2, 4)})
    assert limits.take(CALLER, Scope.READ, 4).granted
    refused = limits.take(CALLER, Scope.READ, 2)
    assert (refused.granted, refused.retry_after) == (False, 1)
    time.sleep(refused.retry_after)
    assert limits.take(CALLER, Scope.READ, 2).granted


def test_keys_tenants_and_scopes_have_buckets_of_their_own(database: Database) -> None:
    limits = RateLimits(database, dict.fromkeys(Scope, RateLimit(0.001, 1)))
    callers = [Caller(tenant, key, frozenset()) for tenant in ("t", "u") for key in ("k", "l")]
    pairs = [(caller, scope) for caller in callers for scope in Scope]
    assert all(limits.take(caller, scope).granted for caller, scope in pairs)
    assert not any(limits.take(caller, scope).granted for caller, scope in pairs)


def test_a_changed_limit_applies_from_the_next_request_on(database: Database) -> None:
    """The bucket is cut to the new burst; without a limit there is no verdict."""
    assert RateLimits(database, {Scope.READ: RateLimit(0.001, 100)}).take(CALLER, Scope.READ).left == 99
    assert RateLimits(database, {Scope.READ: RateLimit(0.001, 10)}).take(CALLER, Scope.READ).left == 9
    own = Caller(CALLER.tenant_id, CALLER.key_id, frozenset(), {Scope.READ: RateLimit(0.001, 5)})
    default = RateLimits(database, {Scope.READ: RateLimit(0.001, 10)})
    assert default.take(own, Scope.READ).left == 4
    assert default.take(Caller("t", "k", frozenset(), {Scope.READ: None}), Scope.READ) is None
    assert default.take(own, Scope.WRITE) is None


def test_a_clock_that_steps_back_costs_a_second_of_the_rate(database: Database) -> None:
    """After a failover another server's clock counts: a key need not wait until that clock has caught up."""
    limits = RateLimits(database, {Scope.READ: RateLimit(10, 20)})
    limits.take(CALLER, Scope.READ)
    buckets = stored(database)
    buckets.update_one({}, [{"$set": {"at": {"$add": ["$$NOW", 3_600_000]}}}])
    refused = limits.take(CALLER, Scope.READ)
    assert (refused.granted, refused.left) == (False, 0)
    assert refused.retry_after <= 2
    time.sleep(refused.retry_after)
    assert limits.take(CALLER, Scope.READ).granted


def test_commands_that_overtake_each_other_gain_no_tokens(database: Database) -> None:
    """A command that read the clock earlier but runs later takes back the other's tokens for the time between."""
    limits = RateLimits(database, {Scope.READ: RateLimit(1, 1_000)})
    limits.take(CALLER, Scope.READ, 500)
    buckets = stored(database)
    # As if a command had just run that read the clock 400 ms later, and had got 0.4 tokens for that time.
    ahead = {"$set": {"at": {"$add": ["$at", 400]}, "tokens": {"$add": ["$tokens", 0.4]}}}
    before = buckets.find_one({})
    buckets.update_one({}, [ahead])
    limits.take(CALLER, Scope.READ)
    after = buckets.find_one({})
    passed = (after["at"] - before["at"]).total_seconds()
    assert after["tokens"] == pytest.approx(before["tokens"] + passed - 1, abs=1e-6)


def test_an_idle_bucket_expires_when_it_is_full(database: Database) -> None:
    """It expires within about an hour after that and not before, because a missing bucket counts as full."""
    limits = RateLimits(database, {Scope.READ: RateLimit(0.01, 100)})
    now = server_time(database)
    for _ in range(3):
        limits.take(CALLER, Scope.READ, 30)
    bucket = stored(database).find_one({})
    full_at = now + timedelta(seconds=90 / 0.01)
    assert full_at <= bucket["expires_at"] <= full_at + timedelta(hours=1, seconds=10)
    index = database.database["rate_limits"].index_information()["expires_at_1"]
    assert index["expireAfterSeconds"] == 0


FAULTS = {
    "connection closed": {"closeConnection": True},
    "no answer in time": {"blockConnection": True, "blockTimeMS": 3_000},
    "not primary": {"errorCode": 10107},
    "no right to": {"errorCode": 13},
}


@pytest.mark.parametrize("kind", FAULTS)
def test_it_fails_open(database: Database, failpoint, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each request is allowed without a long wait and is counted, and the log has one line for many."""
    failures: list[None] = []
    limits = RateLimits(database, {Scope.READ: RateLimit(0.001, 1)}, lambda: failures.append(None))
    assert limits.take(CALLER, Scope.READ).granted
    failpoint.arm("findAndModify", **FAULTS[kind])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            began = time.monotonic()
            assert limits.take(CALLER, Scope.READ) is None
            assert time.monotonic() - began < DEADLINE_SECONDS + 1
    assert len(failures) == 3
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("repository.limits")]
    assert len(lines) == 1
    assert "rate limit" in lines[0]
    limits._logged_at -= 3_600
    with caplog.at_level(logging.WARNING):
        limits.take(CALLER, Scope.READ)
    assert len([record for record in caplog.records if record.name.endswith("repository.limits")]) == 2


def test_it_limits_again_when_the_fault_is_over(database: Database, failpoint) -> None:
    limits = RateLimits(database, {Scope.READ: RateLimit(0.001, 1)})
    failpoint.arm("findAndModify", times=1, closeConnection=True)
    assert limits.take(CALLER, Scope.READ) is None
    deadline = time.monotonic() + 5  # the driver first has to find out that the server is available
    while (verdict := limits.take(CALLER, Scope.READ)) is None:
        assert time.monotonic() < deadline
    assert verdict.granted
    assert not limits.take(CALLER, Scope.READ).granted


@pytest.mark.parametrize(
    ("text", "limit"),
    [("off", None), ("100:200", RateLimit(100, 200)), ("0.5:1", RateLimit(0.5, 1)), ("12.345:7", RateLimit(12.345, 7))],
)
def test_a_limit_is_parsed_from_text(text: str, limit: RateLimit | None) -> None:
    """The text of a limit can be parsed again."""
    assert parse_limit(text) == limit
    if limit is not None:
        assert str(limit) == text


@pytest.mark.parametrize(
    "text", ["", "100", "100:", ":5", "0:5", "0.000:5", "5:0", "-1:5", "1e3:5", "1:5:5", "٣:5", "nan:5", "Off", "1:1.5"]
)
def test_an_invalid_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="100:200"):
        parse_limit(text)
