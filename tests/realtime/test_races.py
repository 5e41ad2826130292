"""Connections that open and close while deletes run: no socket outlasts the 200 of its chat's delete."""

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import requests

from chat_service.models import NewMessage, Role
from chat_service.repository.checks import Checks
from chat_service.repository.messages import Messages
from tests.client import CHATS
from tests.realtime.connector import LINES, Stay
from tests.realtime.line import Closed, Line
from tests.realtime.sockets import Service
from tests.wait import wait_until

CHATS_OF_A_ROUND = 60
"""Chats that are raced for in a round. Rounds go on until enough deletes have met a connection."""

LONGEST_RACE_SECONDS = 120.0
"""After this no new round begins. A quiet machine needs 11 s."""

EVICTED = 4410

PROCESSES = 3
DELETERS = 6
ROUND_SECONDS = 2.5

RENEWAL_SECONDS = 6.0
"""A renewal comes every 5 s, and its close has to arrive. Mostly the feed closes sooner, within milliseconds."""


def connect_from_processes(service: Service, chat_ids: list[str], seed: int) -> list[subprocess.Popen[str]]:
    access = service.access
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.realtime.connector", json.dumps(arguments)], stdout=subprocess.PIPE, text=True
        )
        for number in range(PROCESSES)
        for arguments in [[service.gunicorn.port, list(vars(access).values()), chat_ids, seed + number, ROUND_SECONDS]]
    ]


def delete_all(service: Service, chat_ids: list[str], query: str) -> tuple[dict[str, float], Counter[int]]:
    """Send DELETEs until each chat had its 200 or the round is over; return the times of the 200s, and all statuses."""
    answered_at: dict[str, float] = {}
    statuses: Counter[int] = Counter()
    until = time.monotonic() + ROUND_SECONDS

    def work(share: list[str]) -> None:
        with requests.Session() as session:
            while (left := [chat_id for chat_id in share if chat_id not in answered_at]) and time.monotonic() < until:
                chat_id = random.choice(left)
                url = f"http://127.0.0.1:{service.gunicorn.port}{CHATS}/{chat_id}{query}"
                answer = session.delete(url, headers=service.access.headers, timeout=30)
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    answered_at[chat_id] = time.monotonic()

    with ThreadPoolExecutor(DELETERS) as pool:
        list(pool.map(work, [chat_ids[number::DELETERS] for number in range(DELETERS)]))
    return answered_at, statuses


def were_contested(statuses: Counter[int], stays: list[Stay], query: str) -> bool:
    """Return whether enough deletes met a connection. How many do so in a round depends on the scheduler."""
    codes = Counter(stay.code for stay in stays)
    if query:
        return codes[EVICTED] > 20
    return statuses[409] > 50 and codes[1000] > 200


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("query", ["", "?on_active=evict"], ids=["refuse", "evict"])
def test_a_deleted_chat_has_no_open_socket(service, query, rounds) -> None:
    """No connection ends after the 200 has arrived; with evict, at most as late as its close takes."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    deleted_at: dict[str, float] = {}
    stays: list[Stay] = []
    statuses: Counter[int] = Counter()
    until = time.monotonic() + LONGEST_RACE_SECONDS
    for number in count():
        enough = were_contested(statuses, stays, query) and len(deleted_at) > CHATS_OF_A_ROUND
        if number >= rounds and (enough or time.monotonic() > until):
            break
        chat_ids = [service.chat() for _ in range(CHATS_OF_A_ROUND)]
        connectors = connect_from_processes(service, chat_ids, seed + number * 100)
        wait_until(lambda: service.database.presence.count_documents({}) > PROCESSES * LINES / 2)
        answered_at, round_statuses = delete_all(service, chat_ids, query)
        deleted_at |= answered_at
        statuses += round_statuses
        stays += [Stay(*stay) for process in connectors for stay in json.loads(process.communicate()[0])]
    codes = Counter(stay.code for stay in stays)
    print(statuses, codes)  # noqa: T201 - shown when it fails
    assert list(Checks(service.database).run()) == []
    assert were_contested(statuses, stays, query), "deletes met connections"
    assert len(deleted_at) > CHATS_OF_A_ROUND, "deletes succeeded"
    assert set(codes) <= {1000, 4404} | ({EVICTED} if query else set())
    seconds_too_long = [
        stay.ended_at - deleted_at[stay.chat_id] for stay in stays if stay.chat_id in deleted_at and stay.code != 4404
    ]
    if query:
        assert statuses[409] == 0
        assert max(seconds_too_long) < RENEWAL_SECONDS
    else:
        assert max(seconds_too_long) < 0


CLIENTS = 30
VISITS = 3
"""How often each client connects at least, however long that takes."""

POSTING_SECONDS = 3.0


def test_a_client_that_connects_during_posts_misses_none(service) -> None:
    """There is no gap between the messages from the database and those from the feed, and none is sent twice."""
    chat_id = service.chat("first")
    until = time.monotonic() + POSTING_SECONDS

    newest, have_left = 1, threading.Event()

    def post() -> None:
        nonlocal newest
        while not have_left.is_set():  # each client that is connected waits for 8 messages
            message = NewMessage(Role.USER, "x", None, {})
            newest = Messages(service.database).append(service.access.tenant_id, chat_id, [message])[0].seq

    async def come_and_go() -> int:
        visits = 0
        while visits < VISITS or time.monotonic() < until:
            last = max(newest - visits % 4, 0)
            line = await Line.open(service.gunicorn.port, f"{chat_id}?after={last}", service.access)
            for _ in range(8):
                frame = await line.frame()
                assert not isinstance(frame, Closed), frame
                last += 1
                assert frame["message"]["seq"] == last, "one is missing, or was sent twice"
            line.hang_up()
            visits += 1
        return visits

    async def storm() -> list[int]:
        posting = asyncio.create_task(asyncio.to_thread(post))
        try:
            return await asyncio.gather(*(come_and_go() for _ in range(CLIENTS)))
        finally:
            have_left.set()
            await posting

    visits = sum(asyncio.run(storm()))
    print(f"{visits} visits, {service.send('GET', chat_id).json()['message_count']} messages")  # noqa: T201
