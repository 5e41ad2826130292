"""The running service, seen by one tenant."""

from collections.abc import Callable, Iterator

import pytest

from tests.client import TenantAccess
from tests.realtime.sockets import Service


@pytest.fixture
def new_tenant(live) -> Callable[..., TenantAccess]:
    return live[1]


@pytest.fixture
def service(live, database) -> Iterator[Service]:
    found = Service(live[0], live[1](), database)
    with found.peers:
        yield found
