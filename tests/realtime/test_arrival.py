"""The one moment on the way in that no race on a running service hits often enough."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

from chat_service.api.context import Repositories
from chat_service.models import Lease, NewMessage, Role
from chat_service.realtime.endpoint import Sockets
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.limits import RateLimits
from chat_service.repository.messages import Messages
from chat_service.repository.presence import ConnectionCaps, Presence
from tests.client import CHATS

FEED_SECONDS = 1.0
"""In which the feed has brought what was committed before it began; it takes milliseconds."""


class BusyChat(Presence):
    """Somebody posts just after the lease is opened, and the feed brings that before the opener hears that it is."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._messages = Messages(database)

    def open(self, tenant_id: str, chat_id: str, connection_id: str, worker_id: str) -> tuple[Lease, int]:
        found = super().open(tenant_id, chat_id, connection_id, worker_id)
        self._messages.append(tenant_id, chat_id, [NewMessage(Role.USER, "meanwhile", None, {})])
        time.sleep(FEED_SECONDS)
        return found


def test_what_comes_while_the_lease_is_opened_is_not_missed(database, new_tenant) -> None:
    access = new_tenant()
    chat_id = Chats(database).create(access.tenant_id, None, {}).id
    scope = {
        "type": "websocket",
        "path": f"{CHATS}/{chat_id}/ws",
        "query_string": b"",
        "headers": [(b"x-api-key", access.key.encode())],
    }

    async def connect() -> list[dict[str, Any]]:
        repositories = Repositories.on(database, 1_000, RateLimits(database, {}), ConnectionCaps())
        sockets = Sockets(replace(repositories, presence=BusyChat(database)), [], 10)
        coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        coming.put_nowait({"type": "websocket.connect"})
        sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        serving = asyncio.create_task(sockets(scope, coming.get, sent.put))
        found = [await asyncio.wait_for(sent.get(), 10) for _ in range(2)]
        coming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await serving
        await sockets.drain()
        return found

    accepted, frame = asyncio.run(connect())
    assert accepted["type"] == "websocket.accept"
    assert json.loads(frame["text"])["message"]["content"] == "meanwhile"
    assert database.presence.count_documents({}) == 0
