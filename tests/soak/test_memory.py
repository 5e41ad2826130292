"""A worker of the default settings stays small, whoever calls and whatever they hold on to."""

from collections.abc import Iterator

import pytest

from chat_service.repository.database import Database
from tests.soak.memory import CROWDS, Crowd, measure

MOST_MIB = 300

QUICK_MIB = 160
"""In the quick form, with fewer clients: before anything was bounded they took 896 MiB and 410."""

QUICK = [CROWDS[0]._replace(clients=6, messages=256), CROWDS[6]._replace(clients=80)]


@pytest.fixture(autouse=True)
def without_what_it_stored(database: Database) -> Iterator[None]:
    yield
    database.messages.delete_many({})


@pytest.mark.parametrize("crowd", QUICK, ids=lambda crowd: crowd.name)
def test_a_small_crowd(database: Database, mongod, tmp_path, crowd: Crowd) -> None:
    """Readers that read nothing and senders without a key leave the worker about as it was; others are served."""
    usage = measure(crowd, database, mongod.uri, tmp_path, seconds=6.0, after=0.0)
    assert usage.peak < QUICK_MIB
    assert usage.others


@pytest.mark.soak
@pytest.mark.parametrize("crowd", CROWDS, ids=lambda crowd: crowd.name)
def test_it_stays_small(database: Database, mongod, tmp_path, crowd: Crowd) -> None:
    """Under 300 MB at the most, and another tenant is answered all the while."""
    usage = measure(crowd, database, mongod.uri, tmp_path)
    assert usage.peak < MOST_MIB
    assert usage.missed == 0
