"""By when a request must have come, and by when its answer.

An answer's time is counted from the moment at which the router took the request, where it says so.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from chat_service.repository.complaints import Complaints

ANSWER_SECONDS = 25.0
"""After this nobody may see the answer any more: routers give up after 30."""

AFTERWARDS_SECONDS = 4.0
"""What may come after the database's time is up: an abort, the look for a lost outcome, the way back."""

AHEAD_SECONDS = 5.0
"""The router's clock may be ahead of ours by so much. Further off it is wrong, and not believed."""

BEHIND_SECONDS = 300.0
"""No request was ever that long on its way: a clock is wrong here too."""

_WRONG = (
    "X-Request-Start is {} the clock of this machine: one of the two is wrong, and requests count from their arrival."
)
AHEAD = _WRONG.format("ahead of")
BEHIND = _WRONG.format("minutes behind")

LOOK_SECONDS = 0.5
"""Between two looks at those who have a limit of time."""

T = TypeVar("T")

_complaints = Complaints()

# Heroku: milliseconds since 1970. nginx: `t=` and seconds.
_MILLISECONDS = re.compile(r"[0-9]{13}", re.ASCII)
_SECONDS = re.compile(r"t=([0-9]{10}(\.[0-9]{1,6})?)", re.ASCII)


def started_at(request_start: str | None, now: float) -> float:
    """Return when a request began, by its X-Request-Start; `now` (seconds since 1970) if that says nothing sane."""
    header = request_start or ""
    if _MILLISECONDS.fullmatch(header):
        began = int(header) / 1000
    elif match := _SECONDS.fullmatch(header):
        began = float(match[1])
    else:
        return now
    if now - BEHIND_SECONDS < began < now + AHEAD_SECONDS:
        return min(began, now)
    _complaints.say([AHEAD if began > now else BEHIND])
    return now


def deadline_of(request_start: str | None) -> float:
    """Return until when the database may be worked with for a request, on the clock of `time.monotonic()`."""
    now = time.time()
    return time.monotonic() + started_at(request_start, now) - now + ANSWER_SECONDS - AFTERWARDS_SECONDS


class TimeLimit:
    """A time limit for what nearly always ends soon: one timer looks after all, not one for each.

    A timer that is stopped is one more turn of the event loop, in which it takes the interpreter from the thread that
    has just begun to answer. In return a limit is noticed up to `LOOK_SECONDS` late.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self._is_looking = False

    def start(self, key: Hashable, on_late: Callable[[], object], seconds: float | None = None) -> None:
        """Call `on_late()` once the time has passed, unless `key` is stopped before; its first start counts."""
        if key not in self._ends:
            self._ends[key] = (time.monotonic() + (self._seconds if seconds is None else seconds), on_late)
            if not self._is_looking:
                self._look_later()

    def stop(self, key: Hashable) -> None:
        """Forget `key`, if it was started."""
        self._ends.pop(key, None)

    async def wait_for(self, work: Awaitable[T], seconds: float | None = None) -> T:
        """Return what `work` returns.

        Raises:
            TimeoutError: it took longer, and was cancelled.
        """
        async with asyncio.timeout(None) as timeout:
            self.start(timeout, lambda: timeout.reschedule(asyncio.get_running_loop().time()), seconds)
            try:
                return await work
            finally:
                self.stop(timeout)

    def _look_later(self) -> None:
        self._is_looking = True
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for key, (end, on_late) in list(self._ends.items()):
            if end <= now:
                del self._ends[key]
                on_late()
        self._is_looking = False
        if self._ends:
            self._look_later()
