"""A commit whose answer is lost, on a database that then cannot be asked: unknown is told, and never "unchanged"."""

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
    """Commits, lets something happen, and loses the answer, once; later transactions find no database at all."""

    then: Callable[[], object]
    is_lost = False

    def run(self, work: Work[T], before_retry: BeforeRetry = lambda: None) -> T:
        if self.is_lost:
            raise DatabaseUnavailableError
        super().run(work, before_retry)
        self.is_lost = True
        self.then()
        raise OutcomeUnknownError


class KeepingRunner(LosingRunner):
    """Loses nothing of its first transaction."""

    def run(self, work: Work[T], before_retry: BeforeRetry = lambda: None) -> T:
        if self.is_lost:
            raise DatabaseUnavailableError
        self.is_lost = True
        return TransactionRunner.run(self, work, before_retry)


@pytest.fixture
def cut_off(failpoint) -> Callable[[], object]:
    """Call it, and no `find` of the service is answered any more."""
    return partial(failpoint.arm, "find", closeConnection=True)


@pytest.fixture
def losing(mongod: EmbeddedMongod, database: Database, cut_off) -> Iterator[Callable[[type], Database]]:
    """A database with a runner of the given class, and one chat in it."""
    Chats(database).create(TENANT, None, {}, CHAT)
    made = []

    def make(runner: type[LosingRunner]) -> Database:
        runner.then = staticmethod(cut_off)
        made.append(Database(mongod.uri, runner=runner))
        return made[-1]

    yield make
    for one in made:
        one.close()


def bulk(database: Database) -> Bulk:
    return Bulk(database, Deletions(database))


def test_a_delete(losing) -> None:
    """The chat is gone, and nobody says that nothing was changed."""
    with pytest.raises(OutcomeUnknownError):
        Deletions(losing(LosingRunner)).delete(TENANT, CHAT, "key")


def test_a_restore(losing, database, failpoint) -> None:
    """The chat is back, and nobody says that nothing was changed."""
    Deletions(database).move_to_trash(TENANT, CHAT, "key", timedelta(days=1))
    with pytest.raises(OutcomeUnknownError):
        Trash(losing(LosingRunner)).restore(TENANT, CHAT, "key")
    failpoint.disarm()
    assert Chats(database).get(TENANT, CHAT).id == CHAT


def test_each_of_a_bulk_delete(losing) -> None:
    """The same, for each chat."""
    told = bulk(losing(LosingRunner)).remove(TENANT, [CHAT], "key")
    assert [type(outcome) for outcome in told.values()] == [OutcomeUnknownError]


def test_a_bulk_delete_whose_report_cannot_be_kept(losing, database) -> None:
    """The chats are gone, so that is what is told, and to a repetition too."""
    key = IdempotencyKey(TENANT, "a", "b")

    def deleted(bulk: Bulk) -> list[str]:
        outcomes = bulk.remove(TENANT, [CHAT], "key", key)
        return [chat_id for chat_id, outcome in outcomes.items() if isinstance(outcome, Deletion)]

    assert deleted(bulk(losing(KeepingRunner))) == [CHAT]
    assert deleted(Bulk(database, Deletions(database))) == [CHAT]
