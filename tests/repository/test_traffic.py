"""Work on many chats pauses for the requests of others, and is not mistaken for such requests itself."""

import time

import pytest

from chat_service.models import Deletion
from chat_service.repository import bulk, traffic
from chat_service.repository.bulk import GROUP_CHATS, Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.traffic import Traffic


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "LOOK_SECONDS", 0.0)
    # On a busy machine the reads of a test may take long.
    monkeypatch.setattr(traffic, "RECENT_SECONDS", 60.0)
    monkeypatch.setattr(traffic, "OTHERS_PER_SECOND", 0.1)


def read(chats: Chats, chat_id: str) -> None:
    for _ in range(20):
        chats.get("tenant", chat_id)


def test_others_are_seen_while_they_are_there(database: Database, chats: Chats) -> None:
    """Others' operations are seen from the second look on, and only until the next look."""
    chat_id = chats.create("tenant", None, {}).id
    seen = Traffic(database)
    assert not seen.look_for_others(), "the first look has nothing to compare with"
    read(chats, chat_id)
    assert seen.look_for_others()
    assert not seen.look_for_others()


def test_old_operations_are_no_traffic(database: Database, chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pauses for requests that ended long ago."""
    monkeypatch.setattr(traffic, "RECENT_SECONDS", 0.0)
    chat_id = chats.create("tenant", None, {}).id
    seen = Traffic(database)
    seen.look_for_others()
    read(chats, chat_id)
    assert not seen.look_for_others()


class Clock:
    """The real time, with a sleep that only records its duration."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.rests: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(traffic, "time", made)
    return made


def test_a_bulk_delete_does_not_step_aside_for_itself(database: Database, chats: Chats, clock: Clock) -> None:
    """On an idle database it never rests, however often it looks."""
    chat_ids = [chats.create("tenant", None, {}).id for _ in range(8 * GROUP_CHATS)]
    outcomes = Bulk(database, Deletions(database)).remove("tenant", chat_ids, "key")
    assert all(isinstance(outcome, Deletion) for outcome in outcomes.values())
    assert clock.rests == []


def test_a_bulk_delete_steps_aside_for_others(
    database: Database, chats: Chats, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests after each group but the last, until it has run for POLITE_SECONDS."""
    deletions = Bulk(database, Deletions(database))
    chat_ids = [chats.create("tenant", None, {}).id for _ in range(4 * GROUP_CHATS)]
    monkeypatch.setattr(deletions._traffic, "look_for_others", lambda: True)
    deletions.remove("tenant", chat_ids, "key")
    assert len(clock.rests) == 3
    assert all(rest > 0 for rest in clock.rests)
    monkeypatch.setattr(bulk, "POLITE_SECONDS", 0.0)
    deletions.remove("tenant", chat_ids, "key")
    assert len(clock.rests) == 3
