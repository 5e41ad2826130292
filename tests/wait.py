"""Waiting for what comes in its own time, and not for longer."""

import os
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("PATIENCE", "3"))
"""Times what is promised, on a machine that does other things as well; `make soak` has one to itself, and sets 1."""


def wait_until(condition: Callable[[], object], seconds: float = 60.0, every: float = 0.02) -> None:
    """Look until it holds, `every` so many seconds; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)
