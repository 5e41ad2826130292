"""The running service, seen by one tenant."""

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
    found = Service(live[0], live[1](), database)
    with found.peers:
        yield found


SLOW_SECONDS = 1.5
"""What happens while a commit takes so long happens in the middle of it."""

Begun = Callable[[], object]


@pytest.fixture
def slow_commit(failpoint: FailPoint) -> Callable[..., Begun]:
    """Have the next commit take its time; what is returned waits until it has begun."""

    def arm(seconds: float = SLOW_SECONDS) -> Begun:
        return failpoint.block("commitTransaction", seconds=seconds, times=1)

    return arm
