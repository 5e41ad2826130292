"""How fast a purge may go: flat out while nobody else wants the database, out of the way as soon as somebody does.

The worker times a small read of its own before each batch. On a quiet database that takes what it always takes; when
requests have to queue, so does this read. A pure function of the times it is told, so tests tell it times.
"""

from collections import deque

FLAT_OUT_MESSAGES = 1_000
"""A batch on a quiet database: measured as the fastest, about 10 ms."""

POLITE_MESSAGES = 200
"""A batch among requests: about 2 ms, so that none waits for longer behind it."""

CROWDED = 1.7
"""How many times its quiet time the read has to take before requests are taken to be waiting."""

REST_MOST = 8.0
"""The longest rest, in times of the batch before it: a purge always moves, if at a ninth of its speed."""

_RECENT = 5
_MEMORY = 300


class Pace:
    """Learns from the times of small reads; says how large the next batch is and how long to rest after it."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._known: deque[float] = deque(maxlen=_MEMORY)
        self._rest = 0.0

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
        return POLITE_MESSAGES if self._rest else FLAT_OUT_MESSAGES

    def rest(self, batch_seconds: float) -> float:
        """Return how many seconds to rest after a batch that took `batch_seconds`."""
        return batch_seconds * self._rest
