"""Posters on one chat, of one process and of two, alone and against a delete; and then everything counted."""

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
    """Messages that know how many transactions their posts took."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.transactions = 0

    def _append(self, *args: object) -> list[Message]:
        self.transactions += 1
        return super()._append(*args)


@pytest.fixture(autouse=True)
def audit(database: Database) -> Iterator[None]:
    """After each test and its purges: nothing without its chat, no chat with a receipt, every count true."""
    yield
    purge_all(database)
    assert list(Checks(database).run()) == []


def poster(messages: Messages, chat_id: str, name: int, times: int) -> Callable[[], list[int]]:
    """A caller that posts one message after the other and keeps the numbers of those that were acknowledged."""

    def post() -> list[int]:
        seqs = []
        for number in range(times):
            try:
                (kept,) = messages.append(TENANT, chat_id, [NewMessage(Role.USER, f"{name}:{number}", str(name), {})])
            except ChatNotFoundError:
                break
            assert kept.content == f"{name}:{number}"
            seqs.append(kept.seq)
        return seqs

    return post


@pytest.mark.parametrize("processes", [1, 2])
def test_numbers_have_no_gaps_and_keep_each_posters_order(database: Database, chats: Chats, processes: int) -> None:
    """However they are carried; those of two processes stand in two lines, and conflict."""
    posts = [CountedMessages(database) for _ in range(processes)]
    chat = chats.create(TENANT, None, {})
    told = race(*[poster(posts[name % processes], chat.id, name, 25) for name in range(8)])
    assert sorted(seq for seqs in told for seq in seqs) == list(range(1, 201))
    assert all(seqs == sorted(seqs) for seqs in told)
    assert chats.get(TENANT, chat.id).message_count == 200
    kept = {message.seq: message.content for message in posts[0].page(TENANT, chat.id, Span(), 200)}
    assert all(kept[seq] == f"{name}:{number}" for name, seqs in enumerate(told) for number, seq in enumerate(seqs))
    assert sum(each.transactions for each in posts) < 200, "no post was carried by another"


@pytest.mark.parametrize("limit", [1_000, 0], ids=["inline", "staged"])
def test_a_delete_among_shared_posts_leaves_no_orphan(database: Database, chats: Chats, limit: int) -> None:
    """20 contested chats: every acknowledged message is in the receipt's count, and none is left behind."""
    messages = CountedMessages(database)
    deletions = Deletions(database, limit)
    acknowledged = 0
    for _ in range(20):
        chat = chats.create(TENANT, None, {})
        posters = [poster(messages, chat.id, name, 1_000) for name in range(5)]  # the delete ends them long before
        deletion, *told = race(lambda chat=chat: deletions.delete(TENANT, chat.id, "key"), *posters)
        assert isinstance(deletion, Deletion)
        assert deletion.message_count == sum(map(len, told))
        assert sorted(seq for seqs in told for seq in seqs) == list(range(1, deletion.message_count + 1))
        acknowledged += deletion.message_count
        with pytest.raises(ChatNotFoundError):
            messages.append(TENANT, chat.id, [NewMessage(Role.USER, "late", None, {})])
    assert acknowledged > 20, "no contest"
    assert messages.transactions < acknowledged + 6 * 20, "no post was carried by another"
