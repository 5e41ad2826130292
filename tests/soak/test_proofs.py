"""Proofs of a long log."""

import random
import time

import pytest

from chat_service.models import Kind
from chat_service.repository.database import Database
from chat_service.repository.proofs import Proofs
from tests.repository.test_proofs import TENANT, fill, holds
from tests.soak.conftest import number


@pytest.mark.soak
def test_a_proof_at_100_000_entries(database: Database, tell) -> None:
    """Less than 10 ms, in the middle of 1,000 of them."""
    count, proofs = number("SOAK_ENTRIES", 100_000), Proofs(database)
    fill(database, count)
    dice, took = random.Random(18), []
    for _ in range(1_000):
        seq = dice.randint(1, count)
        began = time.perf_counter()
        found = proofs.inclusion(TENANT, f"chat {seq}", Kind.CHAT_DELETED)
        took.append(time.perf_counter() - began)
        assert holds(found)
    took.sort()
    tell(f"a proof at {count:,} entries: p50 {took[500] * 1000:.1f} ms, p99 {took[990] * 1000:.1f} ms")
    assert took[500] < 0.010
