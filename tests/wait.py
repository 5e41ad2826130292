"""Waiting for a condition, with a deadline."""

import os
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("PATIENCE", "3"))
"""The factor by which tests stretch promised times, because the machine does other things too; `make soak` sets 1."""


def wait_until(condition: Callable[[], object], seconds: float = 60.0, every: float = 0.02) -> None:
    """Check the condition `every` so many seconds until it holds; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)
