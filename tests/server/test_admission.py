"""The rule that decides which request gets a thread, and the queues of `Admission`, each on its own event loop."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from chat_service.server.admission import (
    HEAVY_BODY_BYTES,
    KNOWN_AWAY_SECONDS,
    TURN_SECONDS,
    WAITING_OF_TENANT,
    Admission,
    Place,
    Verdict,
    Weight,
    decide,
    heavy_places,
    places_of_tenant,
    weigh,
)
from chat_service.telemetry import metrics

THREADS = 8
SECONDS_LEFT = 20.0


@pytest.mark.parametrize(
    ("running", "away", "waited", "left", "verdict"),
    [
        (0, 0, 0, SECONDS_LEFT, Verdict.RUN),
        (7, 0, 4, SECONDS_LEFT, Verdict.RUN),
        (8, 0, 4, SECONDS_LEFT, Verdict.WAIT),
        (8, 0, TURN_SECONDS + 0.1, SECONDS_LEFT, Verdict.REFUSE),
        (0, 0, 0, 0, Verdict.REFUSE),
        (7, KNOWN_AWAY_SECONDS, 0, SECONDS_LEFT, Verdict.RUN),
        (8, KNOWN_AWAY_SECONDS, 0, SECONDS_LEFT, Verdict.WAIT),
        (3, KNOWN_AWAY_SECONDS + 0.1, 0, SECONDS_LEFT, Verdict.RUN),
        (4, KNOWN_AWAY_SECONDS + 0.1, 0, SECONDS_LEFT, Verdict.REFUSE),
    ],
)
def test_the_rule(running, away, waited, left, verdict) -> None:
    """All threads may run while the database answers, half of them while it is away; no request waits too long."""
    assert decide(THREADS, running, away, waited, left) is verdict


def test_one_thread_may_wait_too() -> None:
    """A server with one thread lets it wait for a database that is away; else nobody would notice its return."""
    assert decide(1, 0, 60, 0, SECONDS_LEFT) is Verdict.RUN


@pytest.mark.parametrize(
    ("path", "body_bytes", "weight"),
    [
        ("/api/v1/chats", 0, Weight.LIGHT),
        ("/api/v1/chats/x/messages", HEAVY_BODY_BYTES, Weight.LIGHT),
        ("/api/v1/chats/x/messages", HEAVY_BODY_BYTES + 1, Weight.HEAVY),
        ("/api/v1/chats/x/export", 0, Weight.HEAVY),
        ("/api/v1/chats/import", 0, Weight.HEAVY),
        ("/api/v1/chats/delete", 100, Weight.HEAVY),
    ],
)
def test_what_is_heavy(path, body_bytes, weight) -> None:
    assert weigh(path, body_bytes) is weight


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8, 256])
def test_somebody_can_always_do_something(threads) -> None:
    """Heavy work and each tenant may have one thread at least; from four threads on, no tenant may have all of them."""
    assert 1 <= heavy_places(threads) <= threads
    assert 1 <= places_of_tenant(threads) <= threads
    assert (places_of_tenant(threads) < threads) == (threads >= 4)


class Queues:
    """An `Admission`, and requests that enter it."""

    def __init__(self, threads: int, away: Callable[[], float] = lambda: 0.0) -> None:
        self.admission = Admission(threads, away)
        self.deadline = time.monotonic() + SECONDS_LEFT

    async def enter(self, tenant: str | None = "a", weight: Weight = Weight.LIGHT) -> "asyncio.Task[Place | None]":
        task = asyncio.ensure_future(self.admission.enter(tenant, weight, self.deadline))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    async def places(self, number: int, *arguments: Any) -> list[Place]:
        """Enter so many requests, none of which may have to wait; return their places."""
        tasks = [await self.enter(*arguments) for _ in range(number)]
        assert all(task.done() for task in tasks)
        return [place for task in tasks if (place := task.result())]


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_turns_come_in_order_and_an_outage_ends_the_queue() -> None:
    away_seconds = 0.0

    async def play() -> None:
        nonlocal away_seconds
        queues = Queues(2, lambda: away_seconds)
        first, second = await queues.places(2)
        queue = [await queues.enter() for _ in range(4)]
        queue[1].cancel()
        first.leave()
        first.leave()
        second.leave()
        await settle()
        assert [turn.done() for turn in queue] == [True, True, True, False]
        away_seconds = KNOWN_AWAY_SECONDS + 1
        assert await asyncio.wait_for(queue[3], 1) is None, "without anybody leaving"
        assert await (await queues.enter()) is None
        queue[0].result().leave()
        queue[2].result().leave()
        assert await queues.places(1)
        assert await (await queues.enter()) is None, "half of two"

    asyncio.run(play())


def test_a_turn_that_comes_when_its_client_leaves_is_not_lost() -> None:
    async def play() -> None:
        queues = Queues(1)
        (place,) = await queues.places(1)
        turn = await queues.enter()
        place.leave()
        turn.cancel()
        await settle()
        assert await queues.places(1)

    asyncio.run(play())


def test_who_waits_is_counted() -> None:
    """The metric counts a request from when it begins to wait until it gets a place or is cancelled."""

    async def play() -> None:
        admission = Admission(1, lambda: 0.0)
        place = await admission.enter("a", Weight.LIGHT, time.monotonic() + SECONDS_LEFT)
        assert place is not None
        waiting = [
            asyncio.ensure_future(admission.enter("b", Weight.LIGHT, time.monotonic() + SECONDS_LEFT)) for _ in "bc"
        ]
        await settle()
        assert requests_waiting() == 2
        waiting[0].cancel()
        place.leave()
        assert await waiting[1]
        assert requests_waiting() == 0

    asyncio.run(play())


def requests_waiting() -> float | None:
    return metrics._registry.get_sample_value("chat_service_requests_waiting")


def test_tenants_take_turns() -> None:
    """However many requests of one tenant wait, the next thread goes to another tenant."""

    async def play() -> None:
        queues = Queues(1)
        (place,) = await queues.places(1)
        flood = [await queues.enter("a") for _ in range(10)]
        others = [await queues.enter(tenant) for tenant in ("b", "b", None)]
        order = []
        for _ in range(5):
            place.leave()
            await settle()
            (place,) = [turn.result() for turn in (*flood, *others) if turn.done() and turn not in order]
            order.append(next(turn for turn in (*flood, *others) if turn.done() and turn not in order))
        assert order == [flood[0], others[0], others[2], flood[1], others[1]]

    asyncio.run(play())


def test_a_tenant_never_has_all_threads() -> None:
    """Another tenant gets a thread at once; the first gets its next one when one of its requests ends."""

    async def play() -> None:
        queues = Queues(8)
        places = await queues.places(6, "a")
        turn = await queues.enter("a")
        assert not turn.done()
        assert len(await queues.places(2, "b")) == 2
        places[0].leave()
        await settle()
        assert turn.done()

    asyncio.run(play())


def test_heavy_work_has_few_places_and_holds_nobody_up() -> None:
    """A light request, of the same tenant or another, overtakes heavy ones that wait for a place."""

    async def play() -> None:
        queues = Queues(8)
        first, _ = await queues.places(2, "a", Weight.HEAVY)
        heavy = await queues.enter("b", Weight.HEAVY)
        assert not heavy.done()
        assert len(await queues.places(2, "b")) == 2
        assert len(await queues.places(2, "a")) == 2
        first.leave()
        await settle()
        assert heavy.done()

    asyncio.run(play())


def test_who_floods_is_refused_and_others_are_not() -> None:
    async def play() -> None:
        queues = Queues(1)
        await queues.places(1)
        flood = [await queues.enter("a") for _ in range(WAITING_OF_TENANT)]
        assert await (await queues.enter("a")) is None
        assert not (await queues.enter("b")).done()
        for turn in flood:
            turn.cancel()

    asyncio.run(play())
