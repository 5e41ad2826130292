"""Holds, raced from several processes with everything that destroys: exactly one of the two happens."""

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
def test_what_is_held_is_there(mongod: EmbeddedMongod, database: Database, rounds: int, inline_limit: int) -> None:
    """A hold that was placed, and a delete that was done, never both; and nothing of what was held changes any more."""
    Tenants(database).create("t", TENANT)
    RetentionPolicies(database, Deletions(database)).put(TENANT, 5, RetentionAction.DELETE, 100_000, "key")
    database.tenants.update_one({"_id": TENANT}, {"$set": {"retention.active_from": database.now()}})
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    chats, messages = Chats(database), Messages(database)
    chat_ids = [chats.create(TENANT, None, {}).id for _ in range(rounds)]
    for chat_id in chat_ids:
        # A sender for each chat: who erases it, erases in this round.
        messages.append(TENANT, chat_id, [NewMessage(Role.USER, text, chat_id, {}) for text in TEXTS])
    seen = [one for contender in play(mongod.uri, chat_ids, seed, inline_limit) for one in contender]
    by_chat: dict[str, list[Seen]] = {chat_id: [] for chat_id in chat_ids}
    for one in seen:
        by_chat[one.chat_id].append(one)
    outcomes = Counter((one.did, one.outcome) for one in seen)
    print(sorted(outcomes.items()))  # noqa: T201 - shown when it fails
    for chat_id, told in by_chat.items():
        check(database, chat_id, told)
    assert list(Checks(database).run()) == []
    purge_all(database)
    assert list(Checks(database).run()) == []
    assert outcomes[HELD, "done"] > rounds / 20, "holds came first"
    assert outcomes[HELD, "UnknownChatsError"] > rounds / 20, "deletes came first"
    refused = sum(count for (_, outcome), count in outcomes.items() if outcome == "LegalHoldError")
    assert refused > rounds / 10, "and were refused"
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


def check(database: Database, chat_id: str, told: list[Seen]) -> None:
    (held,) = [one for one in told if one.did == HELD]
    deletes = [one for one in told if one.did in DELETES and one.outcome == "done"]
    assert len(deletes) <= 1, told
    if any(one.did == "delete_in_grace" for one in deletes) and held.outcome == "done":
        deletes = []  # it was there to be held: what was deleted in grace is kept meanwhile
    key = {"_id": chat_key(TENANT, chat_id)}
    if held.outcome == "done":
        assert not deletes, told
        assert database.deletions.find_one(key) is None, told
        assert contents(database, chat_id) == held.contents, told
    else:
        gone = database.deletions.find_one(key) or database.trash.find_one(key)
        ended = database.chats.find_one({**key, "expires_at": {"$lte": database.now()}})
        assert gone or ended, told


LONGEST_SECONDS = 30.0
STOPPED_SECONDS = 20.0

NAMES = ("running", "stopped")


def test_everything_is_held_from_when_it_says(mongod: EmbeddedMongod, database: Database) -> None:
    """Also by a process that has just asked, that knows it from before, or that was stopped meanwhile."""
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
        told = [process.communicate(timeout=120)[0].split() for process in (running, stopped)]
        committed = [change["wallTime"] for change in iter(stream.try_next, None)]
    print([(Counter(words), words[-3:]) for words in told])  # noqa: T201 - shown when it fails
    assert all("deleted" in words and words[-1] == "refused" for words in told)
    known, unknown = (sum(words.count(word) for words in told) for word in ("deleted", "failed"))
    assert known <= len(committed) <= known + unknown
    assert max(committed) < hold.active_from
    assert max(committed) - hold.placed_at < timedelta(seconds=6), "what is known is looked up again within 5 s"
