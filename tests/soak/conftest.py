"""How campaigns are told how long to be, and how they tell how far they are."""

import os
import random
import time
from collections.abc import Callable

import pytest


def number(name: str, default: int) -> int:
    """What an environment variable asks for."""
    return int(os.environ.get(name, default))


@pytest.fixture
def seed(tell) -> int:
    """SOAK_SEED, or a new one; printed, so that the schedule can be replayed."""
    found = number("SOAK_SEED", random.randrange(2**32))
    tell(f"SOAK_SEED={found}")
    return found


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line while the test runs; of one that is not a soak only when it fails."""
    began = time.monotonic()
    aloud = request.node.get_closest_marker("soak") is not None

    def say(text: str) -> None:
        line = f"{time.monotonic() - began:6.0f} s  {text}"
        if not aloud:
            print(line)  # noqa: T201 - shown when it fails
            return
        with capsys.disabled():
            print(f"\n{line}", end="", flush=True)  # noqa: T201 - progress of minutes

    return say
