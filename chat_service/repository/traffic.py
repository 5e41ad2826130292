"""The one rule of backpressure for work on many chats or messages: while requests of others use the chats, it yields.

Each piece of such work is small then, and is followed by a rest in proportion to its own time. So when the database is
slow, because many use it, the rests are longer too. Purges, jobs and bulk requests differ only in the proportion.
"""

import math
import threading
import time
from contextlib import suppress

from pymongo.errors import OperationFailure

from chat_service.errors import DatabaseUnavailableError
from chat_service.repository.database import Database

LOOK_SECONDS = 0.1
"""The least time between two looks at the server's counter."""

RECENT_SECONDS = 1.0
"""A look shows the traffic since the last one. If that was longer ago than this, it says nothing about the present."""

LOOK_WITHIN_SECONDS = 2.0
"""The timeout of a look; a healthy one takes less."""

GROUP_OPERATIONS = 2
"""How many operations on the chats collection the transaction of a group counts as."""

JOB_REST = 6.0
"""How long a job rests after a piece of work while others use the chats, in multiples of the piece's own time."""

REQUEST_REST = 0.5
"""The same for a bulk request, whose caller waits. With it the reads of others stay within twice their undisturbed p99;
without it they sometimes do not."""

OTHERS_PER_SECOND = 20.0
"""Up to this rate of operations on the chats there are no others: only leases and occasional requests."""


def chat_operations(database: Database) -> int:
    """Return how many operations the server has ever run on the chats. Every request runs some, and this runs one.

    Raises:
        DatabaseUnavailableError: the database did not answer in time.
        OperationFailure: the database has no such statistics.
    """
    statistics = {"aggregate": "chats", "pipeline": [{"$collStats": {"latencyStats": {}}}], "cursor": {}}
    with database.operation(seconds=LOOK_WITHIN_SECONDS):
        shards = database.unbound().command(statistics)["cursor"]["firstBatch"]
    return sum(int(kind["ops"]) for shard in shards for kind in shard["latencyStats"].values())


class Traffic:
    """The traffic of others, seen from a process that reports its own operations on the chats."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._looked_at = -math.inf
        self._total = 0
        self._own = 0
        self._is_busy = False

    def add(self, operations: int) -> None:
        """Add operations on the chats that are the caller's own, so that they are not taken for others'."""
        with self._lock:
            self._own += operations

    @property
    def is_shared(self) -> bool:
        """Whether the last look has seen others: then pieces of work should be small. No command."""
        return self._is_busy

    def step_aside(self, began: float, operations: int, rest: float = JOB_REST) -> None:
        """Rest if others use the chats, after a piece of work that began at `began` (monotonic).

        `operations` is how many operations on the chats collection the piece was: each statement of an update counts as
        one. `rest` is a multiple of the time that the piece took.
        """
        self.add(operations)
        worked = time.monotonic() - began
        if self.look_for_others():
            time.sleep(worked * rest)

    def look_for_others(self) -> bool:
        """Return whether others used the chats between the last two looks. A command, at most each `LOOK_SECONDS`."""
        with self._lock:
            now = time.monotonic()
            since = now - self._looked_at
            if since > LOOK_SECONDS:
                # If the database is away, the caller is about to notice; without statistics nobody pauses.
                with suppress(DatabaseUnavailableError, OperationFailure):
                    total = chat_operations(self._database)
                    others = total - self._total - self._own - 1
                    self._is_busy = since < RECENT_SECONDS and others > OTHERS_PER_SECOND * since
                    self._looked_at, self._total, self._own = now, total, 0
            return self._is_busy
