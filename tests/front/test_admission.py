"""Who gets a thread: the rule, told what it needs to know; and the queue, on a loop of its own."""

import asyncio
import time

import pytest

from chat_service.front.admission import KNOWN_AWAY_SECONDS, TURN_SECONDS, Admission, Verdict, decide

THREADS = 8
LATER = 20.0


@pytest.mark.parametrize(
    ("running", "away", "waited", "left", "verdict"),
    [
        (0, 0, 0, LATER, Verdict.RUN),
        (7, 0, 4, LATER, Verdict.RUN),
        (8, 0, 4, LATER, Verdict.WAIT),
        (8, 0, TURN_SECONDS + 0.1, LATER, Verdict.REFUSE),
        (0, 0, 0, 0, Verdict.REFUSE),
        (7, KNOWN_AWAY_SECONDS, 0, LATER, Verdict.RUN),
        (8, KNOWN_AWAY_SECONDS, 0, LATER, Verdict.WAIT),
        (3, KNOWN_AWAY_SECONDS + 0.1, 0, LATER, Verdict.RUN),
        (4, KNOWN_AWAY_SECONDS + 0.1, 0, LATER, Verdict.REFUSE),
    ],
)
def test_the_rule(running, away, waited, left, verdict) -> None:
    """All threads while the database is there, half of them while it is away, and nobody for too long."""
    assert decide(THREADS, running, away, waited, left) is verdict


def test_one_thread_may_wait_too() -> None:
    """Else nobody would notice that the database is back."""
    assert decide(1, 0, 60, 0, LATER) is Verdict.RUN


def test_turns_come_in_order_and_an_outage_ends_the_queue() -> None:
    away = 0.0

    async def play() -> None:
        nonlocal away
        admission = Admission(2, lambda: away)
        end = time.monotonic() + LATER
        assert await admission.enter(end)
        assert await admission.enter(end)
        queue = [asyncio.ensure_future(admission.enter(end)) for _ in range(4)]
        await asyncio.sleep(0)
        queue[1].cancel()
        admission.leave()
        admission.leave()
        await asyncio.sleep(0)
        assert [turn.done() for turn in queue] == [True, True, True, False]
        away = KNOWN_AWAY_SECONDS + 1
        assert not await asyncio.wait_for(queue[3], 1), "without anybody leaving"
        assert not await admission.enter(end)
        admission.leave()
        admission.leave()
        assert await admission.enter(end)
        assert not await admission.enter(end), "half of two"

    asyncio.run(play())


def test_a_turn_that_comes_when_its_client_leaves_is_not_lost() -> None:
    async def play() -> None:
        admission = Admission(1, lambda: 0.0)
        end = time.monotonic() + LATER
        assert await admission.enter(end)
        turn = asyncio.ensure_future(admission.enter(end))
        await asyncio.sleep(0)
        admission.leave()
        turn.cancel()
        await asyncio.sleep(0)
        assert await asyncio.wait_for(admission.enter(end), 1)

    asyncio.run(play())
