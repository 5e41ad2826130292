"""Imports of several transactions: the chat becomes complete at once, or nothing can be read and nothing stays."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from chat_service.errors import DatabaseUnavailableError, ImportTooLargeError
from chat_service.models import Chat, IdempotencyKey, Message, NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deadline import set_deadline
from chat_service.repository.imports import Import, Imports
from chat_service.repository.messages import Messages
from chat_service.repository.purges import LEASE
from tests.purging import purge_all

TENANT = "t" * 36


@pytest.fixture
def chat(database: Database) -> Chat:
    now = database.now()
    return Chat(str(uuid.uuid4()), "back", {}, 0, 0, created_at=now, updated_at=now, last_message_at=now, revision=1)


@pytest.fixture
def no_deadline() -> Iterator[None]:
    yield
    set_deadline(None)


def batch(database: Database, first: int, size: int = 3) -> list[Message]:
    now = database.now()
    return [Message(seq, "user", None, "x", {}, now, None) for seq in range(first, first + size)]


def purge(database: Database) -> None:
    purge_all(database)


def give_up(database: Database, chat: Chat) -> None:
    with Imports(database).begin(TENANT, chat) as begun:
        begun.add(batch(database, 1))
        begun.add(batch(database, 4))
        raise ValueError("line")


def stored(database: Database) -> tuple[int, int, int]:
    return tuple(database.collections[name].count_documents({}) for name in ("chats", "messages", "purges"))


def test_the_chat_exists_only_when_all_messages_are_stored(database: Database, chat: Chat) -> None:
    """Staged messages belong to no chat, and `check` accepts them; at the end the chat exists with all of them."""
    with Imports(database).begin(TENANT, chat) as begun:
        for first in (1, 4, 7):
            begun.add(batch(database, first))
        assert stored(database) == (0, 6, 1)
        assert list(Checks(database).run()) == []
        made = begun.finish()
    assert (made.id, made.message_count) == (chat.id, 9)
    assert stored(database) == (1, 9, 0)
    assert list(Checks(database).run()) == []
    assert Chats(database).get(TENANT, chat.id).message_count == 9
    posted = Messages(database).append(TENANT, chat.id, [NewMessage(Role.USER, "next", None, {})])
    assert [message.seq for message in posted] == [10]


def test_an_import_that_is_given_up_leaves_nothing(database: Database, chat: Chat) -> None:
    with pytest.raises(ValueError, match="line"):
        give_up(database, chat)
    purge(database)
    assert stored(database) == (0, 0, 0)


@pytest.mark.parametrize("go_on", [lambda begun, more: begun.add(more), lambda begun, _: begun.finish()])
def test_an_import_that_was_paused_for_too_long_leaves_nothing(database: Database, chat: Chat, go_on) -> None:
    """Its lease has expired, so a purge worker removes its staged messages: it can neither continue nor finish."""
    begun = Import(database, TENANT, chat)
    begun.add(batch(database, 1))
    begun.add(batch(database, 4))
    database.purges.update_many({}, {"$set": {"lease_until": database.now() - LEASE}})
    purge(database)
    with pytest.raises(DatabaseUnavailableError):
        go_on(begun, batch(database, 7))
    begun.give_up()
    assert stored(database) == (0, 0, 0)


def test_a_retry_leaves_only_the_first_chat(database: Database, chat: Chat) -> None:
    """The retry stages all its messages before it finds the first import's result, and they are purged."""
    key = IdempotencyKey(TENANT, "key", "fingerprint")
    made = set()
    for chat_id in (chat.id, str(uuid.uuid4())):
        with Imports(database).begin(TENANT, replace(chat, id=chat_id)) as begun:
            begun.add(batch(database, 1))
            begun.add(batch(database, 4))
            made.add(begun.finish(key).id)
    purge(database)
    assert made == {chat.id}
    assert stored(database) == (1, 6, 0)


@pytest.mark.usefixtures("no_deadline")
def test_an_import_that_takes_too_long_is_too_large(database: Database, chat: Chat) -> None:
    """The error is not that of an outage, because a retry would not help."""
    begun = Import(database, TENANT, chat)
    begun.add(batch(database, 1))
    set_deadline(time.monotonic())
    with pytest.raises(ImportTooLargeError):
        begun.add(batch(database, 4))
