"""A worker with the default settings uses little memory, whatever clients do and keep open."""

from collections.abc import Iterator

import pytest

from chat_service.repository.database import Database
from tests.soak.memory import CROWDS, Crowd, measure

MOST_MIB = 300

QUICK_MIB = 160
"""Limit of the quick test, with fewer clients: before memory was bounded, they took 896 MiB and 410 MiB."""

QUICK = [CROWDS[0]._replace(clients=6, messages=256), CROWDS[6]._replace(clients=80)]


@pytest.fixture(autouse=True)
def messages_deleted_afterwards(database: Database) -> Iterator[None]:
    yield
    database.messages.delete_many({})


@pytest.mark.parametrize("crowd", QUICK, ids=lambda crowd: crowd.name)
def test_a_small_crowd(database: Database, mongod, tmp_path, crowd: Crowd) -> None:
    """Readers that read nothing and senders without a key hardly raise the worker's memory; others are served."""
    usage = measure(crowd, database, mongod.uri, tmp_path, seconds=6.0, after=0.0)
    assert usage.peak < QUICK_MIB
    assert usage.others


@pytest.mark.soak
@pytest.mark.parametrize("crowd", CROWDS, ids=lambda crowd: crowd.name)
def test_it_stays_small(database: Database, mongod, tmp_path, crowd: Crowd) -> None:
    """The peak stays under 300 MiB, and every request of another tenant is answered."""
    usage = measure(crowd, database, mongod.uri, tmp_path)
    assert usage.peak < MOST_MIB
    assert usage.missed == 0
