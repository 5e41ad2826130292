"""Deletes that threads race on a real mongod; after each test everything is counted."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from chat_service.errors import (
    ActiveConnectionsError,
    ChatExistsError,
    ChatIdRetiredError,
    ChatNotFoundError,
    PreconditionFailedError,
)
from chat_service.models import Chat, Deletion, Lease, NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.keys import chat_key
from chat_service.repository.lifecycle import Removal
from chat_service.repository.messages import Messages
from chat_service.repository.presence import Presence
from tests.purging import purge_all
from tests.soak.conftest import number

TENANT = "tenant"
MESSAGE = [NewMessage(Role.USER, "hello", None, {})]


def race(*contenders: Callable[[], object]) -> list[object]:
    """Run the contenders at the same moment; return what each returned or raised, in their order."""
    barrier = threading.Barrier(len(contenders))

    def run(contender: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return contender()
        except (ActiveConnectionsError, ChatExistsError, ChatIdRetiredError, ChatNotFoundError) as error:
            return error

    with ThreadPoolExecutor(len(contenders)) as pool:
        return list(pool.map(run, contenders))


@pytest.fixture(autouse=True)
def audit(database: Database) -> Iterator[None]:
    """After each test and its purges, no message has no chat, no chat has a receipt, and every count is true."""
    yield
    purge_all(database)
    assert list(Checks(database).run()) == []
    counts = {receipt["_id"]["chat_id"]: receipt["message_count"] for receipt in database.deletions.find()}
    assert all(purge["purged"] == counts[purge["_id"]["chat_id"]] for purge in database.completions.find())


MANY = pytest.param(number("SOAK_DELETE_ROUNDS", 500), marks=[pytest.mark.soak, pytest.mark.timeout(900)])


@pytest.fixture(params=[20, MANY])
def rounds(request: pytest.FixtureRequest) -> int:
    """How often each race is run."""
    return int(request.param)


@pytest.fixture(params=[1_000, 0], ids=["inline", "staged"])
def deletions(request: pytest.FixtureRequest, database: Database) -> Deletions:
    """Deletes that remove the messages at once, and deletes that leave them to a purge."""
    return Deletions(database, request.param)


def test_of_concurrent_deletes_exactly_one_succeeds(
    chats: Chats, deletions: Deletions, database: Database, rounds: int
) -> None:
    """The others find no such chat, and there is one receipt."""
    for _ in range(rounds):
        chat = chats.create(TENANT, None, {})
        outcomes = race(*[lambda chat=chat: deletions.delete(TENANT, chat.id, "key")] * 6)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ChatNotFoundError"] * 5 + ["Deletion"]
    assert database.deletions.count_documents({}) == rounds


def test_each_delete_of_a_group_has_its_own_conditions(chats: Chats, presence: Presence, deletions: Deletions) -> None:
    """A refused delete affects no other, also of the same chat; of two that may succeed there, one does."""
    ids = [chats.create(TENANT, None, {}).id for _ in range(5)]
    live, evicted, changed, seen, plain = ids
    presence.open(TENANT, live, "one", "worker")
    presence.open(TENANT, evicted, "two", "worker")
    outcomes = deletions.remove_together(
        TENANT,
        [
            Removal(live, "key"),
            Removal(evicted, "key", evict=True),
            Removal(changed, "key", revisions=[7]),
            Removal(seen, "key", revisions=[1, 7]),
            Removal(plain, "key", revisions=[7]),
            Removal(plain, "key"),
            Removal(plain, "key"),
            Removal("c0ffee00-1111-4222-8333-444444444444", "key"),
        ],
    )
    expected = (
        ActiveConnectionsError,
        Deletion,
        PreconditionFailedError,
        Deletion,
        PreconditionFailedError,
        Deletion,
        ChatNotFoundError,
        ChatNotFoundError,
    )
    assert tuple(map(type, outcomes)) == expected
    assert {chat.id for chat in chats.page(TENANT, 10, None)} == {live, changed}
    presence.close_worker("worker")


def test_a_wrong_count_is_corrected_in_the_receipt(chats: Chats, messages: Messages, database: Database) -> None:
    """Each receipt counts what was removed, also if the chat's document says otherwise."""
    ids = [chats.create(TENANT, None, {}).id for _ in range(3)]
    for chat_id in ids:
        messages.append(TENANT, chat_id, MESSAGE * 2)
    database.chats.update_one({"_id": chat_key(TENANT, ids[1])}, {"$inc": {"message_count": 5}})
    Deletions(database).remove_together(TENANT, [Removal(chat_id, "key") for chat_id in ids])
    receipts = {receipt["_id"]["chat_id"]: receipt["message_count"] for receipt in database.deletions.find()}
    assert receipts == dict.fromkeys(ids, 2)


def test_a_locked_chat_delays_no_other_delete(chats: Chats, deletions: Deletions, database: Database) -> None:
    """Its delete waits for the other transaction; deletes of the same group commit and of later ones do not."""
    locked, *others = [chats.create(TENANT, None, {}).id for _ in range(25)]
    with ThreadPoolExecutor(12) as pool:
        with database.client.start_session() as session, session.start_transaction():
            database.chats.update_one({"_id": chat_key(TENANT, locked)}, {"$set": {"title": "x"}}, session=session)
            deletes = [
                pool.submit(deletions.delete, TENANT, chat_id, "key") for chat_id in [*others[:3], locked, *others[3:]]
            ]
            waiting = deletes.pop(3)
            assert all(isinstance(delete.result(10), Deletion) for delete in deletes)
            assert not waiting.done()
        assert isinstance(waiting.result(10), Deletion)


def test_a_delete_among_posts_leaves_no_orphan(
    chats: Chats, deletions: Deletions, messages: Messages, rounds: int
) -> None:
    """In contested chats, the receipt counts every acknowledged message, and none is left behind."""
    contested = 0
    while contested < 2 * rounds:
        chat = chats.create(TENANT, None, {})
        messages.append(TENANT, chat.id, MESSAGE)

        def post(chat: Chat = chat) -> int:
            posted = 0
            for _ in range(50):  # bounded: the delete ends it long before
                try:
                    messages.append(TENANT, chat.id, MESSAGE)
                except ChatNotFoundError:
                    return posted
                posted += 1
            return posted

        deletion, *posted = race(lambda chat=chat: deletions.delete(TENANT, chat.id, "key"), post, post)
        assert isinstance(deletion, Deletion)
        assert deletion.message_count == 1 + sum(number for number in posted if isinstance(number, int))
        contested += 1  # each poster went on until it was refused, so the delete fell between its posts


def test_a_chat_is_never_both_connected_and_deleted(
    chats: Chats, deletions: Deletions, presence: Presence, rounds: int
) -> None:
    """In contested chats, either the connection is opened and the delete refused, or the other way round."""
    outcomes = {Deletion: 0, ActiveConnectionsError: 0}
    rng = random.Random(1)
    for round_ in range(4 * rounds):
        chat = chats.create(TENANT, None, {})

        # So that either may come first: the commands of each take some milliseconds.
        offset = rng.uniform(-0.01, 0.01)

        def connect(chat: Chat = chat, name: str = f"connection-{round_}", offset: float = offset) -> Lease:
            time.sleep(max(offset, 0))
            return presence.open(TENANT, chat.id, name, "worker")[0]

        def delete(chat: Chat = chat, offset: float = offset) -> Deletion:
            time.sleep(max(-offset, 0))
            return deletions.delete(TENANT, chat.id, "key")

        deleted, opened = race(delete, connect)
        assert isinstance(deleted, Deletion) == isinstance(opened, ChatNotFoundError)
        assert isinstance(deleted, ActiveConnectionsError) == isinstance(opened, Lease)
        outcomes[type(deleted)] += 1
    assert min(outcomes.values()) > 0, f"no contest: {outcomes}"


def test_a_deleted_id_never_comes_back(chats: Chats, deletions: Deletions, rounds: int) -> None:
    """Creating under an id that is being deleted is refused, before and after."""
    for _ in range(rounds):
        chat = chats.create(TENANT, None, {})
        deleted, created = race(
            lambda chat=chat: deletions.delete(TENANT, chat.id, "key"),
            lambda chat=chat: chats.create(TENANT, None, {}, chat.id),
        )
        assert isinstance(deleted, Deletion)
        assert isinstance(created, ChatExistsError | ChatIdRetiredError)
        with pytest.raises(ChatIdRetiredError):
            chats.create(TENANT, None, {}, chat.id)


def test_of_concurrent_creates_under_one_id_exactly_one_succeeds(chats: Chats, rounds: int) -> None:
    """The others are refused, because the id is in use."""
    for place in range(rounds):
        chat_id = f"00000000-0000-4000-8000-{place:012x}"
        outcomes = race(*[lambda chat_id=chat_id: chats.create(TENANT, None, {}, chat_id)] * 4)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Chat"] + ["ChatExistsError"] * 3
