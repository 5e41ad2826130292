"""One deadline for all database commands of a request, and how an outage of the database is remembered."""

import contextvars
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from chat_service.embedded.process import free_port
from chat_service.errors import DatabaseUnavailableError
from chat_service.models import IdempotencyKey
from chat_service.repository.bulk import Bulk
from chat_service.repository.database import Database
from chat_service.repository.deadline import at_most, set_deadline
from chat_service.repository.deletions import Deletions
from tests.wait import wait_until

TENANT = "t"
T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Call it as in a request that has `seconds` left."""

    def run() -> T:
        set_deadline(time.monotonic() + seconds)
        return call()

    return contextvars.copy_context().run(run)


def test_the_earlier_deadline_counts() -> None:
    assert at_most(12) == 12
    assert within(20, lambda: at_most(12)) == 12
    assert 2.9 < within(3, lambda: at_most(12)) <= 3
    assert within(-1, lambda: at_most(12)) <= -1


def test_nothing_is_begun_after_the_deadline(chats, deletions) -> None:
    """No command is sent, so nothing is changed."""
    chat_id = chats.create(TENANT, None, {}).id
    for call in (lambda: chats.get(TENANT, chat_id), lambda: deletions.delete(TENANT, chat_id, "key")):
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            within(0, call)
        assert time.monotonic() - began < 0.1
    assert chats.get(TENANT, chat_id).id == chat_id


def test_an_unknown_outcome_is_still_looked_up(failpoint, chats, deletions) -> None:
    """The transaction ends at the deadline; the lookup of its outcome has a short time of its own after that."""
    chat_id = chats.create(TENANT, None, {}).id
    began = time.monotonic()
    # The server commits, and says that it does not know whether the commit is durable.
    failpoint.arm("commitTransaction", writeConcernError={"code": 64, "errmsg": "waiting for replication timed out"})
    assert within(1.0, lambda: deletions.delete(TENANT, chat_id, "key")).chat_id == chat_id
    assert 0.5 < time.monotonic() - began < 3.5


def test_a_bulk_delete_returns_its_results_even_if_they_cannot_be_stored(database, chats, monkeypatch) -> None:
    """The chats are gone, so "nothing was changed" would be wrong; a retry with the key gets the same results."""
    ids = [chats.create(TENANT, None, {}).id for _ in range(2)]
    bulk = Bulk(database, Deletions(database))
    key = IdempotencyKey(TENANT, "key", "fingerprint")
    transactions = iter([database.transaction])

    def only_the_first(work, before_retry):
        try:
            return next(transactions)(work, before_retry)
        except StopIteration:
            raise DatabaseUnavailableError from None

    monkeypatch.setattr(database, "transaction", only_the_first)
    outcomes = bulk.remove(TENANT, ids, "key", key)
    monkeypatch.undo()
    assert [(chat_id, receipt.message_count) for chat_id, receipt in outcomes.items()] == [
        (chat_id, 0) for chat_id in ids
    ]
    assert bulk.remove(TENANT, ids, "key", key) == outcomes


def test_an_outage_is_remembered(database) -> None:
    """Before the first check no outage is known; after it, the next check fails at once."""
    away = Database(f"mongodb://127.0.0.1:{free_port()}/?replicaSet=rs0")
    assert away.seconds_away() == 0
    assert not away.is_ready()
    wait_until(lambda: away.seconds_away() > 0)
    began = time.monotonic()
    assert not away.is_ready()
    assert time.monotonic() - began < 0.1
    away.close()
    assert database.is_ready()
    assert database.seconds_away() == 0
