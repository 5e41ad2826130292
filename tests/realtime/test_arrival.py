"""The moment just after a connection's lease is opened. No race on a running service hits it often enough."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from chat_service.models import Lease, NewMessage, Role
from chat_service.realtime import feed
from chat_service.realtime.endpoint import Sockets
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.messages import Messages
from chat_service.repository.presence import Presence
from chat_service.repository.trash import Trash
from tests.client import CHATS, TenantAccess
from tests.conftest import begin
from tests.wait import wait_until

FEED_SECONDS = 1.0
"""How long the feed gets to deliver what was committed before; it takes milliseconds."""


@pytest.fixture(autouse=True)
def feed_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End this process's feed with its sockets: what later tests do to a feed must hit the service's feed."""
    monkeypatch.setattr(feed, "LINGER_POLLS", 0)
    yield
    wait_until(lambda: all(thread.name != "feed" for thread in threading.enumerate()))


Happening = Callable[[str, str], object]


class BusyChat(Presence):
    """Presence that lets something happen just after a lease is opened; the feed delivers it before `open` returns."""

    def __init__(self, database: Database, happen: Happening) -> None:
        super().__init__(database)
        self._happen = happen

    def open(self, tenant_id: str, chat_id: str, *connection: Any) -> tuple[Lease, int]:
        opened = super().open(tenant_id, chat_id, *connection)
        self._happen(tenant_id, chat_id)
        time.sleep(FEED_SECONDS)
        return opened


def arrive(database: Database, new_tenant: Callable[..., TenantAccess], happen: Happening) -> Any:
    """Connect while something happens, and return what the client gets first after the accept: a frame or a close."""
    access = new_tenant()
    chat_id = Chats(database).create(access.tenant_id, None, {}).id
    scope = {
        "type": "websocket",
        "path": f"{CHATS}/{chat_id}/ws",
        "query_string": b"",
        "headers": [(b"x-api-key", access.key.encode())],
    }

    async def connect() -> list[dict[str, Any]]:
        sockets = Sockets(replace(begin(database), presence=BusyChat(database, happen)), [], 10)
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        incoming.put_nowait({"type": "websocket.connect"})
        sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def send(message: dict[str, Any]) -> None:
            if sent.empty() and message["type"] != "websocket.accept" and not accepted.is_set():
                raise RuntimeError("a server sends nothing before it has accepted")
            accepted.set()
            await sent.put(message)

        accepted = asyncio.Event()
        serving = asyncio.create_task(sockets(scope, incoming.get, send))
        outgoing = [await asyncio.wait_for(sent.get(), 10) for _ in range(2)]
        incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await serving
        await sockets.drain()
        return outgoing

    opened, frame = asyncio.run(connect())
    assert opened["type"] == "websocket.accept"
    assert database.presence.count_documents({}) == 0
    return json.loads(frame["text"]) if "text" in frame else frame


def test_a_message_posted_while_the_lease_is_opened_is_not_missed(database, new_tenant) -> None:
    def post(tenant_id: str, chat_id: str) -> None:
        Messages(database).append(tenant_id, chat_id, [NewMessage(Role.USER, "meanwhile", None, {})])

    assert arrive(database, new_tenant, post)["message"]["content"] == "meanwhile"


def test_a_change_of_the_chat_while_the_lease_is_opened_is_not_missed(database, new_tenant) -> None:
    """The frame is sent after the handshake is answered: a server sends nothing before that."""

    def change(tenant_id: str, chat_id: str) -> None:
        Chats(database).update(tenant_id, chat_id, {"title": "meanwhile"})

    frame = arrive(database, new_tenant, change)
    assert (frame["type"], frame["chat"]["title"]) == ("chat.updated", "meanwhile")


def trash_and_restore(database: Database) -> Happening:
    def happen(tenant_id: str, chat_id: str) -> None:
        deletions = Deletions(database)
        deletions.move_to_trash(tenant_id, chat_id, "key", timedelta(days=1), evict=True)
        Trash(database).restore(tenant_id, chat_id, "key")

    return happen


def test_a_restore_does_not_bring_back_connections_from_before_the_trashing(database, new_tenant) -> None:
    """A connection from before the trashing is closed after the restore too, because its lease is gone."""
    close = arrive(database, new_tenant, trash_and_restore(database))
    assert (close["type"], close["code"]) == ("websocket.close", 4410)
