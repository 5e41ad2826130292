"""X-Request-Start, sane and not."""

import pytest

from chat_service.front.timing import AFTERWARDS_SECONDS, AHEAD_SECONDS, ANSWER_SECONDS, BEHIND_SECONDS, started_at

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("told", "began"),
    [
        (b"1699999990500", NOW - 9.5),
        (b"t=1699999990.5", NOW - 9.5),
        (b"t=1699999990", NOW - 10),
        (b"1700000003000", NOW),
        (b"1699999970000", NOW - 30),
    ],
)
def test_it_is_believed(told, began) -> None:
    """Milliseconds or seconds; and a little ahead of us is now."""
    assert started_at(told, NOW) == pytest.approx(began)


@pytest.mark.parametrize(
    "told",
    [
        None,
        b"",
        b"now",
        b"-1699999990500",
        b"1699999990",
        b"t=1699999990500",
        b"1699999990500123",
        b"t=1699999990.5x",
        f"{(NOW + AHEAD_SECONDS + 1) * 1000:.0f}".encode(),
        f"{(NOW - BEHIND_SECONDS - 1) * 1000:.0f}".encode(),
    ],
)
def test_it_is_not_believed(told) -> None:
    """No time, another unit, or a clock that is wrong."""
    assert started_at(told, NOW) == NOW


def test_a_router_is_answered_before_it_gives_up() -> None:
    assert ANSWER_SECONDS + AFTERWARDS_SECONDS < 30
