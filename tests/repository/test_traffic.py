"""Who works on many chats steps aside for others, and is not taken for others itself."""

import pytest

from chat_service.models import Deletion
from chat_service.repository import bulk, traffic
from chat_service.repository.bulk import GROUP_CHATS, POLITE_CHATS, BulkDeletions
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.traffic import OTHERS_PER_SECOND, Traffic

SECONDS = 0.1


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "LOOK_SECONDS", 0.0)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the groups that bulk deletes have made."""
    sizes: list[int] = []
    delete_group = BulkDeletions._delete_group

    def noting(self: BulkDeletions, tenant_id: str, group: list[str], *more: str) -> object:
        sizes.append(len(group))
        return delete_group(self, tenant_id, group, *more)

    monkeypatch.setattr(BulkDeletions, "_delete_group", noting)
    return sizes


def read(chats: Chats, chat_id: str, seconds: float = SECONDS) -> None:
    """Read more often than nobody would."""
    for _ in range(int(OTHERS_PER_SECOND * seconds) + 20):
        chats.get("tenant", chat_id)


def test_others_are_seen_while_they_are_there(database: Database, chats: Chats) -> None:
    """From the second look on, and no longer than until the next."""
    chat_id = chats.create("tenant", None, {}).id
    seen = Traffic(database)
    assert not seen.is_busy(), "there is nothing to compare with yet"
    read(chats, chat_id)
    assert seen.is_busy()
    assert not seen.is_busy()


def test_a_bulk_delete_does_not_step_aside_for_itself(database: Database, chats: Chats, groups: list[int]) -> None:
    """On a quiet database its groups are large from the first to the last, however often it looks."""
    deletions = BulkDeletions(database)
    for _ in range(2):
        chat_ids = [chats.create("tenant", None, {}).id for _ in range(4 * GROUP_CHATS)]
        deletions._traffic = Traffic(database)  # one that has not seen them being made
        told = deletions.delete("tenant", chat_ids, "key", None, dict)
        assert all(isinstance(outcome, Deletion) for outcome in told.values())
    assert groups == [GROUP_CHATS] * 8


def test_a_bulk_delete_steps_aside_for_others(
    database: Database, chats: Chats, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small groups while they are there; but not for longer than it can afford."""
    deletions = BulkDeletions(database)
    chat_ids = [chats.create("tenant", None, {}).id for _ in range(10 * POLITE_CHATS)]
    monkeypatch.setattr(deletions._traffic, "is_busy", lambda: True)
    deletions.delete("tenant", chat_ids, "key", None, dict)
    assert groups == [POLITE_CHATS] * 10
    monkeypatch.setattr(bulk, "POLITE_SECONDS", 0.0)
    groups.clear()
    deletions.delete("tenant", chat_ids, "key", None, dict)
    assert groups[:-1] == [GROUP_CHATS] * (len(chat_ids) // GROUP_CHATS)
