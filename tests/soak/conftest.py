"""The environment variables that set the length and the seed of campaigns, and the fixture that prints progress."""

import os
import random
import time
from collections.abc import Callable

import pytest


def number(name: str, default: int) -> int:
    """Return the number that an environment variable has, or the default."""
    return int(os.environ.get(name, default))


@pytest.fixture
def seed(tell) -> int:
    """Return SOAK_SEED, or a new seed; it is printed, so that the schedule can be replayed."""
    value = number("SOAK_SEED", random.randrange(2**32))
    tell(f"SOAK_SEED={value}")
    return value


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that prints a line: in a soak test while it runs, in others only if they fail."""
    began = time.monotonic()
    is_soak = request.node.get_closest_marker("soak") is not None

    def print_line(text: str) -> None:
        line = f"{time.monotonic() - began:6.0f} s  {text}"
        if not is_soak:
            print(line)  # noqa: T201 - shown when it fails
            return
        with capsys.disabled():
            print(f"\n{line}", end="", flush=True)  # noqa: T201 - progress of minutes

    return print_line
