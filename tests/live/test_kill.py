"""kill -9 in the middle of deletes: afterwards every chat is either complete or deleted."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.models import NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.messages import Messages
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn
from tests.workers import workers_of


class Campaign(NamedTuple):
    """Rounds in each of which all workers are killed, while each runs several deletes at once."""

    rounds: int
    workers: int
    deletes: int
    """Of each worker, at once."""
    messages: int
    """Of each chat."""


ALONE = Campaign(rounds=2, workers=5, deletes=2, messages=200)
"""10 kills; a worker has one delete in its transaction, or two whose messages are left to purges."""

IN_GROUPS = Campaign(rounds=4, workers=2, deletes=8, messages=50)
"""8 kills; up to eight deletes share a transaction."""

MANY = [pytest.param(campaign._replace(rounds=20), marks=pytest.mark.soak) for campaign in (ALONE, IN_GROUPS)]

STEP_SECONDS = 0.012
"""How much longer each command of a delete takes, so that kills fall between all of them."""

ROUND_SECONDS = 0.2
"""How long such concurrent deletes take; the kills are spread over this time."""


@pytest.fixture
def slow_steps(failpoint, control) -> Iterator[None]:
    failpoint.block("find", "findAndModify", "delete", "insert", "commitTransaction", seconds=STEP_SECONDS)
    yield
    failpoint.disarm()
    # The transactions of killed workers would keep their locks for a minute and a half, and delay the next test.
    control.admin.command({"killAllSessions": []})


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


def wait_until_loaded(service: ForkedGunicorn, workers: int) -> set[int]:
    """Wait until all workers have started, have loaded the application and are idle; return their pids."""
    deadline = time.monotonic() + 60
    cpu_before: dict[int, str] = {}
    while True:
        assert time.monotonic() < deadline
        time.sleep(0.3)
        cpu_now = {pid: Path(f"/proc/{pid}/stat").read_text().split()[13] for pid in workers_of(service)}
        if cpu_now == cpu_before and len(cpu_now) == workers:
            return set(cpu_now)
        cpu_before = cpu_now


@pytest.mark.parametrize(
    "campaign", [ALONE, IN_GROUPS, *MANY], ids=lambda campaign: f"{campaign.rounds * campaign.workers} kills"
)
def test_every_chat_is_whole_or_gone(
    mongod: EmbeddedMongod, database: Database, access, slow_steps, campaign: Campaign
) -> None:
    """Workers are killed at random moments of deletes; no chat is ever left half deleted, and each 200 was true."""
    del slow_steps
    at_once = campaign.workers * campaign.deletes
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    rng = random.Random(seed)
    chats, messages = Chats(database), Messages(database)
    statuses: dict[str, int | None] = {}

    def delete(port: int, chat_id: str) -> tuple[str, int | None]:
        try:
            answer = requests.delete(f"http://127.0.0.1:{port}{CHATS}/{chat_id}", headers=access.headers, timeout=30)
        except requests.ConnectionError:
            return chat_id, None
        return chat_id, answer.status_code

    with (
        ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY=str(campaign.workers)) as service,
        ThreadPoolExecutor(at_once) as pool,
    ):
        for _ in range(campaign.rounds):
            ids = [chats.create(access.tenant_id, None, {}).id for _ in range(at_once)]
            for chat_id in ids:
                messages.append(access.tenant_id, chat_id, [NewMessage(Role.USER, "x", None, {})] * campaign.messages)
            victims = wait_until_loaded(service, campaign.workers)
            deletes = [pool.submit(delete, service.port, chat_id) for chat_id in ids]
            for victim in victims:
                time.sleep(rng.random() * ROUND_SECONDS / campaign.workers * 2)
                os.kill(victim, signal.SIGKILL)
            statuses.update(future.result() for future in deletes)
        wait_until_loaded(service, campaign.workers)
        unanswered = [chat_id for chat_id, status in statuses.items() if status is None]
        living = {chat["_id"]["chat_id"] for chat in database.chats.find()}
        repeated = dict(pool.map(partial(delete, service.port), unanswered))
    # A client without an answer repeats its delete: 200 if it had not been done, 404 if it had.
    assert all(status == (200 if chat_id in living else 404) for chat_id, status in repeated.items())
    print(Counter(statuses.values()), database.deletions.count_documents({}), "gone")  # noqa: T201 - shown when it fails
    audit(database, statuses, set(repeated), campaign)


def audit(database: Database, statuses: dict[str, int | None], unanswered: set[str], campaign: Campaign) -> None:
    """Check that the chats and the receipts that are left agree with each other and with the answers."""
    assert list(Checks(database).run()) == []
    living = {chat["_id"]["chat_id"]: chat["message_count"] for chat in database.chats.find()}
    assert set(living.values()) <= {campaign.messages}, "a living chat has all its messages"
    deleted = {receipt["_id"]["chat_id"]: receipt["message_count"] for receipt in database.deletions.find()}
    assert set(deleted.values()) == {campaign.messages}, "a deleted one had them all"
    assert set(living) | set(deleted) == set(statuses)
    assert unanswered | {chat_id for chat_id, status in statuses.items() if status == 200} <= set(deleted)
    assert {statuses[chat_id] for chat_id in living} <= {503}
    assert len(unanswered) >= campaign.rounds * campaign.workers // 2, "the kills hit deletes"
