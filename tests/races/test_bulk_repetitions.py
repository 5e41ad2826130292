"""A bulk delete that is repeated under its idempotency key: each answer is true when it is given."""

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


def test_a_repetition_beside_the_first_run_answers_the_truth(database) -> None:
    """The first run leaves a chat with a connection alone; the client leaves; the repetition deletes the chat too."""
    presence = Presence(database)
    for _ in range(ROUNDS):
        ids, key = new_chats(database, 12 * GROUP_CHATS), new_key()
        presence.open(TENANT, ids[0], "connection", "worker")
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(Bulk(database, Deletions(database)).remove, TENANT, ids, "key", key)
            # The run's first group is done, and has left the chat with the connection alone.
            wait_until(lambda ids=ids: receipt_of(database, ids[1]), 10, every=0.001)
            presence.close("worker", ["connection"])
            second = pool.submit(Bulk(database, Deletions(database)).remove, TENANT, ids, "key", key)
            first_outcomes, second_outcomes = first.result(), second.result()
        assert isinstance(first_outcomes[ids[0]], ActiveConnectionsError), "it was connected then"
        assert_true(database, second_outcomes)
        assert all(isinstance(outcome, Deletion) for outcome in second_outcomes.values())
        for chat_id in ids[1:]:
            assert first_outcomes[chat_id].deleted_at == second_outcomes[chat_id].deleted_at, chat_id


def assert_true(database: Database, outcomes: dict[str, Outcome]) -> None:
    """Require that the outcomes are those that the receipts tell."""
    for chat_id, outcome in outcomes.items():
        receipt = receipt_of(database, chat_id)
        assert isinstance(outcome, Deletion) == (receipt is not None), chat_id
        if isinstance(outcome, Deletion):
            assert receipt is not None
            assert outcome.deleted_at == receipt["deleted_at"]


def test_of_concurrent_runs_one_deletes_and_all_answer_the_same(database) -> None:
    """Four runs: each chat is deleted once, with one `deleted_at`."""
    ids, key = new_chats(database, 4 * GROUP_CHATS), new_key()
    barrier = threading.Barrier(4)

    def run(_: int) -> dict[str, Outcome]:
        barrier.wait()
        return Bulk(database, Deletions(database)).remove(TENANT, ids, "key", key)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(run, range(4)))
    assert all(outcomes == answers[0] for outcomes in answers)
    assert_true(database, answers[0])


def test_a_run_that_was_cut_off_is_continued(database) -> None:
    """A run deleted a group and was killed: once its claim has ended, a repetition keeps its deletes and times."""
    ids, key = new_chats(database, 2 * GROUP_CHATS), new_key()
    bulk = Bulk(database, Deletions(database))
    first = bulk.remove(TENANT, ids[:GROUP_CHATS], "key", key)
    database.idempotency.update_one({}, {"$set": {"claimed_until": database.now()}})
    second = bulk.remove(TENANT, ids, "key", key)
    assert {chat_id: second[chat_id] for chat_id in first} == first
    assert_true(database, second)


def test_a_repetition_that_waits_in_vain_is_refused(database) -> None:
    """It waits no longer than the request's deadline, and deletes nothing."""
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


def test_a_refusal_is_not_kept_for_the_repetition(database) -> None:
    """A chat that stayed because of a connection is deleted by the repetition, which says so."""
    (chat_id,), key = new_chats(database, 1), new_key()
    presence, bulk = Presence(database), Bulk(database, Deletions(database))
    presence.open(TENANT, chat_id, "connection", "worker")
    assert isinstance(bulk.remove(TENANT, [chat_id], "key", key)[chat_id], ActiveConnectionsError)
    presence.close("worker", ["connection"])
    assert isinstance(bulk.remove(TENANT, [chat_id], "key", key)[chat_id], Deletion)
