"""The simulation behind docs/scale.md: it runs, its invariants hold, and the page has the tables that it prints."""

import sys
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.scale import (
    INLINE_LIMIT,
    PURGED_A_SECOND,
    Chunks,
    Tenants,
    Zones,
    arrivals,
    capacity,
    collections_of,
    deletes,
    move,
    purge,
    seeded_random,
)

SMALL = ["--tenants", "200", "--deletes", "300", "--seconds", "20"]


@pytest.fixture(scope="module")
def tenants() -> Tenants:
    return Tenants(200, 1.0, seeded_random(1))


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    monkeypatch.setattr(sys, "argv", ["scale", *options])
    scale.main()
    return capsys.readouterr().out


def test_the_same_seed_says_the_same(monkeypatch, capsys) -> None:
    first = printed(monkeypatch, capsys, *SMALL)
    assert first.count("\n| ---") == 4
    assert printed(monkeypatch, capsys, *SMALL) == first
    assert printed(monkeypatch, capsys, *SMALL, "--seed", "2") != first


def test_tenants_share_everything_and_every_place_is_somebodys(tenants: Tenants) -> None:
    assert sum(tenants.shares) == pytest.approx(1)
    assert tenants.shares == sorted(tenants.shares, reverse=True)
    for place in (0.0, 0.3, 0.999999):
        tenant, into = tenants.at(place)
        before = sum(tenants.shares[:tenant])
        assert before + into * tenants.shares[tenant] == pytest.approx(place)


@pytest.mark.parametrize("shards", [2, 8])
def test_with_zones_a_delete_is_on_one_shard(tenants: Tenants, shards: int) -> None:
    """Without zones it is on one shard only if three of its collections happen to be where the fourth is."""
    for zones in (Zones(tenants, shards), Zones(tenants, shards, 20)):
        assert deletes(500, zones, seeded_random(1)) == (0, 1)
    spread = deletes(5_000, Chunks(shards, seeded_random(1)), seeded_random(1))
    assert spread.on_several == pytest.approx(1 - shards**-3, abs=0.1)
    assert 1 < spread.shards <= 4


def test_placing_and_splitting_tenants_evens_the_shards(tenants: Tenants) -> None:
    """The price: the purge of a large chat of a split tenant may be on another shard."""
    plain, placed, split = Zones(tenants, 16), Zones(tenants, 16, 20), Zones(tenants, 16, 20, are_split=True)
    assert plain.imbalance >= placed.imbalance > split.imbalance >= 1
    assert placed.imbalance >= tenants.shares[0] * 16, "no tenant of one piece is on more than one shard"
    assert 0 < deletes(20_000, split, seeded_random(1)).on_several < 0.01
    assert capacity(16, 1, 0) == 2 * capacity(8, 1, 0) == 2 * capacity(16, 2, 0) > capacity(16, 1, 0.5)


def test_a_tenant_that_is_moved_is_on_two_shards_meanwhile() -> None:
    small, large = (move(messages, 2_000, seeded_random(1)) for messages in (1e6, 1e8))
    assert large.seconds == pytest.approx(100 * small.seconds)
    assert large.on_two == small.on_two
    assert 0 < small.on_two < 1


def test_purges_remove_what_came_and_more_workers_leave_less(tenants: Tenants) -> None:
    arriving = list(arrivals(tenants, 300, 60, seeded_random(1)))
    assert all(
        len(collections_of(opened.left)) == 4 and opened.left > INLINE_LIMIT for second in arriving for opened in second
    )
    backlogs = []
    for workers in (1, 2, 4):
        purges, backlog = purge(arriving, workers, more_seconds=10_000)
        assert purges.opened == purges.removed == sum(opened.left for second in arriving for opened in second)
        assert len(purges.waited) == sum(map(len, arriving)), "each ends once"
        assert min(purges.waited) > 0
        assert backlog >= purges.opened - workers * PURGED_A_SECOND * len(arriving), "nobody works faster than a worker"
        backlogs.append(backlog)
    assert backlogs == sorted(backlogs, reverse=True)
    assert backlogs[0] > backlogs[-1]


@pytest.mark.soak
def test_the_page_has_what_it_prints(monkeypatch, capsys, project: Path) -> None:
    """All its tables, as printed with the default options."""
    page = (project / "docs" / "scale.md").read_text()
    rows = [line for line in printed(monkeypatch, capsys).splitlines() if line.startswith("| ")]
    assert [row for row in rows if row not in page] == []
    assert len(rows) > 30
