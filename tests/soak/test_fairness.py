"""The load of one tenant does not keep another tenant from being served."""

import pytest

from tests.soak.fairness import LOADS, Load, probe, two_tenants, under

P99_SECONDS = 0.25
BUSY_SECONDS = 2.0
"""Bound of the median in the quick test, on a machine that may do other things as well."""


@pytest.mark.parametrize("load", [LOADS[1]], ids=lambda load: load.name)
def test_another_tenant_is_served_beside_it(load: Load) -> None:
    """Quick test: no request of the other tenant is refused, and the median does not wait behind all the callers."""
    with two_tenants() as (port, loud, quiet), under(load._replace(callers=16), port, loud):
        latencies = probe(port, quiet, 2.0)
    for kind, latency in latencies.items():
        assert latency.refused == 0, kind
        assert latency.p50 < BUSY_SECONDS, kind


@pytest.mark.soak
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_another_tenant_hardly_notices(load: Load) -> None:
    """Of reads, posts, deletes and live messages 99 in 100 take less than 250 ms, and none is refused."""
    with two_tenants() as (port, loud, quiet), under(load, port, loud):
        latencies = probe(port, quiet, 12.0)
    for kind, latency in latencies.items():
        assert latency.refused == 0, kind
        assert latency.p99 < P99_SECONDS, (kind, latency)
