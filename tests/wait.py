"""Waiting for what comes in its own time, and not for longer."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 10.0, every: float = 0.02) -> None:
    """Look until it holds, `every` so many seconds; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)
