"""The deadline of a request, which all its database calls share.

A request makes several calls: it looks its key up, does its work, and may then look for an outcome that was lost. Each
call has a limit of its own, and all of them together have this deadline. Work that nobody waits for has no deadline.
"""

import time
from contextvars import ContextVar

_end: ContextVar[float | None] = ContextVar("end", default=None)


def set_deadline(end: float | None) -> None:
    """Set the deadline of this context to `end`, on the clock of `time.monotonic()`; None removes it."""
    _end.set(end)


def at_most(seconds: float) -> float:
    """Return `seconds`, or the seconds until the deadline if they are fewer; 0 or less when the deadline has passed."""
    end = _end.get()
    return seconds if end is None else min(seconds, end - time.monotonic())
