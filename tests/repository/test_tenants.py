"""Keys: what is stored of them, and how long a revoked one lives."""

import pytest
from cachetools import TTLCache

from chat_service.errors import InvalidApiKeyError
from chat_service.models import Scope
from chat_service.repository.database import Database
from chat_service.repository.tenant_rules import CACHE_SECONDS, SLOW_LOOKUP_SECONDS
from chat_service.repository.tenants import Tenants


@pytest.fixture
def tenants(either_database: Database) -> Tenants:
    return Tenants(either_database)


def test_a_key_has_256_bits_and_its_own_scopes(tenants: Tenants) -> None:
    tenant = tenants.create("t")
    key, record = tenants.create_key(tenant.id, "", [Scope.READ])
    caller = tenants.authenticate(key)
    assert (caller.tenant_id, caller.key_id, caller.scopes) == (tenant.id, record.id, {Scope.READ})
    assert len({tenants.create_key(tenant.id, "", [])[0] for _ in range(100)}) == 100


def test_a_revoked_key_is_dead_in_other_processes_within_five_seconds(either_database, tenants) -> None:
    """They have it in their cache, which forgets by a clock that this test moves."""
    now = [1_000.0]
    elsewhere = Tenants(either_database)
    elsewhere._callers = TTLCache(10, CACHE_SECONDS, timer=lambda: now[0])
    tenant = tenants.create("t")
    key, record = tenants.create_key(tenant.id, "", [Scope.READ])
    elsewhere.authenticate(key)
    assert tenants.revoke_key(tenant.id, record.id)
    now[0] += CACHE_SECONDS - 0.1
    elsewhere.authenticate(key)  # as it is allowed to, and without asking the database
    now[0] += 0.2
    with pytest.raises(InvalidApiKeyError):
        elsewhere.authenticate(key)
    assert CACHE_SECONDS + SLOW_LOOKUP_SECONDS <= 5


def test_wrong_keys_are_not_kept(tenants: Tenants) -> None:
    """A flood of them must not push good ones out."""
    for number in range(50):
        with pytest.raises(InvalidApiKeyError):
            tenants.authenticate(f"chat_{number}")
    assert len(tenants._callers) == 0
