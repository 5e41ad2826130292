"""The running service, seen by one tenant."""

from collections.abc import Callable, Iterator

import pymongo
import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.repository.database import APP_NAME
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


SLOW_SECONDS = 1.5
"""What happens while a commit takes so long happens in the middle of it."""

Begun = Callable[[], object]


@pytest.fixture
def slow_commit(mongod: EmbeddedMongod) -> Iterator[Callable[..., Begun]]:
    """Have the next commit take its time; what is returned waits until it has begun."""
    data = {"failCommands": ["commitTransaction"], "appName": APP_NAME, "blockConnection": True}
    point = {"configureFailPoint": "failCommand", "mode": {"times": 1}}
    with pymongo.MongoClient(mongod.uri) as client:

        def arm(seconds: float = SLOW_SECONDS) -> Begun:
            entered = client.admin.command({**point, "data": {**data, "blockTimeMS": int(seconds * 1000)}})
            wait = {"waitForFailPoint": "failCommand", "timesEntered": entered["count"] + 1, "maxTimeMS": 10_000}
            return lambda: client.admin.command(wait)

        yield arm
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
