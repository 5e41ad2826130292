"""A bulk delete that is repeated under its key: whatever is answered is true of the chats when it is."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from chat_service.errors import ActiveConnectionsError, RequestInProgressError
from chat_service.models import Deletion, IdempotencyKey
from chat_service.repository.bulk import GROUP_CHATS, Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deadline import set_deadline
from chat_service.repository.deletions import Deletions
from chat_service.repository.idempotency import claimed
from chat_service.repository.lifecycle import Outcome
from chat_service.repository.presence import Presence
from tests.wait import wait_until

TENANT = "tenant"
ROUNDS = 5


def new_key() -> IdempotencyKey:
    return IdempotencyKey(TENANT, uuid.uuid4().hex, "fingerprint")


def new_chats(database: Database, number: int) -> list[str]:
    chats = Chats(database)
    return [chats.create(TENANT, None, {}).id for _ in range(number)]


def receipt_of(database: Database, chat_id: str) -> dict[str, object] | None:
    return database.deletions.find_one({"_id.chat_id": chat_id})


def test_a_repetition_beside_the_first_run_says_what_is_so(database) -> None:
    """Connected to the first chat, bulk delete, disconnected, and the same again while the first run goes on."""
    presence = Presence(database)
    for _ in range(ROUNDS):
        ids, key = new_chats(database, 12 * GROUP_CHATS), new_key()
        presence.open(TENANT, ids[0], "connection", "worker")
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(Bulk(database, Deletions(database)).remove, TENANT, ids, "key", key)
            # Its first group is done, and has left the chat alone.
            wait_until(lambda ids=ids: receipt_of(database, ids[1]), 10, every=0.001)
            presence.close("worker", ["connection"])
            second = pool.submit(Bulk(database, Deletions(database)).remove, TENANT, ids, "key", key)
            told_first, told_second = first.result(), second.result()
        assert isinstance(told_first[ids[0]], ActiveConnectionsError), "as it was then"
        assert_true(database, told_second)
        assert all(isinstance(outcome, Deletion) for outcome in told_second.values())
        for chat_id in ids[1:]:
            assert told_first[chat_id].deleted_at == told_second[chat_id].deleted_at, chat_id


def assert_true(database: Database, outcomes: dict[str, Outcome]) -> None:
    for chat_id, outcome in outcomes.items():
        receipt = receipt_of(database, chat_id)
        assert isinstance(outcome, Deletion) == (receipt is not None), chat_id
        if isinstance(outcome, Deletion):
            assert receipt is not None
            assert outcome.deleted_at == receipt["deleted_at"]


def test_of_runs_at_once_one_works_and_all_say_the_same(database) -> None:
    """Four of them: each chat is deleted once, with one time."""
    ids, key = new_chats(database, 4 * GROUP_CHATS), new_key()
    together = threading.Barrier(4)

    def run(_: int) -> dict[str, Outcome]:
        together.wait()
        return Bulk(database, Deletions(database)).remove(TENANT, ids, "key", key)

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(run, range(4)))
    assert all(outcomes == told[0] for outcomes in told)
    assert_true(database, told[0])


def test_a_run_that_was_cut_off_is_gone_on_with(database) -> None:
    """It had deleted a group and was killed: its claim ends, and what it deleted counts, with the time of that."""
    ids, key = new_chats(database, 2 * GROUP_CHATS), new_key()
    bulk = Bulk(database, Deletions(database))
    told = bulk.remove(TENANT, ids[:GROUP_CHATS], "key", key)
    database.idempotency.update_one({}, {"$set": {"claimed_until": database.now()}})
    again = bulk.remove(TENANT, ids, "key", key)
    assert {chat_id: again[chat_id] for chat_id in told} == told
    assert_true(database, again)


def test_who_waits_in_vain_is_told_so(database) -> None:
    """Not longer than the request has time, and nothing was done for it."""
    ids, key = new_chats(database, 2), new_key()
    with claimed(database, key, 0):
        set_deadline(time.monotonic() + 0.5)
        try:
            with pytest.raises(RequestInProgressError):
                Bulk(database, Deletions(database)).remove(TENANT, ids, "key", key)
        finally:
            set_deadline(None)
    assert database.chats.count_documents({}) == 2
    with suppress(RequestInProgressError):
        assert len(Bulk(database, Deletions(database)).remove(TENANT, ids, "key", key)) == 2


def test_a_refusal_is_no_answer_for_ever(database) -> None:
    """What stayed because somebody was connected is deleted by the repetition, which says so."""
    (chat_id,), key = new_chats(database, 1), new_key()
    presence, bulk = Presence(database), Bulk(database, Deletions(database))
    presence.open(TENANT, chat_id, "connection", "worker")
    assert isinstance(bulk.remove(TENANT, [chat_id], "key", key)[chat_id], ActiveConnectionsError)
    presence.close("worker", ["connection"])
    assert isinstance(bulk.remove(TENANT, [chat_id], "key", key)[chat_id], Deletion)
