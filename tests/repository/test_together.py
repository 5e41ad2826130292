"""Group commit: which units share a transaction, in which order, and which outcome each gets."""

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

DEADLINE_SECONDS = 10


def posted(*contents: str) -> list[NewMessage]:
    return [NewMessage(Role.USER, content, None, {}) for content in contents]


class Chat:
    """A stand-in for the transaction: each waits until `let` allows it, and fails if `failure` or `missing` say so."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []
        self.gate = threading.Semaphore(0)
        self.failure: Callable[[list[str]], Exception | None] = lambda _: None
        self.blocked: set[str] = set()
        """Chats at which a transaction blocks, as at a write conflict."""
        self.missing: set[str] = set()
        self.begun: set[str] = set()
        self.group_commit = GroupCommit(self.commit_group, Bounds(units=5, size=100))
        self.pool = ThreadPoolExecutor(16)

    def commit_group(
        self, tenant_id: str, items: Sequence[tuple[str, str]], before_retry: Callable[[], None]
    ) -> list[str | ChatServiceError]:
        del tenant_id
        names = [name for _, name in items]
        self.transactions.append(names)
        self.begun.update(names)
        assert self.gate.acquire(timeout=DEADLINE_SECONDS)
        chats = {chat_id for chat_id, _ in items}
        if not self.blocked.isdisjoint(chats):
            before_retry()
            wait_until(lambda: self.blocked.isdisjoint(chats))
        error = self.failure(names)
        if error is not None:
            raise error
        return [ChatNotFoundError() if chat_id in self.missing else name.upper() for chat_id, name in items]

    def send(self, name: str, size: int = 0, *, alone: bool = False, chat_id: str = "chat") -> Future[str]:
        """Send a unit, and return its future when the unit is queued or runs."""
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
    stand_in = Chat()
    yield stand_in
    stand_in.let(100)
    stand_in.pool.shutdown()
    assert stand_in.group_commit._queues == {}, "a queue was left behind"


def outcome(sent: Future[str]) -> object:
    error = sent.exception(DEADLINE_SECONDS)
    return error if error is not None else sent.result()


def outcomes(sent: Sequence[Future[str]]) -> list[object]:
    return [outcome(future) for future in sent]


def test_units_that_arrive_during_a_transaction_share_the_next(chat: Chat) -> None:
    """They run in the order of arrival, and each gets its own outcome."""
    sent = [chat.send(name) for name in "abcd"]
    chat.let(2)
    assert outcomes(sent) == ["A", "B", "C", "D"]
    assert chat.transactions == [["a"], ["b", "c", "d"]]


def test_chats_share_a_transaction(chat: Chat) -> None:
    """The refusal of one does not affect the others."""
    chat.missing = {"gone"}
    sent = [chat.send("a"), chat.send("b"), chat.send("c", chat_id="gone"), chat.send("d", chat_id="d")]
    chat.let(2)
    assert outcomes([sent[0], sent[1], sent[3]]) == ["A", "B", "D"]
    assert isinstance(outcome(sent[2]), ChatNotFoundError)
    assert chat.transactions == [["a"], ["b", "c", "d"]]


def test_a_blocked_chat_stalls_no_other(chat: Chat) -> None:
    """Its units are retried until they succeed; the units that shared its transaction, and the queue, continue."""
    chat.blocked = {"b"}
    sent = [chat.send("a"), *[chat.send(name, chat_id=name) for name in "bc"], chat.send("b2", chat_id="b")]
    chat.let(20)
    assert outcomes([sent[0], sent[2]]) == ["A", "C"]
    for name in "defgh":
        assert outcome(chat.send(name, chat_id=name)) == name.upper()
    assert not sent[1].done()
    assert not sent[3].done()
    chat.blocked = set()
    assert outcomes([sent[1], sent[3]]) == ["B", "B2"]


def test_a_lone_blocked_chat_lets_the_queue_continue(chat: Chat) -> None:
    """Units that arrive later do not wait for it."""
    chat.blocked = {"b"}
    chat.let(20)
    sent = chat.send("b", chat_id="b")
    for name in "cde":
        assert outcome(chat.send(name, chat_id=name)) == name.upper()
    chat.blocked = set()
    assert outcome(sent) == "B"


def test_a_unit_that_goes_alone_keeps_its_turn(chat: Chat) -> None:
    """No unit overtakes it, and none shares its transaction."""
    sent = [chat.send("a"), chat.send("b"), chat.send("c", alone=True), chat.send("d"), chat.send("e")]
    chat.let(4)
    assert outcomes(sent) == list("ABCDE")
    assert chat.transactions == [["a"], ["b"], ["c"], ["d", "e"]]


def test_units_that_go_alone_on_several_chats_do_not_wait(chat: Chat) -> None:
    """They run at the same time, because waiting would not let them share a transaction."""
    sent = [chat.send(name, alone=True, chat_id=name) for name in "abcdef"]
    wait_until(lambda: sorted(chat.transactions) == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]])
    chat.let(6)
    assert outcomes(sent) == list("ABCDEF")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([0] * 6, [5, 1]), ([60, 40, 1], [2, 1]), ([101, 1], [1, 1])],
    ids=["units", "size", "more than fits goes by itself"],
)
def test_a_group_is_bounded(chat: Chat, sizes: list[int], expected: list[int]) -> None:
    sent = [chat.send("first"), *[chat.send(f"{number}", size) for number, size in enumerate(sizes)]]
    chat.let(3)
    assert outcomes(sent) == ["FIRST", *[f"{number}" for number in range(len(sizes))]]
    assert [len(names) for names in chat.transactions] == [1, *expected]


@pytest.mark.parametrize("error", [ChatNotFoundError(), DatabaseUnavailableError()])
def test_every_unit_gets_the_error_of_its_transaction(chat: Chat, error: ChatServiceError) -> None:
    """The transaction had no effect for any of them."""
    chat.failure = lambda names: error if "c" in names else None
    sent = [chat.send("a"), chat.send("b"), chat.send("c")]
    chat.let(2)
    assert outcomes(sent) == ["A", error, error]


def test_a_document_that_the_database_refuses_fails_only_its_own_unit(chat: Chat) -> None:
    """The other units of the refused transaction are each retried alone."""
    refusal = ValueError("this document")
    chat.failure = lambda names: refusal if "c" in names else None
    sent = [chat.send(name) for name in "abcd"]
    chat.let(5)
    assert outcomes(sent) == ["A", "B", refusal, "D"]
    assert chat.transactions == [["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]]


def test_no_unit_is_queued_for_ever(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit whose time in the queue is over fails, and does not run later."""
    monkeypatch.setattr(together, "QUEUE_SECONDS", 0.05)
    sent = [chat.send("a"), chat.send("b")]
    assert isinstance(outcome(sent[1]), DatabaseUnavailableError)
    chat.let(1)
    assert outcome(sent[0]) == "A"
    assert chat.transactions == [["a"]]


def test_a_unit_that_runs_when_its_time_is_over_gets_its_outcome(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not fail with "nothing was changed", because its transaction may commit."""
    monkeypatch.setattr(together, "QUEUE_SECONDS", 1.0)
    sent = [chat.send(name) for name in "abc"]
    chat.let(1)
    wait_until(lambda: chat.transactions == [["a"], ["b", "c"]])
    time.sleep(1.2)  # longer than QUEUE_SECONDS
    chat.let(1)
    assert outcomes(sent) == ["A", "B", "C"]


def test_a_leader_lingers_for_a_crowd_that_was_there(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the last group ended with three waiting, the next begins with three; a lone unit does not wait."""
    monkeypatch.setattr(together, "LINGER", 1e9)
    monkeypatch.setattr(together, "LINGER_SECONDS", 60)
    for name in "xyz":
        chat.let(1)
        assert outcome(chat.send(name)) == name.upper()
    chat.transactions.clear()
    sent = [chat.send(name) for name in "abc"]
    chat.let(2)
    assert outcome(sent[0]) == "A"
    assert chat.transactions == [["a"]]
    sent.append(chat.send("d"))
    assert outcomes(sent[1:]) == ["B", "C", "D"]
    assert chat.transactions == [["a"], ["b", "c", "d"]]


def test_no_tenant_waits_for_another(chat: Chat) -> None:
    """Each tenant has its own queue."""
    sent = [chat.send("a"), chat.pool.submit(chat.group_commit.run, "other", Unit("chat", ("chat", "b")))]
    wait_until(lambda: chat.transactions == [["a"], ["b"]])
    chat.let(2)
    assert outcomes(sent) == ["A", "B"]


def test_a_seq_that_is_already_used_is_an_error_and_changes_nothing(
    database: Database, chats: Chats, messages: Messages
) -> None:
    """This must never happen, so it fails at once instead of retrying until the deadline."""
    chat = chats.create("tenant", None, {})
    database.messages.insert_one({"_id": message_key("tenant", chat.id, 1)})
    with pytest.raises(BulkWriteError):
        messages.append("tenant", chat.id, posted("a"))
    assert chats.get("tenant", chat.id).message_count == 0


def test_a_chat_that_another_transaction_locks_stalls_no_other(
    database: Database, chats: Chats, messages: Messages
) -> None:
    """Its posts wait for that transaction; 200 posts to other chats finish first. None is lost or stored twice."""
    held, *others = [chats.create("tenant", None, {}).id for _ in range(5)]
    with ThreadPoolExecutor(16) as pool:
        with database.client.start_session() as session, session.start_transaction():
            database.chats.update_one({"_id": chat_key("tenant", held)}, {"$set": {"title": "x"}}, session=session)
            waiting = [pool.submit(messages.append, "tenant", held, posted("a", "b")) for _ in range(4)]
            sent = [pool.submit(messages.append, "tenant", others[number % 4], posted("a")) for number in range(200)]
            for future in sent:
                future.result(DEADLINE_SECONDS)
            assert not any(future.done() for future in waiting)
        for future in waiting:
            future.result(DEADLINE_SECONDS)
    for chat_id, count in [(held, 8), *[(chat_id, 50) for chat_id in others]]:
        assert chats.get("tenant", chat_id).message_count == count
        assert [message.seq for message in messages.page("tenant", chat_id, Span(), 200)] == list(range(1, count + 1))


@pytest.mark.parametrize("count", [COMMAND_MESSAGES, COMMAND_MESSAGES + 1])
def test_the_longest_messages_fit_in_a_command(chats: Chats, messages: Messages, count: int) -> None:
    """They have four bytes a character, and metadata whose BSON is seven times its 16 KiB of JSON."""
    chat = chats.create("tenant", None, {})
    longest = NewMessage(Role.USER, "😀" * CONTENT_CHARACTERS, "😀" * 200, {"list": [[]] * 5_400})
    kept = messages.append("tenant", chat.id, [longest] * count)
    read: list[Message] = []
    while page := messages.page("tenant", chat.id, Span(after=len(read)), 200):
        read += page
    assert read == kept
