"""Trash, restore, expiry and delete race with each other and with all other changes of a chat; then all is counted."""

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from chat_service.errors import ActiveConnectionsError, ChatNotFoundError, ChatServiceError, NotInTrashError
from chat_service.models import Chat, Deletion, Lease, NewMessage, Role, Span, Trashing
from chat_service.repository.bulk import Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.expired import Expired
from chat_service.repository.keys import chat_key, message_range
from chat_service.repository.messages import Messages
from chat_service.repository.presence import Presence
from chat_service.repository.trash import Trash
from tests.numbering import number_all
from tests.purging import purge_all
from tests.soak.conftest import number
from tests.soak.log import check_log, read_log

TENANT = "tenant"
DAY = timedelta(days=1)
MESSAGE = [NewMessage(Role.USER, "hello", None, {})]


MANY = pytest.param(number("SOAK_TRASH_ROUNDS", 900), marks=[pytest.mark.soak, pytest.mark.timeout(900)])


@pytest.fixture(params=[20, MANY])
def rounds(request: pytest.FixtureRequest) -> range:
    """How often each race is run; over all tests and both kinds of deletes, `make soak` runs 10,800."""
    return range(request.param)


class World:
    """Everything that can happen to a chat."""

    def __init__(self, database: Database, inline_limit: int) -> None:
        self.database = database
        self.chats = Chats(database)
        self.messages = Messages(database, inline_limit)
        self.presence = Presence(database)
        self.deletions = Deletions(database, inline_limit)
        self.trash = Trash(database)
        self.expired = Expired(database, self.deletions)
        self.bulk = Bulk(database, self.deletions)

    def new_chat(self, messages: int = 3) -> str:
        chat_id = self.chats.create(TENANT, None, {}).id
        self.messages.append(TENANT, chat_id, MESSAGE * messages)
        return chat_id

    def move(self, chat_id: str) -> Trashing:
        return self.deletions.move_to_trash(TENANT, chat_id, "key", DAY)

    def states(self, chat_id: str) -> list[str]:
        """Return the collections that have the chat: exactly one, if all is well."""
        key = {"_id": chat_key(TENANT, chat_id)}
        return [name for name in ("chats", "trash", "deletions") if self.database.database[name].find_one(key)]

    def all_states(self) -> dict[str, str]:
        """Return the state that the log should end with, by chat, when all purges have ended."""
        states = {"chats": "live", "trash": "trashed", "deletions": "purged"}
        return {
            document["_id"]["chat_id"]: state
            for name, state in states.items()
            for document in self.database.database[name].find({}, {"_id": True})
        }


@pytest.fixture(params=[1_000, 0], ids=["inline", "staged"])
def world(request: pytest.FixtureRequest, database: Database) -> Iterator[World]:
    raced = World(database, request.param)
    yield raced
    assert list(Checks(database).run()) == []
    purge_all(database)
    assert list(Checks(database).run()) == []
    counts = {receipt["_id"]["chat_id"]: receipt["message_count"] for receipt in database.deletions.find()}
    assert all(purge["purged"] == counts[purge["_id"]["chat_id"]] for purge in database.completions.find())
    number_all(database)
    assert list(check_log(read_log(database, TENANT), {}, raced.all_states())) == []


def race(*contenders: Callable[[], object]) -> list[object]:
    """Run the contenders at about the same moment; return what each returned or raised, in the given order."""
    barrier = threading.Barrier(len(contenders))

    def run(contender: Callable[[], object]) -> object:
        barrier.wait()
        threading.Event().wait(random.random() * 0.004)
        try:
            return contender()
        except ChatServiceError as error:
            return error

    with ThreadPoolExecutor(len(contenders)) as pool:
        return list(pool.map(run, contenders))


def test_a_trash_and_a_delete_end_in_a_delete(world: World, rounds: range) -> None:
    """Whichever is first, the chat is deleted in the end; the trash succeeds, or finds no chat."""
    seen = Counter[str]()
    for _ in rounds:
        chat_id = world.new_chat()
        moved, deleted = race(
            lambda chat_id=chat_id: world.move(chat_id),
            lambda chat_id=chat_id: world.deletions.delete(TENANT, chat_id, "key"),
        )
        assert isinstance(deleted, Deletion), "a chat in the trash is deleted too"
        assert isinstance(moved, Trashing | ChatNotFoundError)
        assert world.states(chat_id) == ["deletions"]
        seen[type(moved).__name__] += 1
    assert len(seen) == 2, seen


def test_a_restore_and_a_delete_never_leave_the_chat_twice(world: World, rounds: range) -> None:
    """A restore races with a purge out of the trash, or with a delete that succeeds wherever the chat is."""
    seen = Counter[str]()
    for round_ in rounds:
        chat_id = world.new_chat()
        world.move(chat_id)
        of_trash = bool(round_ % 2)
        restored, deleted = race(
            lambda chat_id=chat_id: world.trash.restore(TENANT, chat_id, "key"),
            lambda chat_id=chat_id, of_trash=of_trash: world.deletions.delete(
                TENANT, chat_id, "key", of_trash=of_trash
            ),
        )
        if of_trash:
            assert isinstance(restored, Chat) != isinstance(deleted, Deletion)
        else:
            assert isinstance(deleted, Deletion)
        assert world.states(chat_id) == (["deletions"] if isinstance(deleted, Deletion) else ["chats"])
        seen[f"{type(restored).__name__} {type(deleted).__name__}"] += 1
    assert len(seen) >= 3, seen


def test_an_expiry_deletes_no_restored_chat(world: World, rounds: range) -> None:
    """The chat expires during the race: the restore comes in time, or does not find it in the trash."""
    for _ in rounds:
        chat_id = world.new_chat()
        world.move(chat_id)
        soon = world.database.now() + timedelta(milliseconds=random.randint(0, 6))
        world.database.trash.update_one({"_id": chat_key(TENANT, chat_id)}, {"$set": {"purge_at": soon}})
        restored, _ = race(
            lambda chat_id=chat_id: world.trash.restore(TENANT, chat_id, "key"),
            lambda: [world.expired.take_some(TENANT, 10) for _ in range(5)],
        )
        while not isinstance(restored, Chat) and world.states(chat_id) == ["trash"]:
            world.expired.take_some(TENANT, 10)
        assert isinstance(restored, Chat | NotInTrashError)
        assert world.states(chat_id) == (["chats"] if isinstance(restored, Chat) else ["deletions"])


def test_a_message_is_in_the_chat_or_refused(world: World, rounds: range) -> None:
    """Posts race with trash and restore: the chat has each acknowledged message in the end."""
    for _ in rounds:
        chat_id = world.new_chat(1)
        outcomes = race(
            lambda chat_id=chat_id: world.move(chat_id),
            lambda chat_id=chat_id: world.trash.restore(TENANT, chat_id, "key"),
            *[lambda chat_id=chat_id: world.messages.append(TENANT, chat_id, MESSAGE)] * 3,
        )
        posted = sum(isinstance(outcome, list) for outcome in outcomes)
        if world.states(chat_id) == ["trash"]:
            world.trash.restore(TENANT, chat_id, "key")
        assert world.states(chat_id) == ["chats"]
        assert len(world.messages.page(TENANT, chat_id, Span(), 50)) == 1 + posted


def test_a_connection_and_a_trashing_never_both_succeed(world: World, rounds: range) -> None:
    """No chat in the trash has a connection, nor does one that was restored keep a connection from before."""
    for _ in rounds:
        chat_id, connection_id = world.new_chat(), str(uuid.uuid4())
        moved, opened = race(
            lambda chat_id=chat_id: world.move(chat_id),
            lambda chat_id=chat_id, id_=connection_id: world.presence.open(TENANT, chat_id, id_, "worker")[0],
        )
        assert isinstance(moved, Trashing) != isinstance(opened, Lease)
        if isinstance(opened, Lease):
            assert isinstance(moved, ActiveConnectionsError)
            world.presence.close("worker", [connection_id])
        assert world.database.presence.count_documents({}) == 0


def test_everything_at_once(world: World, rounds: range) -> None:
    """Trash, restore, delete, bulk, create, purge and empty: one delete succeeds, and the chat is gone."""
    for _ in rounds:
        chat_id = world.new_chat()
        outcomes = race(
            lambda chat_id=chat_id: world.move(chat_id),
            lambda chat_id=chat_id: world.trash.restore(TENANT, chat_id, "key"),
            lambda chat_id=chat_id: world.bulk.remove(TENANT, [chat_id], "key", keep=DAY)[chat_id],
            lambda chat_id=chat_id: world.bulk.restore(TENANT, [chat_id], "key")[chat_id],
            lambda chat_id=chat_id: world.messages.clear(TENANT, chat_id, "key"),
            lambda chat_id=chat_id: world.chats.create(TENANT, None, {}, chat_id),
            lambda chat_id=chat_id: world.deletions.delete(TENANT, chat_id, "key"),
            lambda chat_id=chat_id: world.deletions.delete(TENANT, chat_id, "key", of_trash=True),
        )
        assert sum(isinstance(outcome, Deletion) for outcome in outcomes) == 1
        assert not isinstance(outcomes[5], Chat)
        assert world.states(chat_id) == ["deletions"]
    purge_all(world.database)
    assert world.database.messages.count_documents({"_id": message_range(TENANT, chat_id)}) == 0
