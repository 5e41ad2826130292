"""The queue of a tenant's posts: who is carried with whom, in which order, and what each is told."""

import threading
import time
from collections.abc import Callable, Iterator
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
from chat_service.repository.keys import chat_key, message_key
from chat_service.repository.messages import COMMAND_MESSAGES, Messages
from chat_service.repository.posting import Kept, New, Queues
from tests.wait import wait_until

DEADQUEUE_SECONDS = 10
KEY = IdempotencyKey("tenant", "key", "fingerprint")


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
        self.begun: list[NewMessage] = []
        self.queues = Queues(self.append)
        self.pool = ThreadPoolExecutor(16)

    def append(self, tenant_id: str, new: New, key: IdempotencyKey | None, again: Callable[[], None]) -> Kept:
        del tenant_id, key
        messages = [message for messages in new.values() for message in messages]
        contents = [message.content for message in messages]
        self.transactions.append(contents)
        self.begun += messages
        assert self.gate.acquire(timeout=DEADQUEUE_SECONDS)
        if not self.blocked.isdisjoint(new):
            again()
            wait_until(lambda: self.blocked.isdisjoint(new))
        error = self.failure(contents)
        if error is not None:
            raise error
        now = datetime.now(UTC)
        return {
            chat_id: None
            if chat_id in self.missing
            else [Message(0, "user", None, message.content, {}, now, None) for message in messages]
            for chat_id, messages in new.items()
        }

    def post(self, *contents: str, key: IdempotencyKey | None = None, chat_id: str = "chat") -> Future[list[str]]:
        """Send a post, and return when it stands in the queue or runs."""
        new = posted(*contents)

        def run() -> list[str]:
            return [message.content for message in self.queues.post("tenant", chat_id, new, key)]

        sent = self.pool.submit(run)
        wait_until(lambda: any(message is new[0] for message in [*self.begun, *self.standing()]))
        return sent

    def standing(self) -> list[NewMessage]:
        with self.queues._lock:
            return [message for queue in self.queues._queues.values() for post in queue.posts for message in post.new]

    def let(self, transactions: int) -> None:
        for _ in range(transactions):
            self.gate.release()


@pytest.fixture
def chat() -> Iterator[Chat]:
    found = Chat()
    yield found
    found.let(100)
    found.pool.shutdown()
    assert found.queues._queues == {}, "a queue was left behind"


def told(sent: Future[list[str]]) -> object:
    error = sent.exception(DEADQUEUE_SECONDS)
    return error if error is not None else sent.result()


def test_who_comes_during_a_transaction_shares_the_next(chat: Chat) -> None:
    """In the order they came, and each gets its own messages."""
    sent = [chat.post("a"), chat.post("b"), chat.post("c", "d"), chat.post("e")]
    chat.let(2)
    assert [told(each) for each in sent] == [["a"], ["b"], ["c", "d"], ["e"]]
    assert chat.transactions == [["a"], ["b", "c", "d", "e"]]


def test_chats_share_a_transaction(chat: Chat) -> None:
    """Each gets its own messages, in their order; one that is gone spoils no other."""
    chat.missing = {"gone"}
    sent = [chat.post("a"), chat.post("b"), chat.post("c"), chat.post("d", chat_id="gone"), chat.post("e", chat_id="e")]
    wait_until(lambda: chat.transactions == [["a"], ["d", "e"]])
    sent.append(chat.post("f", chat_id="f"))
    chat.let(3)
    assert [told(each) for each in sent if each is not sent[3]] == [["a"], ["b"], ["c"], ["e"], ["f"]]
    assert isinstance(told(sent[3]), ChatNotFoundError)
    assert chat.transactions[2:] == [["b", "c", "f"]]


def test_a_second_transaction_begins_when_it_is_worth_it(chat: Chat) -> None:
    """While one runs, two for other chats make the next; a third does not begin."""
    sent = [chat.post("a"), chat.post("b", chat_id="b")]
    assert chat.transactions == [["a"]]
    sent.append(chat.post("c", chat_id="c"))
    wait_until(lambda: chat.transactions == [["a"], ["b", "c"]])
    sent += [chat.post(name, chat_id=name) for name in "defg"]
    assert chat.transactions == [["a"], ["b", "c"]]
    chat.let(7)
    assert [told(each) for each in sent] == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"], ["g"]]


def test_a_blocked_chat_stalls_no_other(chat: Chat) -> None:
    """Its posts are tried again for as long as it takes; those that shared with it, and the queue, go on."""
    chat.blocked = {"b"}
    sent = [chat.post("a"), *[chat.post(name, chat_id=name) for name in "bc"], chat.post("B", chat_id="b")]
    chat.let(20)
    assert [told(each) for each in (sent[0], sent[2])] == [["a"], ["c"]]
    for name in "defgh":
        assert told(chat.post(name, chat_id=name)) == [name]
    assert not sent[1].done()
    assert not sent[3].done()
    chat.blocked = set()
    assert [told(each) for each in (sent[1], sent[3])] == [["b"], ["B"]]


def test_a_lone_blocked_chat_lets_the_queue_go_on(chat: Chat) -> None:
    """It is not even in the way of what comes later."""
    chat.blocked = {"b"}
    chat.let(20)
    sent = chat.post("b", chat_id="b")
    for name in "cde":
        assert told(chat.post(name, chat_id=name)) == [name]
    chat.blocked = set()
    assert told(sent) == ["b"]


def test_a_post_with_a_key_goes_alone_and_in_its_turn(chat: Chat) -> None:
    """Nobody overtakes it, and nobody is carried with it."""
    sent = [chat.post("a"), chat.post("b"), chat.post("c", key=KEY), chat.post("d"), chat.post("e")]
    chat.let(4)
    assert [told(each) for each in sent] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert chat.transactions == [["a"], ["b"], ["c"], ["d", "e"]]


def test_posts_with_keys_to_several_chats_wait_for_nobody(chat: Chat) -> None:
    """However many there are: they could not share."""
    sent = [chat.post(name, key=KEY, chat_id=name) for name in "abcdef"]
    wait_until(lambda: sorted(chat.transactions) == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]])
    chat.let(6)
    assert [told(each) for each in sent] == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]


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


def test_nobody_stands_in_a_queue_for_ever(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not carried in time is told so, and is not carried later."""
    monkeypatch.setattr(posting, "QUEUE_SECONDS", 0.05)
    sent = [chat.post("a"), chat.post("b")]
    assert isinstance(told(sent[1]), DatabaseUnavailableError)
    chat.let(1)
    assert told(sent[0]) == ["a"]
    assert chat.transactions == [["a"]]


def test_who_is_being_carried_when_its_time_is_over_hears_the_outcome(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that nothing happened, because it may."""
    monkeypatch.setattr(posting, "QUEUE_SECONDS", 1.0)
    sent = [chat.post("a"), chat.post("b"), chat.post("c")]
    chat.let(1)
    wait_until(lambda: chat.transactions == [["a"], ["b", "c"]])
    time.sleep(1.2)  # longer than they may stand in queue
    chat.let(1)
    assert [told(each) for each in sent] == [["a"], ["b"], ["c"]]


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
