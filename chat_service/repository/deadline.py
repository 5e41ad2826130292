"""By when a request must be answered, for everything that it asks of the database.

A request is more than one call here: its key is looked up, then its work is done, then perhaps a lost outcome is looked
for. Each has a limit of its own, and all of them together have this one. Work that nobody waits for has none.
"""

import time
from contextvars import ContextVar

_end: ContextVar[float | None] = ContextVar("end", default=None)


def set_deadline(end: float | None) -> None:
    """Have what this context does from now on end by `end`, on the clock of `time.monotonic()`."""
    _end.set(end)


def at_most(seconds: float) -> float:
    """Return `seconds`, or how many are left of the request if those are fewer; 0 or less once it is too late."""
    end = _end.get()
    return seconds if end is None else min(seconds, end - time.monotonic())
