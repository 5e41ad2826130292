"""How fast a purge may go: flat out while nobody else wants the database, out of the way as soon as somebody does.

The worker learns two things between its batches: whether others use the database, and how long a small read of its own
takes. While there are others, batches are small and there is a rest after each; when they have to queue, so does the
read, and the rests grow. A pure function of what it is told, so tests tell it.
"""

from collections import deque

FLAT_OUT_MESSAGES = 1_000
"""A batch on a quiet database: measured as the fastest, about 7 ms."""

POLITE_MESSAGES = 100
"""A batch among requests: about 2 ms, so that none waits for longer behind it."""

POLITE_REST = 3.0
"""The rest after such a batch, in times of the batch: three requests in four meet none."""

CROWDED = 1.7
"""How many times its quiet time the read has to take before requests are taken to be waiting."""

REST_MOST = 12.0
"""The longest rest: a purge always moves."""

LOOK_SECONDS = 0.5
"""Between two looks for others."""

FEW_OPERATIONS = 8
"""In that time these are nobody: each look is one itself, and other workers look too."""

_RECENT = 5
_MEMORY = 300


class Pace:
    """Learns from small reads and from what others do; says how large the next batch is and how long to rest."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._known: deque[float] = deque(maxlen=_MEMORY)
        self._others = False
        self._rest = 0.0

    def learn_others(self, operations: int) -> None:
        """Take in how many operations others have done since the last look."""
        self._others = operations > FEW_OPERATIONS

    def learn(self, seconds: float) -> None:
        """Take in how long a small read took just now."""
        self._recent.append(seconds)
        self._known.append(seconds)
        # The tenth percentile: what it takes when nothing is in the way, and no single lucky read.
        quiet = sorted(self._known)[len(self._known) // 10]
        now = sorted(self._recent)[len(self._recent) // 2]
        if now > quiet * CROWDED:
            self._rest = min(max(self._rest * 2, 1.0), REST_MOST)
        else:
            self._rest = self._rest * 0.8 if self._rest > 0.1 else 0.0  # noqa: PLR2004 - from there it is no rest

    @property
    def batch(self) -> int:
        """How many messages the next batch removes."""
        return POLITE_MESSAGES if self._others else FLAT_OUT_MESSAGES

    def rest(self, batch_seconds: float) -> float:
        """Return how many seconds to rest after a batch that took `batch_seconds`."""
        # With nobody there a slow read is mongod's own housekeeping, and no reason to wait.
        return batch_seconds * max(self._rest, POLITE_REST) if self._others else 0.0
