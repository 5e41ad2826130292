"""Fixtures: the running service as one tenant sees it, and a slow commit."""

from collections.abc import Callable, Iterator

import pytest

from tests.client import TenantAccess
from tests.failpoint import FailPoint
from tests.realtime.sockets import Service


@pytest.fixture
def new_tenant(live) -> Callable[..., TenantAccess]:
    return live[1]


@pytest.fixture
def service(live, database) -> Iterator[Service]:
    running = Service(live[0], live[1](), database)
    with running.peers:
        yield running


SLOW_SECONDS = 1.5
"""How long a slow commit takes: long enough for a test to act in the middle of it."""

Begun = Callable[[], object]


@pytest.fixture
def slow_commit(failpoint: FailPoint) -> Callable[..., Begun]:
    """A function that slows down the next commit, and returns a function that waits until that commit has begun."""

    def arm(seconds: float = SLOW_SECONDS) -> Begun:
        return failpoint.block("commitTransaction", seconds=seconds, times=1)

    return arm
