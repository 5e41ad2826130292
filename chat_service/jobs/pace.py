"""How fast a purge may go: at full speed while nobody else uses the database, and slowly as soon as somebody does.

The worker measures two things between its batches: whether others use the database, and how long a small read of its
own takes. While there are others, batches are small, with a rest after each. When their requests have to queue, so does
the read, and the rests grow. `Pace` depends on nothing but these measurements, so tests can supply them.
"""

from collections import deque

FLAT_OUT_MESSAGES = 1_000
"""A batch on an idle database: measured as the fastest, about 7 ms."""

POLITE_MESSAGES = 100
"""A batch among requests: about 2 ms, so that no request waits longer behind it."""

POLITE_REST = 3.0
"""The rest after such a batch, as a multiple of its time: three of four requests meet no batch."""

CROWDED = 1.7
"""Requests are assumed to wait when the read takes this multiple of its time on an idle database."""

REST_MOST = 12.0
"""The longest rest, as such a multiple: a purge always advances."""

LOOK_SECONDS = 0.5
"""Between two checks for others."""

FEW_OPERATIONS = 8
"""So few operations in that time do not count as others: each check is one itself, and other workers check too."""

_RECENT = 5
_HISTORY = 300


class Pace:
    """Learns from small reads and from the operations of others how large a batch may be and how long to rest."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._has_others = False
        self._rest_factor = 0.0

    def learn_others(self, operations: int) -> None:
        """Record how many operations others have done since the last check."""
        self._has_others = operations > FEW_OPERATIONS

    def learn(self, seconds: float) -> None:
        """Record how long a small read took just now."""
        self._recent.append(seconds)
        self._history.append(seconds)
        # The tenth percentile: what a read takes when nothing delays it, without single lucky reads.
        quiet = sorted(self._history)[len(self._history) // 10]
        now = sorted(self._recent)[len(self._recent) // 2]
        if now > quiet * CROWDED:
            self._rest_factor = min(max(self._rest_factor * 2, 1.0), REST_MOST)
        else:
            self._rest_factor = self._rest_factor * 0.8 if self._rest_factor > 0.1 else 0.0  # noqa: PLR2004 - less is no rest

    @property
    def batch(self) -> int:
        """How many messages the next batch removes."""
        return POLITE_MESSAGES if self._has_others else FLAT_OUT_MESSAGES

    def rest(self, batch_seconds: float) -> float:
        """Return how many seconds to rest after a batch that took `batch_seconds`."""
        # Without others, a slow read is due to mongod's own background work, and no reason to wait.
        return batch_seconds * max(self._rest_factor, POLITE_REST) if self._has_others else 0.0
