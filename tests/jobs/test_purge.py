"""Staged deletes and emptyings, and their purges, on a real mongod."""

import threading
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from chat_service.errors import (
    ChatIdRetiredError,
    ChatNotFoundError,
    ClaimLostError,
    DeletionNotFoundError,
    MessageNotFoundError,
)
from chat_service.jobs.purge import BATCH_MESSAGES, PurgeWorker
from chat_service.models import Caller, NewMessage, Role, Span
from chat_service.repository import traffic
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.exports import Exports
from chat_service.repository.messages import Messages
from chat_service.repository.previews import Previews
from chat_service.repository.purges import LEASE, Purges
from tests.purging import purge_all

TENANT = "tenant"
CALLER = Caller(TENANT, "key", frozenset())
LIMIT = 10
MANY = 2_500
"""More messages than two batches have, and not a multiple of a batch."""


@pytest.fixture
def deletions(database: Database) -> Deletions:
    return Deletions(database, LIMIT)


@pytest.fixture
def messages(database: Database) -> Messages:
    return Messages(database, LIMIT)


@pytest.fixture
def purges(database: Database) -> Purges:
    return Purges(database)


@pytest.fixture
def new_chat(chats: Chats, messages: Messages):
    """Return a function that makes a chat with `count` messages."""

    def make(count: int = MANY, tenant_id: str = TENANT) -> str:
        chat_id = chats.create(tenant_id, None, {}).id
        for first in range(0, count, 1_000):
            messages.append(tenant_id, chat_id, [NewMessage(Role.USER, "x", None, {})] * min(1_000, count - first))
        return chat_id

    return make


def test_a_staged_delete_makes_the_chat_unreachable_at_once(database, chats, messages, deletions, new_chat) -> None:
    """No read, write or listing finds the chat or a message of it, although the messages are still stored."""
    chat_id = new_chat()
    receipt = deletions.delete(TENANT, chat_id, "key")
    assert (receipt.message_count, receipt.purged, receipt.completed_at) == (MANY, 0, None)
    assert database.messages.count_documents({}) == MANY
    for operation in (
        lambda: chats.get(TENANT, chat_id),
        lambda: chats.update(TENANT, chat_id, {"title": "x"}),
        lambda: messages.page(TENANT, chat_id, Span(), 50),
        lambda: messages.get(TENANT, chat_id, 1),
        lambda: messages.edit(TENANT, chat_id, 1, {"content": "x"}, "key"),
        lambda: messages.delete(TENANT, chat_id, 1, "key"),
        lambda: messages.clear(TENANT, chat_id, "key"),
        lambda: messages.append(TENANT, chat_id, [NewMessage(Role.USER, "x", None, {})]),
        lambda: deletions.delete(TENANT, chat_id, "key"),
        lambda: Previews(database, LIMIT).get(TENANT, chat_id),
        lambda: Exports(database).open(CALLER, chat_id).__enter__(),
    ):
        with pytest.raises(ChatNotFoundError):
            operation()
    assert chats.page(TENANT, 50, None) == []
    with pytest.raises(ChatIdRetiredError):
        chats.create(TENANT, None, {}, chat_id)


def test_a_purge_completes_the_receipt(database, deletions, new_chat, receipts) -> None:
    """Every message is removed and counted, and the queue is empty again."""
    chat_id = new_chat()
    kept = new_chat(5)
    deletions.delete(TENANT, chat_id, "key")
    purge_all(database)
    receipt = receipts.get(TENANT, chat_id)
    assert (receipt.message_count, receipt.purged) == (MANY, MANY)
    assert receipt.completed_at is not None
    assert {message["_id"]["chat_id"] for message in database.messages.find()} == {kept}
    assert database.purges.count_documents({}) == 0


def test_a_receipt_shows_the_progress(deletions, purges, new_chat, receipts) -> None:
    """It says how many messages are gone, and when the rest is expected to be."""
    chat_id = new_chat()
    deletions.delete(TENANT, chat_id, "key")
    purge = purges.claim("worker")
    assert purges.remove(purge, 1, 1_000) == 1_000
    running = receipts.get(TENANT, chat_id)
    assert (running.purged, running.completed_at) == (1_000, None)
    assert running.estimated_at > running.deleted_at
    assert purges.progress()[:2] == (1, MANY - 1_000)


def test_progress_says_how_long_a_purge_has_waited(database, deletions, purges, new_chat) -> None:
    """The time counts from the end of the purge's last lease; a claimed purge has not waited."""
    assert purges.progress(1) == (0, 0, timedelta())
    deletions.delete(TENANT, new_chat(), "key")
    database.purges.update_one({}, {"$set": {"lease_until": database.now() - timedelta(hours=1)}})
    number, messages, waiting = purges.progress(1)
    assert (number, messages) == (1, MANY)
    assert timedelta(hours=1) <= waiting < timedelta(hours=1, minutes=5)
    purges.claim("worker")
    assert purges.progress(1).waiting == timedelta()


def test_gaps_are_skipped(database, deletions, new_chat, receipts) -> None:
    """All messages of a chat are removed, even if most of its seqs were deleted before."""
    chat_id = new_chat()
    for seq in range(2, 1_990, 1_000):
        database.messages.delete_many({"_id.chat_id": chat_id, "_id.seq": {"$gte": seq, "$lt": seq + 900}})
    database.chats.update_one({}, {"$set": {"message_count": MANY - 1_800}})
    deletions.delete(TENANT, chat_id, "key")
    purge_all(database)
    assert receipts.get(TENANT, chat_id).purged == MANY - 1_800
    assert database.messages.count_documents({}) == 0


def test_a_lost_claim_removes_nothing(database, deletions, purges, new_chat) -> None:
    """A worker that was paused past its lease, and whose purge another has claimed, changes nothing any more."""
    deletions.delete(TENANT, new_chat(), "key")
    old = purges.claim("old")
    assert purges.claim("new") is None
    database.purges.update_many({}, {"$set": {"lease_until": database.now() - LEASE}})
    new = purges.claim("new")
    assert (new.worker_id, new.first_seq) == ("new", old.first_seq)
    with pytest.raises(ClaimLostError):
        purges.remove(old, 1, 1_000)
    with pytest.raises(ClaimLostError):
        purges.finish(old)
    purges.release(old)
    assert database.messages.count_documents({}) == MANY
    assert purges.remove(new, 1, 10) == 10


def test_a_killed_workers_purge_is_taken_over(database, deletions, purges, new_chat, receipts) -> None:
    """When the lease has expired, another worker continues the purge, and the count is right."""
    chat_id = new_chat()
    deletions.delete(TENANT, chat_id, "key")
    purges.remove(purges.claim("killed"), 1, 1_000)
    assert PurgeWorker(purges).run_once() is None
    database.purges.update_many({}, {"$set": {"lease_until": database.now() - timedelta(seconds=1)}})
    assert PurgeWorker(purges).run_once() == MANY - 1_000
    assert receipts.get(TENANT, chat_id).purged == MANY


def test_tenants_take_turns(database, deletions, purges, new_chat) -> None:
    """The purges of one tenant do not delay those of another."""
    for tenant_id in ("a", "a", "a", "b", "c"):
        deletions.delete(tenant_id, new_chat(20, tenant_id), "key")
    # The estimate of the server's clock may go back by some milliseconds, and the last purges would not be due yet.
    database.purges.update_many({}, [{"$set": {"lease_until": {"$subtract": ["$lease_until", 1_000]}}}])
    served, last = [], ""
    for _ in range(5):
        purge = purges.claim("worker", last)
        last = purge.tenant_id
        served.append(last)
    assert served == ["a", "b", "c", "a", "a"]


def test_a_purge_pauses_for_requests(deletions, purges, chats, new_chat, monkeypatch) -> None:
    """It rests while requests use chats; its own operations do not count, so alone it never rests."""
    rests: list[float] = []
    monkeypatch.setattr(traffic, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(traffic, "time", SimpleNamespace(monotonic=time.monotonic, sleep=rests.append))
    deletions.delete(TENANT, new_chat(), "key")
    worker = PurgeWorker(purges)
    while worker.run_once() is not None:
        assert rests == []
    chat_id = new_chat()
    deletions.delete(TENANT, chat_id, "key")
    remove = purges.remove

    def remove_while_others_read(*batch: Any) -> int:
        for _ in range(20):
            with pytest.raises(ChatNotFoundError):
                chats.get(TENANT, chat_id)
        return remove(*batch)

    monkeypatch.setattr(purges, "remove", remove_while_others_read)
    while worker.run_once() is not None:
        pass
    assert len(rests) > MANY / BATCH_MESSAGES, "small batches, with a rest after each"
    assert all(rest > 0 for rest in rests)


def test_several_workers_share_the_work(database, deletions, new_chat, receipts) -> None:
    """No message is counted twice: the receipts' counts are those of the chats."""
    chat_ids = [new_chat(500, tenant_id) for tenant_id in "abcdef" for _ in range(2)]
    owners = [tenant_id for tenant_id in "abcdef" for _ in range(2)]
    for tenant_id, chat_id in zip(owners, chat_ids, strict=True):
        deletions.delete(tenant_id, chat_id, "key")
    threads = [threading.Thread(target=purge_all, args=[database]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert database.messages.count_documents({}) == 0
    assert [receipts.get(*owned).purged for owned in zip(owners, chat_ids, strict=True)] == [500] * 12


class TestEmptying:
    """Emptying a large chat is staged, as deleting it is."""

    def test_only_later_messages_can_be_reached(self, chats, messages, new_chat) -> None:
        """Before the purge no operation finds an emptied message, and new ones get the next numbers."""
        chat_id = new_chat()
        assert messages.clear(TENANT, chat_id, "key") == MANY
        assert messages.page(TENANT, chat_id, Span(), 50) == []
        (posted,) = messages.append(TENANT, chat_id, [NewMessage(Role.USER, "new", None, {})])
        assert posted.seq == MANY + 1
        assert messages.page(TENANT, chat_id, Span(), 50) == [posted]
        assert messages.page(TENANT, chat_id, Span(newest_first=True), 50) == [posted]
        for operation in (
            lambda: messages.get(TENANT, chat_id, 7),
            lambda: messages.edit(TENANT, chat_id, 7, {"content": "x"}, "key"),
            lambda: messages.delete(TENANT, chat_id, 7, "key"),
        ):
            with pytest.raises(MessageNotFoundError):
                operation()
        assert chats.get(TENANT, chat_id).message_count == 1

    def test_an_export_has_only_later_messages(self, database, messages, new_chat) -> None:
        """That is so even before the purge."""
        chat_id = new_chat()
        messages.clear(TENANT, chat_id, "key")
        kept = messages.append(TENANT, chat_id, [NewMessage(Role.USER, "new", None, {})])
        with Exports(database).open(CALLER, chat_id) as (_, batches):
            assert [row["content"] for batch in batches for row in batch] == [message.content for message in kept]

    def test_the_purge_leaves_later_messages(self, database, messages, new_chat, receipts) -> None:
        """It removes what was emptied, and writes no receipt."""
        chat_id = new_chat()
        messages.clear(TENANT, chat_id, "key")
        kept = messages.append(TENANT, chat_id, [NewMessage(Role.USER, "new", None, {})])
        purge_all(database)
        assert messages.page(TENANT, chat_id, Span(), 50) == kept
        assert database.messages.count_documents({}) == 1
        with pytest.raises(DeletionNotFoundError):
            receipts.get(TENANT, chat_id)

    def test_deleting_the_chat_before_the_purge(self, database, messages, deletions, new_chat, receipts) -> None:
        """One purge removes all that is left, and the receipt counts it: `complete` means gone."""
        chat_id = new_chat()
        messages.clear(TENANT, chat_id, "key")
        messages.append(TENANT, chat_id, [NewMessage(Role.USER, "new", None, {})] * 30)
        deletions.delete(TENANT, chat_id, "key")
        emptied = database.messages.count_documents({}) - 30
        assert database.purges.count_documents({}) == 1
        purge_all(database)
        receipt = receipts.get(TENANT, chat_id)
        assert (receipt.message_count, receipt.purged) == (emptied + 30, emptied + 30)
        assert database.messages.count_documents({}) == 0
