"""Exports that take longer than the server keeps their snapshot."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from chat_service.errors import ExportEndedError, ExportOutdatedError
from chat_service.models import Caller, NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.exports import SNAPSHOT_TOO_OLD, Exports
from chat_service.repository.messages import Messages
from tests.purging import purge_all
from tests.wait import wait_until

CALLER = Caller("t" * 36, "key", frozenset())
MESSAGES = 3_000
WINDOW = "minSnapshotHistoryWindowInSeconds"


@pytest.fixture
def short_past(database: Database) -> Iterator[None]:
    admin = database.client.admin
    before = admin.command("getParameter", 1, **{WINDOW: 1})[WINDOW]
    admin.command("setParameter", 1, **{WINDOW: 0})
    yield
    admin.command("setParameter", 1, **{WINDOW: before})


@pytest.fixture
def chat_id(database: Database) -> str:
    chat_id = Chats(database).create(CALLER.tenant_id, None, {}).id
    for _ in range(MESSAGES // 1_000):
        Messages(database).append(CALLER.tenant_id, chat_id, [NewMessage(Role.USER, "x" * 200, None, {})] * 1_000)
    return chat_id


def outlive(database: Database) -> None:
    """Wait until the server can no longer read the snapshot of now."""
    with database.client.start_session(snapshot=True) as session:
        database.database.chats.find_one({}, session=session)

        def is_too_old() -> bool:
            database.database.tenants.update_one({"_id": "clock"}, {"$inc": {"ticks": 1}}, upsert=True)
            try:
                database.database.chats.find_one({}, session=session)
            except OperationFailure as error:
                return error.code == SNAPSHOT_TOO_OLD
            return False

        wait_until(is_too_old, 30)


def purge(database: Database) -> None:
    purge_all(database)


def exported(database: Database, chat_id: str, change: Callable[[], object]) -> list[dict[str, Any]]:
    """Export the chat, with a change after the first batch, and return all rows."""
    with Exports(database).open(CALLER, chat_id) as (_, batches):
        rows = next(batches)
        change()
        outlive(database)
        return [*rows, *(row for batch in batches for row in batch)]


@pytest.mark.usefixtures("short_past")
def test_a_slow_reader_gets_the_chat_as_it_was(database: Database, chat_id: str) -> None:
    """The export has no later message; a message that was already sent may be edited."""

    def change() -> None:
        Messages(database).append(CALLER.tenant_id, chat_id, [NewMessage(Role.USER, "later", None, {})])
        Messages(database).edit(CALLER.tenant_id, chat_id, 1, {"content": "sent before"}, "key")

    rows = exported(database, chat_id, change)
    assert [row["seq"] for row in rows] == list(range(1, MESSAGES + 1))
    assert rows[0]["content"] != "sent before"


@pytest.mark.usefixtures("short_past")
@pytest.mark.parametrize(
    "change",
    [
        lambda database, chat_id: Messages(database).edit(
            CALLER.tenant_id, chat_id, MESSAGES, {"content": "edited"}, "key"
        ),
        lambda database, chat_id: Messages(database).delete(CALLER.tenant_id, chat_id, MESSAGES, "key"),
        lambda database, chat_id: [Messages(database).clear(CALLER.tenant_id, chat_id, "key"), purge(database)],
    ],
    ids=["edited", "removed", "emptied"],
)
def test_a_change_of_an_unsent_message_ends_the_export(database: Database, chat_id: str, change: Any) -> None:
    """The export raises rather than show a state that never was."""
    with pytest.raises(ExportOutdatedError):
        exported(database, chat_id, lambda: change(database, chat_id))


@pytest.mark.usefixtures("short_past")
def test_a_delete_ends_the_export(database: Database, chat_id: str) -> None:
    with pytest.raises(ExportEndedError):
        exported(database, chat_id, lambda: Deletions(database).delete(CALLER.tenant_id, chat_id, "key"))
