"""Group commit: who shares a transaction with whom, in which order, and what each hears of it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from pymongo.errors import BulkWriteError

from chat_service.api.message_schemas import CONTENT_CHARACTERS
from chat_service.errors import ChatNotFoundError, ChatServiceError, DatabaseUnavailableError
from chat_service.models import Message, NewMessage, Role, Span
from chat_service.repository import together
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_key, message_key
from chat_service.repository.messages import COMMAND_MESSAGES, Messages
from chat_service.repository.together import Bounds, GroupCommit, Unit
from tests.wait import wait_until

DEADQUEUE_SECONDS = 10


def posted(*contents: str) -> list[NewMessage]:
    return [NewMessage(Role.USER, content, None, {}) for content in contents]


class Chat:
    """Stands for the transaction: it waits to be let through, and fails where it is told to."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []
        self.gate = threading.Semaphore(0)
        self.failure: Callable[[list[str]], Exception | None] = lambda _: None
        self.blocked: set[str] = set()
        """Chats that a transaction does not get through to."""
        self.missing: set[str] = set()
        self.begun: set[str] = set()
        self.group_commit = GroupCommit(self.carry, Bounds(units=5, size=100))
        self.pool = ThreadPoolExecutor(16)

    def carry(
        self, tenant_id: str, items: Sequence[tuple[str, str]], again: Callable[[], None]
    ) -> list[str | ChatServiceError]:
        del tenant_id
        names = [name for _, name in items]
        self.transactions.append(names)
        self.begun.update(names)
        assert self.gate.acquire(timeout=DEADQUEUE_SECONDS)
        chats = {chat_id for chat_id, _ in items}
        if not self.blocked.isdisjoint(chats):
            again()
            wait_until(lambda: self.blocked.isdisjoint(chats))
        error = self.failure(names)
        if error is not None:
            raise error
        return [ChatNotFoundError() if chat_id in self.missing else name.upper() for chat_id, name in items]

    def send(self, name: str, size: int = 0, *, alone: bool = False, chat_id: str = "chat") -> Future[str]:
        """Send a unit, and return when it stands in the queue or runs."""
        unit = Unit[tuple[str, str], str](chat_id, (chat_id, name), size, goes_alone=alone)
        sent = self.pool.submit(self.group_commit.run, "tenant", unit)
        wait_until(lambda: name in self.begun or name in self.waiting())
        return sent

    def waiting(self) -> list[str]:
        with self.group_commit._lock:
            return [unit.item[1] for queue in self.group_commit._queues.values() for unit in queue.waiting]

    def let(self, transactions: int) -> None:
        for _ in range(transactions):
            self.gate.release()


@pytest.fixture
def chat() -> Iterator[Chat]:
    found = Chat()
    yield found
    found.let(100)
    found.pool.shutdown()
    assert found.group_commit._queues == {}, "a queue was left behind"


def verdict(sent: Future[str]) -> object:
    error = sent.exception(DEADQUEUE_SECONDS)
    return error if error is not None else sent.result()


def verdicts(sent: Sequence[Future[str]]) -> list[object]:
    return [verdict(one) for one in sent]


def test_who_comes_during_a_transaction_shares_the_next(chat: Chat) -> None:
    """In the order they came, and each hears of its own."""
    sent = [chat.send(name) for name in "abcd"]
    chat.let(2)
    assert verdicts(sent) == ["A", "B", "C", "D"]
    assert chat.transactions == [["a"], ["b", "c", "d"]]


def test_chats_share_a_transaction(chat: Chat) -> None:
    """One that is refused spoils no other."""
    chat.missing = {"gone"}
    sent = [chat.send("a"), chat.send("b"), chat.send("c", chat_id="gone"), chat.send("d", chat_id="d")]
    chat.let(2)
    assert verdicts([sent[0], sent[1], sent[3]]) == ["A", "B", "D"]
    assert isinstance(verdict(sent[2]), ChatNotFoundError)
    assert chat.transactions == [["a"], ["b", "c", "d"]]


def test_a_blocked_chat_stalls_no_other(chat: Chat) -> None:
    """Its units are tried again for as long as it takes; those that shared with it, and the queue, go on."""
    chat.blocked = {"b"}
    sent = [chat.send("a"), *[chat.send(name, chat_id=name) for name in "bc"], chat.send("b2", chat_id="b")]
    chat.let(20)
    assert verdicts([sent[0], sent[2]]) == ["A", "C"]
    for name in "defgh":
        assert verdict(chat.send(name, chat_id=name)) == name.upper()
    assert not sent[1].done()
    assert not sent[3].done()
    chat.blocked = set()
    assert verdicts([sent[1], sent[3]]) == ["B", "B2"]


def test_a_lone_blocked_chat_lets_the_queue_go_on(chat: Chat) -> None:
    """It is not even in the way of what comes later."""
    chat.blocked = {"b"}
    chat.let(20)
    sent = chat.send("b", chat_id="b")
    for name in "cde":
        assert verdict(chat.send(name, chat_id=name)) == name.upper()
    chat.blocked = set()
    assert verdict(sent) == "B"


def test_who_goes_alone_goes_in_its_turn(chat: Chat) -> None:
    """Nobody overtakes it, and nobody is carried with it."""
    sent = [chat.send("a"), chat.send("b"), chat.send("c", alone=True), chat.send("d"), chat.send("e")]
    chat.let(4)
    assert verdicts(sent) == list("ABCDE")
    assert chat.transactions == [["a"], ["b"], ["c"], ["d", "e"]]


def test_those_that_go_alone_on_several_chats_wait_for_nobody(chat: Chat) -> None:
    """However many there are: they could not share."""
    sent = [chat.send(name, alone=True, chat_id=name) for name in "abcdef"]
    wait_until(lambda: sorted(chat.transactions) == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]])
    chat.let(6)
    assert verdicts(sent) == list("ABCDEF")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([0] * 6, [5, 1]), ([60, 40, 1], [2, 1]), ([101, 1], [1, 1])],
    ids=["units", "size", "more than fits goes by itself"],
)
def test_a_group_is_bounded(chat: Chat, sizes: list[int], expected: list[int]) -> None:
    sent = [chat.send("first"), *[chat.send(f"{number}", size) for number, size in enumerate(sizes)]]
    chat.let(3)
    assert verdicts(sent) == ["FIRST", *[f"{number}" for number in range(len(sizes))]]
    assert [len(names) for names in chat.transactions] == [1, *expected]


@pytest.mark.parametrize("error", [ChatNotFoundError(), DatabaseUnavailableError()])
def test_the_error_of_a_transaction_is_everybodys(chat: Chat, error: ChatServiceError) -> None:
    """Nothing of it happened, for any of them."""
    chat.failure = lambda names: error if "c" in names else None
    sent = [chat.send("a"), chat.send("b"), chat.send("c")]
    chat.let(2)
    assert verdicts(sent) == ["A", error, error]


def test_what_the_database_refuses_spoils_nobody_elses(chat: Chat) -> None:
    """Each unit of a transaction that was refused is tried by itself."""
    refusal = ValueError("this document")
    chat.failure = lambda names: refusal if "c" in names else None
    sent = [chat.send(name) for name in "abcd"]
    chat.let(5)
    assert verdicts(sent) == ["A", "B", refusal, "D"]
    assert chat.transactions == [["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]]


def test_nobody_stands_in_a_queue_for_ever(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not carried in time is told so, and is not carried later."""
    monkeypatch.setattr(together, "QUEUE_SECONDS", 0.05)
    sent = [chat.send("a"), chat.send("b")]
    assert isinstance(verdict(sent[1]), DatabaseUnavailableError)
    chat.let(1)
    assert verdict(sent[0]) == "A"
    assert chat.transactions == [["a"]]


def test_who_is_being_carried_when_its_time_is_over_hears_the_outcome(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that nothing happened, because it may."""
    monkeypatch.setattr(together, "QUEUE_SECONDS", 1.0)
    sent = [chat.send(name) for name in "abc"]
    chat.let(1)
    wait_until(lambda: chat.transactions == [["a"], ["b", "c"]])
    time.sleep(1.2)  # longer than they may stand in queue
    chat.let(1)
    assert verdicts(sent) == ["A", "B", "C"]


def test_a_leader_lingers_for_a_crowd_that_was_there(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three were there when the last group ended, so the next begins with three; who is alone waits for nobody."""
    monkeypatch.setattr(together, "LINGER", 1e9)
    monkeypatch.setattr(together, "LINGER_SECONDS", 60)
    for name in "xyz":
        chat.let(1)
        assert verdict(chat.send(name)) == name.upper()
    chat.transactions.clear()
    sent = [chat.send(name) for name in "abc"]
    chat.let(2)
    assert verdict(sent[0]) == "A"
    assert chat.transactions == [["a"]]
    sent.append(chat.send("d"))
    assert verdicts(sent[1:]) == ["B", "C", "D"]
    assert chat.transactions == [["a"], ["b", "c", "d"]]


def test_no_tenant_waits_for_another(chat: Chat) -> None:
    """Each has a queue of its own."""
    sent = [chat.send("a"), chat.pool.submit(chat.group_commit.run, "other", Unit("chat", ("chat", "b")))]
    wait_until(lambda: chat.transactions == [["a"], ["b"]])
    chat.let(2)
    assert verdicts(sent) == ["A", "B"]


def test_a_number_that_is_taken_is_an_error_and_changes_nothing(
    database: Database, chats: Chats, messages: Messages
) -> None:
    """It cannot be, so it is told rather than repeated until the deadline."""
    chat = chats.create("tenant", None, {})
    database.messages.insert_one({"_id": message_key("tenant", chat.id, 1)})
    with pytest.raises(BulkWriteError):
        messages.append("tenant", chat.id, posted("a"))
    assert chats.get("tenant", chat.id).message_count == 0


def test_a_chat_that_another_process_holds_stalls_no_other(
    database: Database, chats: Chats, messages: Messages
) -> None:
    """Its posts wait until it lets go; 200 of the tenant's other chats are there before. Nothing is lost or twice."""
    held, *others = [chats.create("tenant", None, {}).id for _ in range(5)]
    with ThreadPoolExecutor(16) as pool:
        with database.client.start_session() as session, session.start_transaction():
            database.chats.update_one({"_id": chat_key("tenant", held)}, {"$set": {"title": "x"}}, session=session)
            waiting = [pool.submit(messages.append, "tenant", held, posted("a", "b")) for _ in range(4)]
            sent = [pool.submit(messages.append, "tenant", others[number % 4], posted("a")) for number in range(200)]
            for each in sent:
                each.result(DEADQUEUE_SECONDS)
            assert not any(each.done() for each in waiting)
        for each in waiting:
            each.result(DEADQUEUE_SECONDS)
    for chat_id, count in [(held, 8), *[(chat_id, 50) for chat_id in others]]:
        assert chats.get("tenant", chat_id).message_count == count
        assert [message.seq for message in messages.page("tenant", chat_id, Span(), 200)] == list(range(1, count + 1))


@pytest.mark.parametrize("count", [COMMAND_MESSAGES, COMMAND_MESSAGES + 1])
def test_the_longest_messages_fit_in_a_command(chats: Chats, messages: Messages, count: int) -> None:
    """Four bytes a character, and metadata whose BSON is seven times its 16 KiB of JSON."""
    chat = chats.create("tenant", None, {})
    longest = NewMessage(Role.USER, "😀" * CONTENT_CHARACTERS, "😀" * 200, {"list": [[]] * 5_400})
    kept = messages.append("tenant", chat.id, [longest] * count)
    found: list[Message] = []
    while page := messages.page("tenant", chat.id, Span(after=len(found)), 200):
        found += page
    assert found == kept
