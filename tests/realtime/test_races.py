"""Connections that open and close while deletes run: a 200 and a socket never live at once."""

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
"""Are fought for at a time, in as many rounds as it takes until enough of them were met by a connection."""

LONGEST_FIGHT_SECONDS = 120.0
"""From then on no new round begins. A quiet machine needs 11."""

EVICTED = 4410

PROCESSES = 3
DELETERS = 6
ROUND_SECONDS = 2.5

RENEWAL_SECONDS = 6.0
"""A renewal comes every 5 s, and its close has to arrive. Without it the feed closes, in milliseconds."""


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
    """Send DELETEs for all of the chats until each has had its 200 or the round is over; when each 200 was there."""
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


def were_fought_for(statuses: Counter[int], stays: list[Stay], query: str) -> bool:
    """Whether enough deletes met a connection. How many do in a round depends on who gets the processor."""
    codes = Counter(stay.code for stay in stays)
    if query:
        return codes[EVICTED] > 20
    return statuses[409] > 50 and codes[1000] > 200


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("query", ["", "?on_active=evict"], ids=["refuse", "evict"])
def test_a_200_and_a_socket_never_live_at_once(service, query, rounds) -> None:
    """Opened or not, whatever ends after the 200 has come was open beside it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    gone: dict[str, float] = {}
    stays: list[Stay] = []
    statuses: Counter[int] = Counter()
    until = time.monotonic() + LONGEST_FIGHT_SECONDS
    for number in count():
        fought = were_fought_for(statuses, stays, query) and len(gone) > CHATS_OF_A_ROUND
        if number >= rounds and (fought or time.monotonic() > until):
            break
        chat_ids = [service.chat() for _ in range(CHATS_OF_A_ROUND)]
        connectors = connect_from_processes(service, chat_ids, seed + number * 100)
        wait_until(lambda: service.database.presence.count_documents({}) > PROCESSES * LINES / 2)
        answered_at, found = delete_all(service, chat_ids, query)
        gone |= answered_at
        statuses += found
        stays += [Stay(*stay) for process in connectors for stay in json.loads(process.communicate()[0])]
    codes = Counter(stay.code for stay in stays)
    print(statuses, codes)  # noqa: T201 - shown when it fails
    assert list(Checks(service.database).run()) == []
    assert were_fought_for(statuses, stays, query), "sockets were there"
    assert len(gone) > CHATS_OF_A_ROUND, "deletes came through"
    assert set(codes) <= {1000, 4404} | ({EVICTED} if query else set())
    outstayed = [stay.ended_at - gone[stay.chat_id] for stay in stays if stay.chat_id in gone and stay.code != 4404]
    if query:
        assert statuses[409] == 0
        assert max(outstayed) < RENEWAL_SECONDS
    else:
        assert max(outstayed) < 0


COMING_AND_GOING = 30
VISITS = 3
"""Of each of them at least, however long that takes."""

POSTING_SECONDS = 3.0


def test_whoever_comes_in_while_messages_come_misses_none(service) -> None:
    """Between what is looked up and what the feed brings there is no gap, and nothing comes twice."""
    chat_id = service.chat("first")
    until = time.monotonic() + POSTING_SECONDS

    newest, have_left = 1, threading.Event()

    def post() -> None:
        nonlocal newest
        while not have_left.is_set():  # whoever is there waits for 8 messages
            message = NewMessage(Role.USER, "x", None, {})
            newest = Messages(service.database).append(service.access.tenant_id, chat_id, [message])[0].seq

    async def come_and_go() -> int:
        visits = 0
        while visits < VISITS or time.monotonic() < until:
            last = max(newest - visits % 4, 0)
            line = await Line.open(service.gunicorn.port, f"{chat_id}?after={last}", service.access)
            for _ in range(8):
                found = await line.frame()
                assert not isinstance(found, Closed), found
                last += 1
                assert found["message"]["seq"] == last, "one is missing, or came twice"
            line.hang_up()
            visits += 1
        return visits

    async def storm() -> list[int]:
        posting = asyncio.create_task(asyncio.to_thread(post))
        try:
            return await asyncio.gather(*(come_and_go() for _ in range(COMING_AND_GOING)))
        finally:
            have_left.set()
            await posting

    visits = sum(asyncio.run(storm()))
    print(f"{visits} visits, {service.send('GET', chat_id).json()['message_count']} messages")  # noqa: T201
