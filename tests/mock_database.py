"""A Database on mongomock, for what mongomock does faithfully: single documents, ranges of keys, plain updates.

mongomock has no sessions, so `transaction` calls the work without one. That shortcut is here and not in the product:
whatever depends on atomicity, isolation or retries is tested on a real mongod.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import mongomock
from pymongo.errors import OperationFailure

from chat_service.errors import ChatServiceError
from chat_service.repository.database import Database, Work
from chat_service.repository.transaction import BeforeRetry, T
from chat_service.repository.unit_of_work import UnitOfWork


class MockUnitOfWork(UnitOfWork):
    """A unit of work without a session, which emulates the plain commands that mongomock does not run."""

    def command(self, command: dict[str, Any]) -> dict[str, Any]:
        if "aggregate" in command:
            raise OperationFailure("mongomock keeps no statistics")
        if "insert" in command:
            self.database[command["insert"]].insert_many(command["documents"])
            return {"ok": 1}
        if "delete" in command:
            messages = self.database[command["delete"]]
            return {"ok": 1, "n": sum(messages.delete_many(delete["q"]).deleted_count for delete in command["deletes"])}
        chat = self.chats.find_one_and_update(command["query"], command["update"], projection=command["fields"])
        return {"ok": 1, "value": chat}


class MockDatabase(Database):
    def __init__(self) -> None:
        self._use(mongomock.MongoClient(tz_aware=True)["chat_service"])

    def now(self) -> datetime:
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def transaction(self, work: Work[T], before_retry: BeforeRetry = lambda: None) -> T:
        del before_retry
        result = work(self.unbound())
        if isinstance(result, ChatServiceError):
            raise result
        return result

    def _unit_of_work(self, session: object) -> UnitOfWork:
        del session
        return MockUnitOfWork(self.database, self.collections, self.rules, None, self.now())

    @contextmanager
    def operation(self, *, writes: bool = False, seconds: float | None = None) -> Iterator[None]:
        del writes, seconds
        yield

    @contextmanager
    def snapshot(self) -> Iterator[UnitOfWork]:
        yield self.unbound()

    def require_transactions(self) -> None:
        """Do nothing: the mock pretends to have transactions."""

    def seconds_away(self) -> float:
        return 0.0

    def is_ready(self) -> bool:
        return True

    def oplog_window(self) -> timedelta | None:
        return None

    def close(self) -> None:
        """Do nothing: nothing is open."""
