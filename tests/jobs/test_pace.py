"""The pace of a purge, told times instead of waiting for them."""

from chat_service.jobs.pace import FEW_OPERATIONS, FLAT_OUT_MESSAGES, POLITE_MESSAGES, POLITE_REST, REST_MOST, Pace

QUIET = 0.001
MANY = FEW_OPERATIONS + 1


def paced(*reads: float, others: int = 0) -> Pace:
    pace = Pace()
    pace.learn_others(others)
    for seconds in reads:
        pace.learn(seconds)
    return pace


def test_goes_flat_out_on_a_quiet_database() -> None:
    """Large batches, and no rest."""
    pace = paced(*[QUIET] * 20)
    assert (pace.batch, pace.rest(1)) == (FLAT_OUT_MESSAGES, 0)


def test_slow_reads_alone_are_nothing() -> None:
    """A checkpoint is not a crowd: with nobody there a purge goes flat out, however slow the reads are."""
    assert paced(*[QUIET] * 20, *[QUIET * 50] * 20).rest(1) == 0


def test_steps_aside_for_requests_that_have_to_queue() -> None:
    """The rests grow up to their limit while reads stay slow, and shrink again."""
    crowded = [QUIET * 3] * 3
    assert paced(*[QUIET] * 20, QUIET * 50, others=MANY).rest(1) == POLITE_REST, "one slow read is not a crowd"
    assert paced(*[QUIET] * 50, *crowded * 10, others=MANY).rest(1) == REST_MOST
    assert paced(*[QUIET] * 50, *crowded * 10, *[QUIET] * 40, others=MANY).rest(1) == POLITE_REST


def test_is_polite_among_others() -> None:
    """Small batches and rests from the first sign of requests, and flat out again when they have gone."""
    pace = paced(*[QUIET] * 20)
    pace.learn_others(FEW_OPERATIONS)
    assert pace.batch == FLAT_OUT_MESSAGES
    pace.learn_others(FEW_OPERATIONS + 1)
    assert (pace.batch, pace.rest(1)) == (POLITE_MESSAGES, POLITE_REST)
    pace.learn_others(1)
    assert (pace.batch, pace.rest(1)) == (FLAT_OUT_MESSAGES, 0)
