"""The feed of what is committed: in order, without what nobody needs to be told, and never with a silent gap."""

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
    with closing(Changes(database).follow(lambda: frozenset([TENANT]), lambda _: None)) as coming:
        assert next(coming) is None
        yield coming


def following(coming: Iterator[Change | None], number: int) -> list[Change]:
    """The next changes; it gives up when there was nothing for twenty times."""
    found: list[Change] = []
    for _ in range(20 + number):
        change = next(coming)
        if change is not None:
            found.append(change)
        if len(found) == number:
            return found
    return found


def test_what_is_told_and_what_is_not(database: Database) -> None:
    """Messages, changes and deletes of chats, revoked keys; not connections, nor a post as a change of its chat."""
    keys, chats = ApiKeys(database), Chats(database)
    Tenants(database).create("t", TENANT)
    key = keys.create(TENANT, "k", Scope)[1]
    chat_id = chats.create(TENANT, None, {}).id
    with following_tenant(database) as coming:
        post(database, chat_id, "one", "two")
        lease = Presence(database).open(TENANT, chat_id, "connection", "worker").lease
        Presence(database).close("worker", [lease.connection_id])
        chats.update(TENANT, chat_id, {"title": "x"})
        Messages(database).edit(TENANT, chat_id, 1, {"content": "uno"}, "key")
        keys.rotate(TENANT, key.id, timedelta(hours=1))
        keys.revoke(TENANT, key.id)
        Deletions(database).delete(TENANT, chat_id, "key")
        found = following(coming, 8)
    assert [type(change) for change in found] == [
        *(MessageCreated, MessageCreated, ChatUpdated, ChatUpdated, KeyExpires, KeyRevoked, ChatGone)
    ]
    assert [(change.message.seq, change.message.content) for change in found[:2]] == [(1, "one"), (2, "two")]
    assert all((change.tenant_id, change.chat_id) == (TENANT, chat_id) for change in (*found[:4], found[6]))
    assert found[4].key_id == key.id
    assert found[5] == KeyRevoked(key.id)


@pytest.mark.parametrize("fault", [{"closeConnection": True}, {"errorCode": 91}, {"errorCode": 43}])
def test_an_interrupted_stream_goes_on_without_a_gap(database: Database, failpoint, fault) -> None:
    """A cut connection, a server that shuts down, a cursor that is gone."""
    chat_id = Chats(database).create(TENANT, None, {}).id
    with following_tenant(database) as coming:
        post(database, chat_id, "one")
        assert following(coming, 1)[0].message.content == "one"
        failpoint.arm("getMore", times=2, **fault)
        post(database, chat_id, "two", "three")
        assert [change.message.content for change in following(coming, 2)] == ["two", "three"]


def test_another_tenant_is_followed_from_where_the_stream_stands(database: Database) -> None:
    """What was committed for it since the last change was read is told; before, nobody wanted to hear of it."""
    chats, wanted, opened = Chats(database), {TENANT}, []
    chat_ids = {tenant_id: chats.create(tenant_id, None, {}).id for tenant_id in (TENANT, "other")}

    def post_to(tenant_id: str, content: str) -> None:
        Messages(database).append(tenant_id, chat_ids[tenant_id], [NewMessage(Role.USER, content, None, {})])

    with closing(Changes(database).follow(lambda: frozenset(wanted), opened.append)) as coming:
        assert next(coming) is None
        post_to("other", "unheard")
        post_to(TENANT, "one")
        assert [change.message.content for change in following(coming, 2)] == ["one"]
        wanted.add("other")
        post_to("other", "two")
        post_to(TENANT, "three")
        assert [change.message.content for change in following(coming, 2)] == ["two", "three"]
    assert opened == [{TENANT}, {TENANT, "other"}]


def test_a_stream_that_cannot_go_on_says_so(database: Database, failpoint) -> None:
    """The server no longer has what came after the last change (ChangeStreamHistoryLost)."""
    with following_tenant(database) as coming:
        failpoint.arm("getMore", times=1, errorCode=286)
        with pytest.raises(ChangesLostError):
            following(coming, 1)


def test_a_paused_server_is_waited_for(tmp_path: Path) -> None:
    """SIGSTOP for longer than one question: nothing is lost when it wakes up."""
    with EmbeddedMongod(tmp_path) as own:
        database = Database(own.uri)
        database.prepare()
        chat_id = Chats(database).create(TENANT, None, {}).id
        with following_tenant(database) as coming:
            post(database, chat_id, "one")
            with paused(own.process.pid):
                assert next(coming) is None
            post(database, chat_id, "two")
            assert [change.message.content for change in following(coming, 2)] == ["one", "two"]
        database.close()
