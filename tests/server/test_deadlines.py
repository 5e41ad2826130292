"""When a request began, by a plausible or a wrong X-Request-Start; and what a `TimeLimit` gives up."""

import asyncio

import pytest

from chat_service.repository.complaints import Complaints
from chat_service.server import deadlines
from chat_service.server.deadlines import (
    AFTERWARDS_SECONDS,
    AHEAD,
    AHEAD_SECONDS,
    ANSWER_SECONDS,
    BEHIND,
    BEHIND_SECONDS,
    TimeLimit,
    started_at,
)

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("told", "began"),
    [
        ("1699999990500", NOW - 9.5),
        ("t=1699999990.5", NOW - 9.5),
        ("t=1699999990", NOW - 10),
        ("1700000003000", NOW),
        ("1699999970000", NOW - 30),
    ],
)
def test_it_is_believed(told, began) -> None:
    """The header has milliseconds or seconds; a time slightly in the future counts as now."""
    assert started_at(told, NOW) == pytest.approx(began)


@pytest.mark.parametrize(("seconds", "said"), [(AHEAD_SECONDS + 1, AHEAD), (-BEHIND_SECONDS - 1, BEHIND)])
def test_a_clock_that_is_wrong_is_said(seconds: float, said: str, caplog, monkeypatch) -> None:
    """The log says it now and then, not for each request; one of the two machines needs its clock set."""
    monkeypatch.setattr(deadlines, "_complaints", Complaints())
    for _ in range(3):
        started_at(f"{(NOW + seconds) * 1000:.0f}", NOW)
    assert caplog.messages == [said]


@pytest.mark.parametrize(
    "told",
    [
        None,
        "",
        "now",
        "-1699999990500",
        "1699999990",
        "t=1699999990500",
        "1699999990500123",
        "t=1699999990.5x",
        f"{(NOW + AHEAD_SECONDS + 1) * 1000:.0f}",
        f"{(NOW - BEHIND_SECONDS - 1) * 1000:.0f}",
    ],
)
def test_it_is_not_believed(told) -> None:
    """The request begins now if the header is no time, has another unit, or comes from a wrong clock."""
    assert started_at(told, NOW) == NOW


def test_a_router_is_answered_before_it_gives_up() -> None:
    assert ANSWER_SECONDS + AFTERWARDS_SECONDS < 30


def test_what_takes_too_long_is_given_up_and_nothing_else() -> None:
    """Each call has its own limit, counted from its own start, also after a while without calls."""

    async def outcome(limit: TimeLimit, seconds: float) -> str:
        try:
            return await limit.wait_for(asyncio.sleep(seconds, "done"))
        except TimeoutError:
            return "given up"

    async def main() -> list[str]:
        limit = TimeLimit(1.0)
        first = [asyncio.ensure_future(outcome(limit, seconds)) for seconds in (0.0, 0.1, 30.0)]
        await asyncio.sleep(0.8)
        second = outcome(limit, 0.8)
        outcomes = [await second, *await asyncio.gather(*first)]
        await asyncio.sleep(0.6)
        return [*outcomes, await outcome(limit, 0.0), await outcome(limit, 30.0)]

    assert asyncio.run(main()) == ["done", "done", "done", "given up", "done", "given up"]


def test_who_is_cancelled_is_not_told_that_the_time_is_up() -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(TimeLimit(10.0).wait_for(asyncio.sleep(30)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
