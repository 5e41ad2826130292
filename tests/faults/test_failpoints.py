"""Every transaction of the service, with every kind of fault at each of its commands.

Each time, the operation ends in bounded time, and its outcome is true: "done" means done, "unavailable" means that
nothing was changed, and "unknown" means one of these two. `check` finds nothing, and 3 s later nothing is locked.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import pymongo
import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.errors import (
    ActiveConnectionsError,
    ChatNotFoundError,
    ChatServiceError,
    DatabaseUnavailableError,
    DeletionNotFoundError,
    OutcomeUnknownError,
)
from chat_service.models import Deletion, NewMessage, Role, Span
from chat_service.repository.bulk import Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.lifecycle import Removal
from chat_service.repository.messages import Messages
from chat_service.repository.presence import Presence
from chat_service.repository.receipts import Receipts
from chat_service.repository.transaction import TransactionRunner
from chat_service.repository.trash import Trash
from tests.purging import purge_all
from tests.wait import PATIENCE

TENANT = "t"
CHAT = "c0ffee00-1111-4222-8333-444444444444"

TOTAL_SECONDS, ATTEMPT_SECONDS = 4.0, 1.5
"""The runner's deadlines for all attempts and for each attempt, in place of 12 s and 4 s."""

BOUND_SECONDS = (TOTAL_SECONDS + ATTEMPT_SECONDS + 1.0 + 2.0) * PATIENCE
"""The longest time of an operation: all attempts, a last attempt, an abort, and the read that settles an outcome."""

FREE_SECONDS = 3.0 * PATIENCE
"""How long after a fault a chat may still be locked; a killed session releases its locks."""

TRANSIENT = ["TransientTransactionError"]

FAULTS: dict[str, dict[str, Any]] = {
    "write conflict": {"errorCode": 112, "errorLabels": TRANSIENT},
    "not primary": {"errorCode": 10107},
    "shutting down": {"errorCode": 91},
    "connection closed": {"closeConnection": True},
    "no answer in time": {"blockConnection": True, "blockTimeMS": int(ATTEMPT_SECONDS * 1000) + 150},
    "a refusal without a label": {"errorCode": 8000},
}

COMMIT_FAULTS: dict[str, dict[str, Any]] = {
    "unknown result": {"errorCode": 50, "errorLabels": ["UnknownTransactionCommitResult"]},
    "done, but not confirmed": {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    "done, but stepping down": {"writeConcernError": {"code": 91, "errmsg": "Replication is being shut down"}},
}

State = dict[str, Any]
"""What callers can see of the chat: whether it exists, its messages, count, receipt and leases; and the events that the
log will get about it."""


class Operation(NamedTuple):
    """An operation of the service, the commands of its transaction, and what holds when it is done."""

    commands: list[str]
    run: Callable[[Database], object]
    is_done: Callable[[State], bool]
    messages: int = 3
    is_trashed: bool = False
    """Whether the chat is in the trash before the operation."""
    events: int = 0
    """How many events the operation puts into the outbox."""


def _delete(database: Database, limit: int = 1_000) -> object:
    return Deletions(database, limit).delete(TENANT, CHAT, "key")


def _delete_in_bulk(database: Database) -> object:
    outcome = Bulk(database, Deletions(database)).remove(TENANT, [CHAT], "key")[CHAT]
    if isinstance(outcome, ChatServiceError):
        raise outcome
    return outcome


def _trash(database: Database) -> object:
    return Deletions(database).move_to_trash(TENANT, CHAT, "key", timedelta(days=1))


def _restore(database: Database) -> object:
    return Trash(database).restore(TENANT, CHAT, "key")


def _restore_in_bulk(database: Database) -> object:
    outcome = Bulk(database, Deletions(database)).restore(TENANT, [CHAT], "key")[CHAT]
    if isinstance(outcome, ChatServiceError):
        raise outcome
    return outcome


def _is_back(state: State) -> bool:
    return state["chat"] and not state["trashed"] and state["messages"] == 3


def _post(database: Database) -> object:
    return Messages(database).append(TENANT, CHAT, [NewMessage(Role.USER, "new", None, {})] * 2)


def _is_gone(state: State) -> bool:
    return not state["chat"] and bool(state["receipt"]) and not state["leases"]


OPERATIONS: dict[str, Operation] = {
    "delete": Operation(["find", "findAndModify", "delete", "insert", "commitTransaction"], _delete, _is_gone),
    "staged delete": Operation(
        ["find", "findAndModify", "insert", "commitTransaction"], partial(_delete, limit=1), _is_gone
    ),
    "bulk delete": Operation(["find", "delete", "insert", "commitTransaction"], _delete_in_bulk, _is_gone),
    "trash": Operation(
        ["find", "findAndModify", "insert", "commitTransaction"],
        _trash,
        lambda state: state["trashed"] and not state["chat"] and not state["receipt"],
        events=1,
    ),
    "restore": Operation(
        ["find", "delete", "insert", "commitTransaction"], _restore, _is_back, is_trashed=True, events=1
    ),
    "bulk restore": Operation(["delete", "commitTransaction"], _restore_in_bulk, _is_back, is_trashed=True, events=1),
    "delete out of the trash": Operation(
        ["find", "findAndModify", "delete", "insert", "commitTransaction"], _delete, _is_gone, is_trashed=True
    ),
    "post": Operation(["findAndModify", "insert", "commitTransaction"], _post, lambda state: state["messages"] == 5),
    "edit": Operation(
        ["find", "findAndModify", "insert", "commitTransaction"],
        lambda database: Messages(database).edit(TENANT, CHAT, 2, {"content": "edited"}, "key"),
        lambda state: "edited" in state["contents"],
        events=1,
    ),
    "delete a message": Operation(
        ["find", "findAndModify", "insert", "delete", "commitTransaction"],
        lambda database: Messages(database).delete(TENANT, CHAT, 2, "key"),
        lambda state: state["messages"] == 2,
        events=1,
    ),
    "empty": Operation(
        ["find", "update", "insert", "delete", "commitTransaction"],
        lambda database: Messages(database).clear(TENANT, CHAT, "key"),
        lambda state: state["chat"] and state["messages"] == 0,
        events=1,
    ),
    "create": Operation(
        ["find", "insert", "commitTransaction"],
        lambda database: Chats(database).create(TENANT, "made", {}, CHAT),
        lambda state: state["chat"],
        messages=-1,
    ),
    "connect": Operation(
        ["update", "insert", "commitTransaction"],
        lambda database: Presence(database).open(TENANT, CHAT, "connection", "worker"),
        lambda state: state["leases"] == 1,
    ),
}

Scenario = tuple[str, str, str, int | None]
"""The operation, the command that fails, how it fails, and how many times (None: always)."""

SCENARIOS: list[Scenario] = [
    (name, command, fault, times)
    for name, operation in OPERATIONS.items()
    for command in operation.commands
    for fault in {**FAULTS, **(COMMIT_FAULTS if command == "commitTransaction" else {})}
    for times in (1, 2, None)
]


SLOW = {"no answer in time", "shutting down", "done, but stepping down"}
"""Faults that cost the time of one attempt, or the wait for the driver's next check of the topology (every 2 s)."""


def _is_quick(scenario: Scenario) -> bool:
    """Return whether a scenario hardly waits, or is one of some slow deletes; `make soak` runs the others too."""
    name, _, fault, times = scenario
    return times == 1 and (fault not in SLOW or (name == "delete" and fault == "no answer in time"))


PARAMETERS = [
    pytest.param(
        *scenario,
        marks=[] if _is_quick(scenario) else [pytest.mark.soak],
        id="{}, {}: {} x {}".format(*scenario[:3], scenario[3] or "ever"),
    )
    for scenario in SCENARIOS
]


@pytest.fixture(scope="module")
def hasty_database(mongod: EmbeddedMongod) -> Iterator[Database]:
    """A database whose transactions have short deadlines."""
    runner = partial(TransactionRunner, total_seconds=TOTAL_SECONDS, attempt_seconds=ATTEMPT_SECONDS)
    database = Database(mongod.uri, runner=runner)
    yield database
    database.close()


def prepare(database: Database, operation: Operation) -> None:
    if operation.messages < 0:
        return
    Chats(database).create(TENANT, None, {}, CHAT)
    Messages(database).append(TENANT, CHAT, [NewMessage(Role.USER, "old", None, {})] * operation.messages)
    if operation.is_trashed:
        _trash(database)


def visible_state(database: Database) -> State:
    """Return what callers can see of the chat."""
    try:
        chat = Chats(database).get(TENANT, CHAT)
        messages = Messages(database).page(TENANT, CHAT, Span(), 100)
    except ChatNotFoundError:
        chat, messages = None, []
    try:
        receipt = Receipts(database).get(TENANT, CHAT).message_count
    except DeletionNotFoundError:
        receipt = None
    return {
        "chat": chat is not None,
        "count": chat.message_count if chat else 0,
        "messages": len(messages),
        "contents": [message.content for message in messages],
        "receipt": receipt is not None,
        "trashed": database.trash.count_documents({}) == 1,
        "leases": Presence(database).count(database.unbound(), TENANT, CHAT).live,
        "events": database.outbox.count_documents({}),
    }


@pytest.mark.parametrize(("name", "command", "fault", "times"), PARAMETERS)
def test_every_outcome_is_honest(failpoint, database, hasty_database, name, command, fault, times) -> None:
    """The chat is as the outcome says: done, or unchanged, or, if it is unknown, one of these two."""
    operation = OPERATIONS[name]
    prepare(database, operation)
    before = visible_state(database)
    hasty_database.rules.learn(TENANT)
    failpoint.arm(command, times=times, **{**FAULTS, **COMMIT_FAULTS}[fault])
    began = time.monotonic()
    try:
        outcome: object = operation.run(hasty_database)
    except (DatabaseUnavailableError, OutcomeUnknownError, pymongo.errors.PyMongoError) as error:
        outcome = error
    took = time.monotonic() - began
    failpoint.disarm()

    assert took < BOUND_SECONDS
    after = visible_state(database)
    assert after["count"] == after["messages"]
    if isinstance(outcome, OutcomeUnknownError):
        assert command == "commitTransaction"
        assert operation.is_done(after) or after == before
    elif isinstance(outcome, Exception):
        assert after == before
    else:
        assert operation.is_done(after)
    if after != before:
        assert after["events"] == before["events"] + operation.events, "told if and only if it is committed"
    if times == 1 and fault != "a refusal without a label":
        assert not isinstance(outcome, Exception), "one fault is not to be seen from outside"
    assert_nothing_is_locked(database)
    purge_all(database)
    assert list(Checks(database).run()) == []


GROUP_COMMANDS = ["find", "delete", "insert", "commitTransaction"]


def _is_quick_group(size: int, fault: str, times: int | None) -> bool:
    return size == 8 and ((times == 1 and fault not in SLOW) or (times is None and fault == "done, but not confirmed"))


GROUP_PARAMETERS = [
    pytest.param(
        size,
        command,
        fault,
        times,
        marks=[] if _is_quick_group(size, fault, times) else [pytest.mark.soak],
        id=f"{size} chats, {command}: {fault} x {times or 'ever'}",
    )
    for size in (2, 8)
    for command in GROUP_COMMANDS
    for fault in {**FAULTS, **(COMMIT_FAULTS if command == "commitTransaction" else {})}
    for times in (1, 2, None)
]


@pytest.mark.parametrize(("size", "command", "fault", "times"), GROUP_PARAMETERS)
def test_each_of_a_group_hears_what_became_of_its_own(
    failpoint, database, hasty_database, size, command, fault, times
) -> None:
    """Deletes that share a transaction: each outcome is true for its own chat, and the chat with a connection stays."""
    chats, presence = Chats(database), Presence(database)
    ids = [chats.create(TENANT, None, {}).id for _ in range(size)]
    for chat_id in ids:
        Messages(database).append(TENANT, chat_id, [NewMessage(Role.USER, "old", None, {})] * 3)
    presence.open(TENANT, ids[0], "connection", "worker")
    # A fault that ends by itself gets the usual deadlines, because the machine may be busy.
    deleting_database = hasty_database if times is None else database
    deleting_database.rules.learn(TENANT)
    failpoint.arm(command, times=times, **{**FAULTS, **COMMIT_FAULTS}[fault])
    outcomes = Deletions(deleting_database).remove_together(TENANT, [Removal(chat_id, "key") for chat_id in ids])
    failpoint.disarm()

    remaining_ids = {chat.id for chat in chats.page(TENANT, 100, None)}
    assert ids[0] in remaining_ids
    assert isinstance(outcomes[0], ActiveConnectionsError | DatabaseUnavailableError | OutcomeUnknownError)
    for chat_id, outcome in list(zip(ids, outcomes, strict=True))[1:]:
        if isinstance(outcome, OutcomeUnknownError):
            assert command == "commitTransaction"
        else:
            assert isinstance(outcome, Deletion) == (chat_id not in remaining_ids)
    if "done" in fault or (times == 1 and fault != "a refusal without a label"):
        assert all(isinstance(outcome, Deletion) for outcome in outcomes[1:]), "each is settled by its own receipt"
    presence.close_worker("worker")
    assert list(Checks(database).run()) == []


def assert_nothing_is_locked(database: Database) -> None:
    """Close the chat's connections and delete it; fail if that takes longer than `FREE_SECONDS`."""
    began = time.monotonic()
    Presence(database).clear(database.unbound(), TENANT, [CHAT])
    with suppress(ChatNotFoundError):
        Deletions(database).delete(TENANT, CHAT, "key")
    assert time.monotonic() - began < FREE_SECONDS


def test_there_are_more_than_a_hundred_scenarios() -> None:
    assert sum(map(_is_quick, SCENARIOS)) > 100
