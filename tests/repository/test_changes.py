"""The change feed: committed changes in order, only those that sockets need, and never with a silent gap."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.errors import ChangesLostError
from chat_service.models import (
    Change,
    ChatGone,
    ChatUpdated,
    KeyExpires,
    KeyRevoked,
    MessageCreated,
    NewMessage,
    Role,
    Scope,
)
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.changes import Changes
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.messages import Messages
from chat_service.repository.presence import Presence
from chat_service.repository.tenants import Tenants
from tests.pause import paused

TENANT = "t"


def post(database: Database, chat_id: str, *contents: str) -> None:
    Messages(database).append(TENANT, chat_id, [NewMessage(Role.USER, content, None, {}) for content in contents])


@contextmanager
def following_tenant(database: Database) -> Iterator[Iterator[Change | None]]:
    """Follow the tenant from now on."""
    with closing(Changes(database).follow(lambda: frozenset([TENANT]), lambda _: None)) as changes:
        assert next(changes) is None
        yield changes


def next_changes(changes: Iterator[Change | None], number: int) -> list[Change]:
    """Return the next changes, or fewer than `number` when the feed was empty twenty times."""
    received: list[Change] = []
    for _ in range(20 + number):
        change = next(changes)
        if change is not None:
            received.append(change)
        if len(received) == number:
            return received
    return received


def test_which_changes_are_in_the_feed(database: Database) -> None:
    """It has new messages, changed and deleted chats and ended keys, but no connections, and a post only once."""
    keys, chats = ApiKeys(database), Chats(database)
    Tenants(database).create("t", TENANT)
    key = keys.create(TENANT, "k", Scope)[1]
    chat_id = chats.create(TENANT, None, {}).id
    with following_tenant(database) as changes:
        post(database, chat_id, "one", "two")
        lease = Presence(database).open(TENANT, chat_id, "connection", "worker").lease
        Presence(database).close("worker", [lease.connection_id])
        chats.update(TENANT, chat_id, {"title": "x"})
        Messages(database).edit(TENANT, chat_id, 1, {"content": "uno"}, "key")
        keys.rotate(TENANT, key.id, timedelta(hours=1))
        keys.revoke(TENANT, key.id)
        Deletions(database).delete(TENANT, chat_id, "key")
        received = next_changes(changes, 8)
    assert [type(change) for change in received] == [
        *(MessageCreated, MessageCreated, ChatUpdated, ChatUpdated, KeyExpires, KeyRevoked, ChatGone)
    ]
    assert [(change.message.seq, change.message.content) for change in received[:2]] == [(1, "one"), (2, "two")]
    assert all((change.tenant_id, change.chat_id) == (TENANT, chat_id) for change in (*received[:4], received[6]))
    assert received[4].key_id == key.id
    assert received[5] == KeyRevoked(key.id)


@pytest.mark.parametrize("fault", [{"closeConnection": True}, {"errorCode": 91}, {"errorCode": 43}])
def test_an_interrupted_stream_continues_without_a_gap(database: Database, failpoint, fault) -> None:
    """The interruption is a closed connection, a server that shuts down, or a cursor that no longer exists."""
    chat_id = Chats(database).create(TENANT, None, {}).id
    with following_tenant(database) as changes:
        post(database, chat_id, "one")
        assert next_changes(changes, 1)[0].message.content == "one"
        failpoint.arm("getMore", times=2, **fault)
        post(database, chat_id, "two", "three")
        assert [change.message.content for change in next_changes(changes, 2)] == ["two", "three"]


def test_another_tenant_is_followed_from_the_current_position_of_the_stream(database: Database) -> None:
    """Its changes since the last change that was read are in the feed; earlier ones are not."""
    chats, followed, opened = Chats(database), {TENANT}, []
    chat_ids = {tenant_id: chats.create(tenant_id, None, {}).id for tenant_id in (TENANT, "other")}

    def post_to(tenant_id: str, content: str) -> None:
        Messages(database).append(tenant_id, chat_ids[tenant_id], [NewMessage(Role.USER, content, None, {})])

    with closing(Changes(database).follow(lambda: frozenset(followed), opened.append)) as changes:
        assert next(changes) is None
        post_to("other", "unheard")
        post_to(TENANT, "one")
        assert [change.message.content for change in next_changes(changes, 2)] == ["one"]
        followed.add("other")
        post_to("other", "two")
        post_to(TENANT, "three")
        assert [change.message.content for change in next_changes(changes, 2)] == ["two", "three"]
    assert opened == [{TENANT}, {TENANT, "other"}]


def test_a_stream_that_cannot_continue_raises(database: Database, failpoint) -> None:
    """The server no longer has the changes after the last one that was read (ChangeStreamHistoryLost)."""
    with following_tenant(database) as changes:
        failpoint.arm("getMore", times=1, errorCode=286)
        with pytest.raises(ChangesLostError):
            next_changes(changes, 1)


def test_a_paused_server_is_waited_for(tmp_path: Path) -> None:
    """After a SIGSTOP that is longer than one getMore, no change is lost."""
    with EmbeddedMongod(tmp_path) as own:
        database = Database(own.uri)
        database.prepare()
        chat_id = Chats(database).create(TENANT, None, {}).id
        with following_tenant(database) as changes:
            post(database, chat_id, "one")
            with paused(own.process.pid):
                assert next(changes) is None
            post(database, chat_id, "two")
            assert [change.message.content for change in next_changes(changes, 2)] == ["one", "two"]
        database.close()
