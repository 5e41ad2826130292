"""Keys: what is stored of them, how long a revoked or expired key still works, and how a key is rotated."""

from datetime import timedelta

import pytest
from cachetools import TTLCache

from chat_service.errors import InvalidApiKeyError
from chat_service.models import Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.tenant_rules import CACHE_SECONDS, SLOW_LOOKUP_SECONDS
from chat_service.repository.tenants import Tenants


@pytest.fixture
def keys(either_database: Database) -> ApiKeys:
    return ApiKeys(either_database)


@pytest.fixture
def tenant_id(either_database: Database) -> str:
    return Tenants(either_database).create("t").id


class Clock:
    """The database's time, which a test can set ahead."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        real = database.now
        self.ahead = timedelta()
        monkeypatch.setattr(database, "now", lambda: real() + self.ahead)


@pytest.fixture
def clock(either_database: Database, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(either_database, monkeypatch)


def test_a_key_has_256_bits_and_its_own_scopes(keys: ApiKeys, tenant_id: str) -> None:
    key, record = keys.create(tenant_id, "", [Scope.READ])
    caller = keys.authenticate(key)
    assert (caller.tenant_id, caller.key_id, caller.scopes) == (tenant_id, record.id, {Scope.READ})
    assert len({keys.create(tenant_id, "", [])[0] for _ in range(100)}) == 100


def test_a_revoked_key_ends_in_other_processes_within_five_seconds(either_database, keys, tenant_id) -> None:
    """They have the key in their cache, whose clock this test moves."""
    now = [1_000.0]
    elsewhere = ApiKeys(either_database)
    elsewhere._callers = TTLCache(10, CACHE_SECONDS, timer=lambda: now[0])
    key, record = keys.create(tenant_id, "", [Scope.READ])
    elsewhere.authenticate(key)
    assert keys.revoke(tenant_id, record.id)
    now[0] += CACHE_SECONDS - 0.1
    elsewhere.authenticate(key)  # still from the cache
    now[0] += 0.2
    with pytest.raises(InvalidApiKeyError):
        elsewhere.authenticate(key)
    assert CACHE_SECONDS + SLOW_LOOKUP_SECONDS <= 5


def test_wrong_keys_are_not_kept(keys: ApiKeys) -> None:
    """Wrong keys are not cached, so that a flood of them evicts no valid key."""
    for number in range(50):
        with pytest.raises(InvalidApiKeyError):
            keys.authenticate(f"chat_{number}")
    assert len(keys._callers) == 0


class TestExpiry:
    def test_an_expired_key_is_refused_although_it_is_cached(self, keys, tenant_id, clock: Clock) -> None:
        key, record = keys.create(tenant_id, "", [Scope.READ], life=timedelta(days=90))
        caller = keys.authenticate(key)
        assert record.expires_at is not None
        assert caller.expires_at == record.expires_at
        clock.ahead = record.expires_at - keys._database.now() - timedelta(seconds=1)
        assert keys.recall(key)[0] is not None
        assert keys.ended([record.id]) == set()
        clock.ahead += timedelta(seconds=1.1)
        assert keys.recall(key)[0] is None
        with pytest.raises(InvalidApiKeyError) as refusal:
            keys.authenticate(key)
        assert refusal.value.expired_at == record.expires_at
        with pytest.raises(InvalidApiKeyError):
            keys.current(caller)
        with pytest.raises(InvalidApiKeyError):
            keys.get(tenant_id, record.id)
        assert keys.ended([record.id]) == {record.id}

    def test_none_of_no_keys_has_ended(self, keys: ApiKeys) -> None:
        assert keys.ended([]) == set()


class TestRotation:
    def test_both_keys_work_during_the_overlap(self, keys, tenant_id, clock: Clock) -> None:
        old, record = keys.create(tenant_id, "back end", [Scope.READ, Scope.GOVERN])
        new, made, last = keys.rotate(tenant_id, record.id, timedelta(hours=48))
        assert (made.label, made.scopes, made.expires_at) == ("back end", record.scopes, None)
        assert keys.authenticate(old).key_id == record.id
        assert keys.authenticate(new).key_id == made.id
        clock.ahead = last - keys._database.now() + timedelta(milliseconds=10)
        with pytest.raises(InvalidApiKeyError):
            keys.authenticate(old)
        assert keys.authenticate(new).key_id == made.id

    def test_the_new_key_has_the_same_lifetime_and_the_old_one_is_not_extended(
        self, keys, tenant_id, clock: Clock
    ) -> None:
        record = keys.create(tenant_id, "", [], life=timedelta(days=90))[1]
        clock.ahead = timedelta(days=89)
        made, last = keys.rotate(tenant_id, record.id, timedelta(days=7))[1:]
        assert last == record.expires_at
        assert made.expires_at - made.created_at == timedelta(days=90)

    def test_a_key_that_has_ended_is_not_rotated(self, keys, tenant_id, clock: Clock) -> None:
        revoked = keys.create(tenant_id, "", [])[1]
        keys.revoke(tenant_id, revoked.id)
        expired = keys.create(tenant_id, "", [], life=timedelta(hours=1))[1]
        clock.ahead = timedelta(hours=1)
        other = keys.create(tenant_id, "", [])[1]
        for tenant, key_id in [(tenant_id, id_) for id_ in (revoked.id, expired.id, ".*")] + [("another", other.id)]:
            with pytest.raises(LookupError):
                keys.rotate(tenant, key_id, timedelta())
        assert len(keys.list(tenant_id)) == 3


class TestUse:
    def test_the_day_of_the_last_use_is_stored_once_a_day(self, keys, tenant_id, clock: Clock) -> None:
        key, record = keys.create(tenant_id, "", [])
        assert record.last_used_on is None
        today = keys._database.now().date()
        keys.authenticate(key)
        assert keys.list(tenant_id)[0].last_used_on == today
        clock.ahead = timedelta(days=1)
        keys.authenticate(key)  # from the cache, without a command
        assert keys.list(tenant_id)[0].last_used_on == today
        keys._callers.clear()
        keys.authenticate(key)
        assert keys.list(tenant_id)[0].last_used_on == today + timedelta(days=1)

    def test_a_process_whose_clock_is_behind_does_not_set_it_back(self, keys, tenant_id, clock: Clock) -> None:
        key = keys.create(tenant_id, "", [])[0]
        keys.authenticate(key)
        clock.ahead = timedelta(days=-1)
        keys._callers.clear()
        keys.authenticate(key)
        assert keys.list(tenant_id)[0].last_used_on == (keys._database.now() - clock.ahead).date()
