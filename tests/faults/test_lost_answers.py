"""A commit's reply is lost, and then the database cannot be read: the outcome is "unknown", and never "unchanged"."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.errors import DatabaseUnavailableError, OutcomeUnknownError
from chat_service.models import Deletion, IdempotencyKey
from chat_service.repository.bulk import Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.transaction import BeforeRetry, T, TransactionRunner, Work
from chat_service.repository.trash import Trash

TENANT = "t"
CHAT = "c0ffee00-1111-4222-8333-444444444444"


class LosingRunner(TransactionRunner):
    """Commits its first transaction, calls `after_commit` and loses the reply; later transactions find no database."""

    after_commit: Callable[[], object]
    has_run = False

    def run(self, work: Work[T], before_retry: BeforeRetry = lambda: None) -> T:
        if self.has_run:
            raise DatabaseUnavailableError
        super().run(work, before_retry)
        self.has_run = True
        self.after_commit()
        raise OutcomeUnknownError


class KeepingRunner(LosingRunner):
    """Returns the result of its first transaction; later ones find no database."""

    def run(self, work: Work[T], before_retry: BeforeRetry = lambda: None) -> T:
        if self.has_run:
            raise DatabaseUnavailableError
        self.has_run = True
        return TransactionRunner.run(self, work, before_retry)


@pytest.fixture
def cut_off(failpoint) -> Callable[[], object]:
    """A function after whose call every `find` of the service loses its connection."""
    return partial(failpoint.arm, "find", closeConnection=True)


@pytest.fixture
def database_with(mongod: EmbeddedMongod, database: Database, cut_off) -> Iterator[Callable[[type], Database]]:
    """A function that returns a database whose transactions use a runner of the given class; one chat is in it."""
    Chats(database).create(TENANT, None, {}, CHAT)
    databases = []

    def make(runner: type[LosingRunner]) -> Database:
        runner.after_commit = staticmethod(cut_off)
        databases.append(Database(mongod.uri, runner=runner))
        return databases[-1]

    yield make
    for opened in databases:
        opened.close()


def bulk(database: Database) -> Bulk:
    return Bulk(database, Deletions(database))


def test_a_delete(database_with) -> None:
    """The chat is deleted, and the error does not say that nothing was changed."""
    with pytest.raises(OutcomeUnknownError):
        Deletions(database_with(LosingRunner)).delete(TENANT, CHAT, "key")


def test_a_restore(database_with, database, failpoint) -> None:
    """The chat is restored, and the error does not say that nothing was changed."""
    Deletions(database).move_to_trash(TENANT, CHAT, "key", timedelta(days=1))
    with pytest.raises(OutcomeUnknownError):
        Trash(database_with(LosingRunner)).restore(TENANT, CHAT, "key")
    failpoint.disarm()
    assert Chats(database).get(TENANT, CHAT).id == CHAT


def test_each_of_a_bulk_delete(database_with) -> None:
    """The outcome of each chat is unknown."""
    outcomes = bulk(database_with(LosingRunner)).remove(TENANT, [CHAT], "key")
    assert [type(outcome) for outcome in outcomes.values()] == [OutcomeUnknownError]


def test_a_bulk_delete_whose_report_cannot_be_kept(database_with, database) -> None:
    """The chats are deleted, so the bulk delete reports that, and so does its repetition."""
    key = IdempotencyKey(TENANT, "a", "b")

    def deleted(bulk: Bulk) -> list[str]:
        outcomes = bulk.remove(TENANT, [CHAT], "key", key)
        return [chat_id for chat_id, outcome in outcomes.items() if isinstance(outcome, Deletion)]

    assert deleted(bulk(database_with(KeepingRunner))) == [CHAT]
    assert deleted(Bulk(database, Deletions(database))) == [CHAT]
