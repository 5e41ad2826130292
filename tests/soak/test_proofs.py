"""Proofs from a long log."""

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
    """Of 1,000 proofs each holds, and the median takes less than 10 ms."""
    count, proofs = number("SOAK_ENTRIES", 100_000), Proofs(database)
    fill(database, count)
    rng, durations = random.Random(18), []
    for _ in range(1_000):
        seq = rng.randint(1, count)
        began = time.perf_counter()
        proof = proofs.inclusion(TENANT, f"chat {seq}", Kind.CHAT_DELETED)
        durations.append(time.perf_counter() - began)
        assert holds(proof)
    durations.sort()
    tell(f"a proof at {count:,} entries: p50 {durations[500] * 1000:.1f} ms, p99 {durations[990] * 1000:.1f} ms")
    assert durations[500] < 0.010
