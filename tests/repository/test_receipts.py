"""Receipts are true: `complete` means gone, and a chat that a restored backup brings back stays deleted."""

import pytest

from chat_service.errors import ChatNotFoundError
from chat_service.models import Deletion, NewMessage, Role
from chat_service.repository.bulk import Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.keys import message_range
from chat_service.repository.messages import Messages
from chat_service.repository.purges import Purges
from tests.purging import purge_all

TENANT = "tenant"
LIMIT = 10
"""Up to this number of messages a chat is emptied or deleted inline."""


@pytest.fixture
def messages(database: Database) -> Messages:
    return Messages(database, LIMIT)


@pytest.fixture
def deletions(database: Database) -> Deletions:
    return Deletions(database, LIMIT)


@pytest.fixture
def chat_id(database: Database) -> str:
    return Chats(database).create(TENANT, None, {}).id


def post(messages: Messages, chat_id: str, number: int) -> None:
    messages.append(TENANT, chat_id, [NewMessage(Role.USER, "x", None, {})] * number)


def on_disk(database: Database, chat_id: str) -> int:
    return int(database.messages.count_documents({"_id": message_range(TENANT, chat_id)}))


def purge(database: Database) -> None:
    purge_all(database)


class TestCompleteMeansGone:
    @pytest.mark.parametrize("afterwards", [0, 3, 30], ids=["nothing", "few", "many"])
    def test_the_receipt_counts_messages_that_an_emptying_left(
        self, database, messages, deletions, chat_id, afterwards, receipts
    ) -> None:
        """A chat is emptied, perhaps posted to again, and deleted before the purge; then `complete` waits for all."""
        post(messages, chat_id, 50)
        messages.clear(TENANT, chat_id, "key")
        if afterwards:
            post(messages, chat_id, afterwards)
        deletions.delete(TENANT, chat_id, "key")
        receipt = receipts.get(TENANT, chat_id)
        assert (receipt.completed_at, receipt.message_count) == (None, 50 + afterwards)
        assert on_disk(database, chat_id) == 50 + afterwards
        purge(database)
        receipt = receipts.get(TENANT, chat_id)
        assert receipt.completed_at is not None
        assert receipt.purged == receipt.message_count == 50 + afterwards
        assert on_disk(database, chat_id) == 0
        assert list(Checks(database).run()) == []

    def test_a_running_purge_continues_for_the_receipt(self, database, messages, deletions, chat_id, receipts) -> None:
        """A chat is emptied twice, and one purge has begun: after a delete each message is counted once."""
        post(messages, chat_id, 50)
        messages.clear(TENANT, chat_id, "key")
        purges = Purges(database)
        begun = purges.claim("worker")
        assert begun is not None
        purges.remove(begun, 1, 20)
        post(messages, chat_id, 40)
        messages.clear(TENANT, chat_id, "key")
        deletions.delete(TENANT, chat_id, "key")
        receipt = receipts.get(TENANT, chat_id)
        assert (receipt.message_count, receipt.purged) == (90, 20)
        purge(database)
        receipt = receipts.get(TENANT, chat_id)
        assert (receipt.purged, on_disk(database, chat_id)) == (90, 0)
        assert list(Checks(database).run()) == []

    def test_the_receipt_does_not_count_an_emptying_that_is_purged(
        self, database, messages, deletions, chat_id
    ) -> None:
        """The delete is that of a small chat, and complete at once."""
        post(messages, chat_id, 50)
        messages.clear(TENANT, chat_id, "key")
        purge(database)
        post(messages, chat_id, 3)
        receipt = deletions.delete(TENANT, chat_id, "key")
        assert receipt.completed_at is not None
        assert receipt.message_count == 3
        assert on_disk(database, chat_id) == 0


class TestRestored:
    """A restored backup has brought back chats that have receipts."""

    @pytest.fixture(params=[3, 30], ids=["few", "many"])
    def restored(self, request, database, messages, deletions, chat_id) -> str:
        post(messages, chat_id, request.param)
        kept = {name: list(database.database[name].find({})) for name in ("chats", "messages")}
        deletions.delete(TENANT, chat_id, "key")
        purge(database)
        for name, documents in kept.items():
            database.database[name].insert_many(documents)
        return chat_id

    def test_a_delete_finishes_it(self, database, deletions, restored, receipts) -> None:
        """The delete fails with not found, because the chat was deleted before, and removes what is left."""
        before = receipts.get(TENANT, restored)
        with pytest.raises(ChatNotFoundError):
            deletions.delete(TENANT, restored, "another")
        with pytest.raises(ChatNotFoundError):
            Chats(database).get(TENANT, restored)
        purge(database)
        after = receipts.get(TENANT, restored)
        assert (after.deleted_at, after.requested_by) == (before.deleted_at, before.requested_by)
        assert after.completed_at is not None
        assert on_disk(database, restored) == 0
        assert list(Checks(database).run()) == []

    def test_it_stops_no_other_chat_of_a_bulk_delete(self, database, restored) -> None:
        others = [Chats(database).create(TENANT, None, {}).id for _ in range(10)]
        outcomes = Bulk(database, Deletions(database)).remove(TENANT, [*others[:5], restored, *others[5:]], "key")
        assert all(isinstance(outcomes[chat_id], Deletion) for chat_id in others)
        assert isinstance(outcomes[restored], ChatNotFoundError)
        assert database.chats.count_documents({}) == 0

    def test_a_repair_finishes_it(self, database, restored) -> None:
        findings = {finding.kind for finding in Checks(database).run(repair=True)}
        assert "chat_and_receipt" in findings
        purge(database)
        assert list(Checks(database).run()) == []
        assert on_disk(database, restored) == 0
