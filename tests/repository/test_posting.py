"""The line in front of a chat: who is carried with whom, in which order, and what each is told."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from pymongo.errors import BulkWriteError

from chat_service.api.message_schemas import CONTENT_CHARACTERS
from chat_service.errors import ChatNotFoundError, ChatServiceError, DatabaseUnavailableError
from chat_service.models import IdempotencyKey, Message, NewMessage, Role, Span
from chat_service.repository import posting
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.keys import message_key
from chat_service.repository.messages import COMMAND_MESSAGES, Messages
from chat_service.repository.posting import Lines

DEADLINE_SECONDS = 10
KEY = IdempotencyKey("tenant", "key", "fingerprint")


def new(*contents: str) -> list[NewMessage]:
    return [NewMessage(Role.USER, content, None, {}) for content in contents]


class Chat:
    """Stands for the transaction: it waits to be let through, and fails where it is told to."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []
        self.gate = threading.Semaphore(0)
        self.failure: Callable[[list[str]], Exception | None] = lambda _: None
        self.lines = Lines(self.append)
        self.pool = ThreadPoolExecutor(16)

    def append(
        self, tenant_id: str, chat_id: str, messages: Sequence[NewMessage], key: IdempotencyKey | None
    ) -> list[Message]:
        del tenant_id, chat_id, key
        contents = [message.content for message in messages]
        self.transactions.append(contents)
        assert self.gate.acquire(timeout=DEADLINE_SECONDS)
        error = self.failure(contents)
        if error is not None:
            raise error
        now = datetime.now(UTC)
        return [Message(0, "user", None, content, {}, now, None) for content in contents]

    def post(self, *contents: str, key: IdempotencyKey | None = None, chat_id: str = "chat") -> Future[list[str]]:
        """Send a post, and return when it stands in its line or runs."""

        def run() -> list[str]:
            return [message.content for message in self.lines.post("tenant", chat_id, new(*contents), key)]

        standing = self.standing()
        sent = self.pool.submit(run)
        until(lambda: self.standing() > standing)
        return sent

    def standing(self) -> int:
        return len(self.transactions) + sum(len(line) for line in self.lines._lines.values())

    def let(self, transactions: int) -> None:
        for _ in range(transactions):
            self.gate.release()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def chat() -> Iterator[Chat]:
    found = Chat()
    yield found
    found.let(100)
    found.pool.shutdown()
    assert found.lines._lines == {}, "a line was left behind"


def told(sent: Future[list[str]]) -> object:
    error = sent.exception(DEADLINE_SECONDS)
    return error if error is not None else sent.result()


def test_who_comes_during_a_transaction_shares_the_next(chat: Chat) -> None:
    """In the order they came, and each gets its own messages."""
    sent = [chat.post("a"), chat.post("b"), chat.post("c", "d"), chat.post("e")]
    chat.let(2)
    assert [told(each) for each in sent] == [["a"], ["b"], ["c", "d"], ["e"]]
    assert chat.transactions == [["a"], ["b", "c", "d", "e"]]


def test_another_chat_waits_for_nobody(chat: Chat) -> None:
    """Each chat has a line of its own."""
    sent = [chat.post("a"), chat.post("b", chat_id="another")]
    until(lambda: chat.transactions == [["a"], ["b"]])
    chat.let(2)
    assert [told(each) for each in sent] == [["a"], ["b"]]


def test_a_post_with_a_key_goes_alone_and_in_its_turn(chat: Chat) -> None:
    """Nobody overtakes it, and nobody is carried with it."""
    sent = [chat.post("a"), chat.post("b"), chat.post("c", key=KEY), chat.post("d"), chat.post("e")]
    chat.let(4)
    assert [told(each) for each in sent] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert chat.transactions == [["a"], ["b"], ["c"], ["d", "e"]]


@pytest.mark.parametrize(
    ("posts", "expected"),
    [
        ([["x"] * 600, ["x"] * 400, ["x"]], [1_000, 1]),
        ([["x" * 2**19], ["x" * 2**19], ["x"]], [2, 1]),
        ([["x" * 2**20, "x"], ["x"]], [2, 1]),
    ],
    ids=["messages", "characters", "more than fits goes alone"],
)
def test_a_transaction_is_bounded(chat: Chat, posts: list[list[str]], expected: list[int]) -> None:
    """By its messages, and by their length."""
    sent = [chat.post("first"), *[chat.post(*contents) for contents in posts]]
    chat.let(3)
    assert [told(each) for each in sent] == [["first"], *posts]
    assert [len(contents) for contents in chat.transactions] == [1, *expected]


@pytest.mark.parametrize("error", [ChatNotFoundError(), DatabaseUnavailableError()])
def test_the_error_of_a_transaction_is_told_to_each(chat: Chat, error: ChatServiceError) -> None:
    """Nothing of it happened, for any of them."""
    chat.failure = lambda contents: error if "c" in contents else None
    sent = [chat.post("a"), chat.post("b"), chat.post("c")]
    chat.let(2)
    assert [told(each) for each in sent] == [["a"], error, error]


def test_what_the_database_refuses_spoils_nobody_elses_post(chat: Chat) -> None:
    """Each of a transaction that was refused is tried alone."""
    refusal = ValueError("this document")
    chat.failure = lambda contents: refusal if "c" in contents else None
    sent = [chat.post("a"), chat.post("b"), chat.post("c"), chat.post("d")]
    chat.let(5)
    assert [told(each) for each in sent] == [["a"], ["b"], refusal, ["d"]]
    assert chat.transactions == [["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]]


def test_nobody_stands_in_line_for_ever(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not carried in time is told so, and is not carried later."""
    monkeypatch.setattr(posting, "LINE_SECONDS", 0.05)
    sent = [chat.post("a"), chat.post("b")]
    assert isinstance(told(sent[1]), DatabaseUnavailableError)
    chat.let(1)
    assert told(sent[0]) == ["a"]
    assert chat.transactions == [["a"]]


def test_who_is_being_carried_when_its_time_is_over_hears_the_outcome(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that nothing happened, because it may."""
    monkeypatch.setattr(posting, "LINE_SECONDS", 1.0)
    sent = [chat.post("a"), chat.post("b"), chat.post("c")]
    chat.let(1)
    until(lambda: chat.transactions == [["a"], ["b", "c"]])
    time.sleep(1.2)  # longer than they may stand in line
    chat.let(1)
    assert [told(each) for each in sent] == [["a"], ["b"], ["c"]]


def test_a_number_that_is_taken_is_an_error_and_changes_nothing(
    database: Database, chats: Chats, messages: Messages
) -> None:
    """It cannot be, so it is told rather than repeated until the deadline."""
    chat = chats.create("tenant", None, {})
    database.messages.insert_one({"_id": message_key("tenant", chat.id, 1)})
    with pytest.raises(BulkWriteError):
        messages.append("tenant", chat.id, new("a"))
    assert chats.get("tenant", chat.id).message_count == 0


@pytest.mark.parametrize("count", [COMMAND_MESSAGES, COMMAND_MESSAGES + 1])
def test_the_longest_messages_fit_in_a_command(chats: Chats, messages: Messages, count: int) -> None:
    """Four bytes a character, and metadata whose BSON is seven times its 16 KiB of JSON."""
    chat = chats.create("tenant", None, {})
    longest = NewMessage(Role.USER, "😀" * CONTENT_CHARACTERS, "😀" * 200, {"list": [[]] * 5_400})
    kept = messages.append("tenant", chat.id, [longest] * count)
    assert messages.page("tenant", chat.id, Span(), 200) == kept
