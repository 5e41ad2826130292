"""kill -9 in the middle of deletes: afterwards every chat is whole or gone."""

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
    """How many workers delete how much at once, and are killed meanwhile, in each of some rounds."""

    rounds: int
    workers: int
    each: int
    messages: int


ALONE = Campaign(rounds=2, workers=5, each=2, messages=200)
"""10 kills; a worker has one delete in its transaction, or two that are left to purges."""

IN_GROUPS = Campaign(rounds=4, workers=2, each=8, messages=50)
"""8 kills; deletes share transactions, up to eight of them."""

MANY = [pytest.param(campaign._replace(rounds=20), marks=pytest.mark.soak) for campaign in (ALONE, IN_GROUPS)]

STEP_SECONDS = 0.012
"""Each command of a delete takes this much longer, so that kills fall between all of them."""

ROUND_SECONDS = 0.2
"""What such deletes at once take; the kills are spread over it."""


@pytest.fixture
def slow_steps(failpoint, control) -> Iterator[None]:
    failpoint.block("find", "findAndModify", "delete", "insert", "commitTransaction", seconds=STEP_SECONDS)
    yield
    failpoint.disarm()
    # The transactions of the dead would keep their locks for a minute and a half, and the next test waiting.
    control.admin.command({"killAllSessions": []})


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


def wait_until_loaded(service: ForkedGunicorn, workers: int) -> set[int]:
    """Wait until all workers are there, have loaded the application and rest; return their pids."""
    deadline = time.monotonic() + 60
    before: dict[int, str] = {}
    while True:
        assert time.monotonic() < deadline
        time.sleep(0.3)
        now = {pid: Path(f"/proc/{pid}/stat").read_text().split()[13] for pid in workers_of(service)}
        if now == before and len(now) == workers:
            return set(now)
        before = now


@pytest.mark.parametrize("campaign", [ALONE, IN_GROUPS, *MANY], ids=lambda one: f"{one.rounds * one.workers} kills")
def test_every_chat_is_whole_or_gone(
    mongod: EmbeddedMongod, database: Database, access, slow_steps, campaign: Campaign
) -> None:
    """Workers are killed at random moments of deletes; nothing in between is ever left, and a 200 was true."""
    del slow_steps
    at_once = campaign.workers * campaign.each
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    moments = random.Random(seed)
    chats, messages = Chats(database), Messages(database)
    answered: dict[str, int | None] = {}

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
                time.sleep(moments.random() * ROUND_SECONDS / campaign.workers * 2)
                os.kill(victim, signal.SIGKILL)
            answered.update(future.result() for future in deletes)
        wait_until_loaded(service, campaign.workers)
        lost = [chat_id for chat_id, status in answered.items() if status is None]
        living = {chat["_id"]["chat_id"] for chat in database.chats.find()}
        again = dict(pool.map(partial(delete, service.port), lost))
    # Who was told nothing repeats it: a 200 for what was not done, and a 404 for what was.
    assert all(status == (200 if chat_id in living else 404) for chat_id, status in again.items())
    print(Counter(answered.values()), database.deletions.count_documents({}), "gone")  # noqa: T201 - shown when it fails
    audit(database, answered, set(again), campaign)


def audit(database: Database, answered: dict[str, int | None], lost: set[str], campaign: Campaign) -> None:
    assert list(Checks(database).run()) == []
    living = {chat["_id"]["chat_id"]: chat["message_count"] for chat in database.chats.find()}
    assert set(living.values()) <= {campaign.messages}, "a living chat has all its messages"
    gone = {receipt["_id"]["chat_id"]: receipt["message_count"] for receipt in database.deletions.find()}
    assert set(gone.values()) == {campaign.messages}, "a deleted one had them all"
    assert set(living) | set(gone) == set(answered)
    assert lost | {chat_id for chat_id, status in answered.items() if status == 200} <= set(gone)
    assert {answered[chat_id] for chat_id in living} <= {503}
    assert len(lost) >= campaign.rounds * campaign.workers // 2, "the kills hit deletes"
