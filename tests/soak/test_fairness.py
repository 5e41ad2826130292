"""One tenant does not take what is others'."""

import pytest

from tests.soak.fairness import LOADS, Load, probe, scene, under

P99_SECONDS = 0.25
BUSY_SECONDS = 2.0
"""In the quick form, on a machine that may do other things as well."""


@pytest.mark.parametrize("load", [LOADS[1]], ids=lambda load: load.name)
def test_another_tenant_is_served_beside_it(load: Load) -> None:
    """Quick: no request of its is refused, and none waits behind the whole crowd."""
    with scene() as (port, loud, quiet), under(load._replace(callers=16), port, loud):
        noticed = probe(port, quiet, 2.0)
    for kind, one in noticed.items():
        assert one.refused == 0, kind
        assert one.p50 < BUSY_SECONDS, kind


@pytest.mark.soak
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_another_tenant_hardly_notices(load: Load) -> None:
    """Of reads, posts and deletes 99 in 100 take less than 250 ms, and none is refused."""
    with scene() as (port, loud, quiet), under(load, port, loud):
        noticed = probe(port, quiet, 12.0)
    for kind, one in noticed.items():
        assert one.refused == 0, kind
        assert one.p99 < P99_SECONDS, (kind, one)
