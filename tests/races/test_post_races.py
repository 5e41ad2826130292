"""Concurrent posts to one chat, from one process and from two, alone and beside a delete; then all is counted."""

from collections.abc import Callable, Iterator

import pytest

from chat_service.errors import ChatNotFoundError
from chat_service.models import Deletion, Message, NewMessage, Role, Span
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.messages import Messages
from tests.purging import purge_all
from tests.races.test_delete_races import race

TENANT = "tenant"


class CountedMessages(Messages):
    """Messages that count the transactions of their posts."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.transactions = 0

    def _append(self, *args: object) -> list[Message]:
        self.transactions += 1
        return super()._append(*args)


@pytest.fixture(autouse=True)
def audit(database: Database) -> Iterator[None]:
    """After each test and its purges, no message has no chat, no chat has a receipt, and every count is true."""
    yield
    purge_all(database)
    assert list(Checks(database).run()) == []


def poster(messages: Messages, chat_id: str, name: int, times: int) -> Callable[[], list[int]]:
    """Return a function that posts one message after the other, and returns the acknowledged seqs."""

    def post() -> list[int]:
        seqs = []
        for number in range(times):
            try:
                (posted,) = messages.append(TENANT, chat_id, [NewMessage(Role.USER, f"{name}:{number}", str(name), {})])
            except ChatNotFoundError:
                break
            assert posted.content == f"{name}:{number}"
            seqs.append(posted.seq)
        return seqs

    return post


@pytest.mark.parametrize("processes", [1, 2])
def test_seqs_have_no_gaps_and_keep_each_posters_order(database: Database, chats: Chats, processes: int) -> None:
    """Posts of one process share transactions; those of two processes are in two queues, and conflict."""
    repositories = [CountedMessages(database) for _ in range(processes)]
    chat = chats.create(TENANT, None, {})
    seqs_of_posters = race(*[poster(repositories[name % processes], chat.id, name, 25) for name in range(8)])
    assert sorted(seq for seqs in seqs_of_posters for seq in seqs) == list(range(1, 201))
    assert all(seqs == sorted(seqs) for seqs in seqs_of_posters)
    assert chats.get(TENANT, chat.id).message_count == 200
    contents = {message.seq: message.content for message in repositories[0].page(TENANT, chat.id, Span(), 200)}
    assert all(
        contents[seq] == f"{name}:{number}"
        for name, seqs in enumerate(seqs_of_posters)
        for number, seq in enumerate(seqs)
    )
    assert sum(messages.transactions for messages in repositories) < 200, "no posts shared a transaction"


@pytest.mark.parametrize("limit", [1_000, 0], ids=["inline", "staged"])
def test_a_delete_among_shared_posts_leaves_no_orphan(database: Database, chats: Chats, limit: int) -> None:
    """In 20 contested chats, the receipt counts every acknowledged message, and none is left behind."""
    messages = CountedMessages(database)
    deletions = Deletions(database, limit)
    acknowledged = 0
    for _ in range(20):
        chat = chats.create(TENANT, None, {})
        posters = [poster(messages, chat.id, name, 1_000) for name in range(5)]  # the delete ends them long before
        deletion, *seqs_of_posters = race(lambda chat=chat: deletions.delete(TENANT, chat.id, "key"), *posters)
        assert isinstance(deletion, Deletion)
        assert deletion.message_count == sum(map(len, seqs_of_posters))
        assert sorted(seq for seqs in seqs_of_posters for seq in seqs) == list(range(1, deletion.message_count + 1))
        acknowledged += deletion.message_count
        with pytest.raises(ChatNotFoundError):
            messages.append(TENANT, chat.id, [NewMessage(Role.USER, "late", None, {})])
    assert acknowledged > 20, "no contest"
    assert messages.transactions < acknowledged + 6 * 20, "no posts shared a transaction"
