"""Holds that race with everything that destroys, from several processes: exactly one of the two happens."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.models import NewMessage, RetentionAction, Role
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.holds import Holds
from chat_service.repository.keys import chat_key
from chat_service.repository.messages import Messages
from chat_service.repository.retention import RetentionPolicies
from chat_service.repository.tenants import Tenants
from tests.purging import purge_all
from tests.races.contenders import CHANGES, DELETES, HELD, TENANT, Seen, contents, play
from tests.soak.conftest import number
from tests.wait import wait_until

MANY = pytest.param(number("SOAK_HOLD_ROUNDS", 5_000), marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])

TEXTS = ("one", "two", "three")


@pytest.mark.parametrize("rounds", [40, MANY])
@pytest.mark.parametrize("inline_limit", [1_000, 0], ids=["inline", "staged"])
def test_held_chats_are_not_destroyed(
    mongod: EmbeddedMongod, database: Database, rounds: int, inline_limit: int
) -> None:
    """A chat is never both held and deleted, and nothing of a held chat changes any more."""
    Tenants(database).create("t", TENANT)
    RetentionPolicies(database, Deletions(database)).put(TENANT, 5, RetentionAction.DELETE, 100_000, "key")
    database.tenants.update_one({"_id": TENANT}, {"$set": {"retention.active_from": database.now()}})
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    chats, messages = Chats(database), Messages(database)
    chat_ids = [chats.create(TENANT, None, {}).id for _ in range(rounds)]
    for chat_id in chat_ids:
        # Each chat has its own sender, so that an erasure affects only this round.
        messages.append(TENANT, chat_id, [NewMessage(Role.USER, text, chat_id, {}) for text in TEXTS])
    actions = [action for contender in play(mongod.uri, chat_ids, seed, inline_limit) for action in contender]
    by_chat: dict[str, list[Seen]] = {chat_id: [] for chat_id in chat_ids}
    for action in actions:
        by_chat[action.chat_id].append(action)
    outcomes = Counter((action.did, action.outcome) for action in actions)
    print(sorted(outcomes.items()))  # noqa: T201 - shown when it fails
    for chat_id, actions_on_chat in by_chat.items():
        check(database, chat_id, actions_on_chat)
    assert list(Checks(database).run()) == []
    purge_all(database)
    assert list(Checks(database).run()) == []
    assert outcomes[HELD, "done"] > rounds / 20, "holds came first"
    assert outcomes[HELD, "UnknownChatsError"] > rounds / 20, "deletes came first"
    refused = sum(count for (_, outcome), count in outcomes.items() if outcome == "LegalHoldError")
    assert refused > rounds / 10, "deletes were refused"
    assert sum(outcomes[did, "done"] for did in CHANGES) > 0
    assert {outcome for _, outcome in outcomes} <= {
        "done",
        "nothing",
        "UnknownChatsError",
        "LegalHoldError",
        "ChatNotFoundError",
        "MessageNotFoundError",
        "PreconditionFailedError",
    }


def check(database: Database, chat_id: str, actions: list[Seen]) -> None:
    """Require that the chat was held and is unchanged, or that it was not held and is gone."""
    (hold,) = [action for action in actions if action.did == HELD]
    deletes = [action for action in actions if action.did in DELETES and action.outcome == "done"]
    assert len(deletes) <= 1, actions
    if any(delete.did == "delete_in_grace" for delete in deletes) and hold.outcome == "done":
        deletes = []  # the hold may come after the delete: a chat deleted in grace is kept for a while
    key = {"_id": chat_key(TENANT, chat_id)}
    if hold.outcome == "done":
        assert not deletes, actions
        assert database.deletions.find_one(key) is None, actions
        assert contents(database, chat_id) == hold.contents, actions
    else:
        deleted = database.deletions.find_one(key) or database.trash.find_one(key)
        expired = database.chats.find_one({**key, "expires_at": {"$lte": database.now()}})
        assert deleted or expired, actions


LONGEST_SECONDS = 30.0
STOPPED_SECONDS = 20.0

NAMES = ("running", "stopped")


def test_a_hold_on_all_chats_holds_from_its_active_from(mongod: EmbeddedMongod, database: Database) -> None:
    """Every process keeps it, also one that has just read the rules, or that was stopped in the meantime."""
    Tenants(database).create("t", TENANT)
    command = [sys.executable, "-m", "tests.races.deleter", mongod.uri, str(LONGEST_SECONDS)]
    with ExitStack() as stack:
        inserts = [{"$match": {"operationType": "insert"}}]
        stream = stack.enter_context(database.deletions.watch(inserts, max_await_time_ms=1_000))
        running, stopped = (
            stack.enter_context(subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True)) for name in NAMES
        )
        wait_until(lambda: all(database.deletions.count_documents({"requested_by": name}) > 20 for name in NAMES), 60)
        stopped.send_signal(signal.SIGSTOP)
        hold = Holds(database).place(TENANT, "n", None, "key")
        time.sleep(STOPPED_SECONDS)
        stopped.send_signal(signal.SIGCONT)
        outputs = [process.communicate(timeout=120)[0].split() for process in (running, stopped)]
        committed = [change["wallTime"] for change in iter(stream.try_next, None)]
    print([(Counter(words), words[-3:]) for words in outputs])  # noqa: T201 - shown when it fails
    assert all("deleted" in words and words[-1] == "refused" for words in outputs)
    known, unknown = (sum(words.count(word) for words in outputs) for word in ("deleted", "failed"))
    assert known <= len(committed) <= known + unknown
    assert max(committed) < hold.active_from
    assert max(committed) - hold.placed_at < timedelta(seconds=6), "cached rules are read again within 5 s"
