"""Whether others use the chats: what those ask who work on many chats at once, to step aside."""

import threading
import time

from chat_service.errors import DatabaseUnavailableError
from chat_service.repository.database import Database

LOOK_SECONDS = 0.1
"""Between two looks."""

OTHERS_PER_SECOND = 20.0
"""Operations on the chats up to which they are nobody: leases and single requests now and then."""


def chat_operations(database: Database) -> int:
    """Return how many operations the server has done on the chats, ever: every request does some, and so does this.

    Raises:
        DatabaseUnavailableError: it did not answer in time.
    """
    with database.operation():
        shards = database.chats.aggregate([{"$collStats": {"latencyStats": {}}}])
        return sum(int(kind["ops"]) for shard in shards for kind in shard["latencyStats"].values())


class Traffic:
    """What others do, seen from a process that works on the chats itself and tells what it does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._looked_at: float | None = None
        self._seen = 0
        self._own = 0
        self._is_busy = False

    def add(self, operations: int) -> None:
        """Take note of operations on the chats that are the caller's own."""
        with self._lock:
            self._own += operations

    def is_busy(self) -> bool:
        """Tell whether others have used the chats since the last look; costs a command after `LOOK_SECONDS`."""
        with self._lock:
            now = time.monotonic()
            if self._looked_at is None or now - self._looked_at > LOOK_SECONDS:
                self._look(now)
            return self._is_busy

    def _look(self, now: float) -> None:
        try:
            seen = chat_operations(self._database)
        except DatabaseUnavailableError:
            return  # which whoever asks is about to find out
        if self._looked_at is not None:
            others = seen - self._seen - self._own - 1
            self._is_busy = others > OTHERS_PER_SECOND * (now - self._looked_at)
        self._looked_at, self._seen, self._own = now, seen, 0
