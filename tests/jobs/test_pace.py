"""The pace of a purge, told times instead of waiting for them."""

from chat_service.jobs.pace import FLAT_OUT_MESSAGES, POLITE_MESSAGES, REST_MOST, Pace

QUIET = 0.001


def paced(*reads: float) -> Pace:
    pace = Pace()
    for seconds in reads:
        pace.learn(seconds)
    return pace


def test_goes_flat_out_on_a_quiet_database() -> None:
    """Large batches, and no rest."""
    pace = paced(*[QUIET] * 20)
    assert (pace.batch, pace.rest(1)) == (FLAT_OUT_MESSAGES, 0)


def test_one_slow_read_is_nothing() -> None:
    """A checkpoint or a stolen CPU is not a crowd."""
    assert paced(*[QUIET] * 20, QUIET * 50).rest(1) == 0


def test_steps_aside_for_requests() -> None:
    """Small batches and a rest, which grows up to its limit while reads stay slow."""
    crowded = [QUIET * 3] * 3
    assert paced(*[QUIET] * 20, *crowded).batch == POLITE_MESSAGES
    assert paced(*[QUIET] * 20, *crowded).rest(2) == 2
    assert paced(*[QUIET] * 50, *crowded * 10).rest(1) == REST_MOST


def test_speeds_up_again() -> None:
    """When the requests have gone it is flat out again after some batches."""
    assert paced(*[QUIET] * 50, *[QUIET * 3] * 30, *[QUIET] * 40).batch == FLAT_OUT_MESSAGES
