"""Whether others use the chats: what those ask who work on many chats at once, to step aside."""

import math
import threading
import time
from contextlib import suppress

from pymongo.errors import OperationFailure

from chat_service.errors import DatabaseUnavailableError
from chat_service.repository.database import Database

LOOK_SECONDS = 0.1
"""Between two looks."""

RECENT_SECONDS = 1.0
"""A look tells of the time since the last one; if that was longer ago, of nothing that is going on now."""

LOOK_WITHIN_SECONDS = 2.0
"""For a look: no healthy one needs it."""

GROUP_OPERATIONS = 2
"""What the transaction of a group is on the collection of chats."""

JOB_REST = 6.0
"""The rest of a job after a piece of work while others use the database, in times of the piece."""

OTHERS_PER_SECOND = 20.0
"""Operations on the chats up to which they are nobody: leases and single requests now and then."""


def chat_operations(database: Database) -> int:
    """Return how many operations the server has done on the chats, ever: every request does some, and so does this.

    Raises:
        DatabaseUnavailableError: it did not answer in time.
        OperationFailure: it does not tell.
    """
    look = {"aggregate": "chats", "pipeline": [{"$collStats": {"latencyStats": {}}}], "cursor": {}}
    with database.operation(seconds=LOOK_WITHIN_SECONDS):
        shards = database.unbound().command(look)["cursor"]["firstBatch"]
    return sum(int(kind["ops"]) for shard in shards for kind in shard["latencyStats"].values())


class Traffic:
    """What others do, seen from a process that works on the chats itself and tells what it does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._looked_at = -math.inf
        self._seen = 0
        self._own = 0
        self._is_busy = False

    def add(self, operations: int) -> None:
        """Take note of operations on the chats that are the caller's own."""
        with self._lock:
            self._own += operations

    @property
    def is_shared(self) -> bool:
        """Whether the last look has seen others: pieces of work are to be small then. Asks nobody."""
        return self._is_busy

    def step_aside(self, begun: float, operations: int = GROUP_OPERATIONS) -> None:
        """After a piece of a job's work that began at `begun`, monotonic: rest if others use the chats.

        `operations` is how many the piece was on the collection of chats; each statement of an update is one.
        """
        self.add(operations)
        worked = time.monotonic() - begun
        if self.look_for_others():
            time.sleep(worked * JOB_REST)

    def look_for_others(self) -> bool:
        """Tell whether others used the chats between the last two looks; costs a command after `LOOK_SECONDS`."""
        with self._lock:
            now = time.monotonic()
            since = now - self._looked_at
            if since > LOOK_SECONDS:
                # Whoever asks is about to find out that it is away; and nobody steps aside for what cannot be seen.
                with suppress(DatabaseUnavailableError, OperationFailure):
                    seen = chat_operations(self._database)
                    others = seen - self._seen - self._own - 1
                    self._is_busy = since < RECENT_SECONDS and others > OTHERS_PER_SECOND * since
                    self._looked_at, self._seen, self._own = now, seen, 0
            return self._is_busy
