"""The deadlines of requests: how long one may take to arrive, and by when it must be answered.

The time to answer is counted from the moment at which the router accepted the request, if the router says when.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from chat_service.repository.complaints import Complaints

ANSWER_SECONDS = 25.0
"""A later response may reach nobody: routers give up after 30 s."""

AFTERWARDS_SECONDS = 4.0
"""For what follows the deadline of the database's work: an abort, the look for a lost outcome, the way back."""

AHEAD_SECONDS = 5.0
"""How far the router's clock may be ahead of ours. Beyond that it is wrong, and ignored."""

BEHIND_SECONDS = 300.0
"""No request takes this long to arrive. Beyond that a clock is wrong, too."""

_WRONG = (
    "X-Request-Start is {} the clock of this machine: one of the two clocks is wrong. Deadlines count from the arrival."
)
AHEAD = _WRONG.format("ahead of")
BEHIND = _WRONG.format("minutes behind")

LOOK_SECONDS = 0.5
"""Between two checks of what has a time limit."""

T = TypeVar("T")

_complaints = Complaints()

# Heroku: milliseconds since 1970. nginx: `t=` and seconds.
_MILLISECONDS = re.compile(r"[0-9]{13}", re.ASCII)
_SECONDS = re.compile(r"t=([0-9]{10}(\.[0-9]{1,6})?)", re.ASCII)


def started_at(request_start: str | None, now: float) -> float:
    """Return when a request began, by its X-Request-Start; `now` (seconds since 1970) if that is not plausible."""
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
    """Return until when a request may use the database, on the clock of `time.monotonic()`."""
    now = time.time()
    return time.monotonic() + started_at(request_start, now) - now + ANSWER_SECONDS - AFTERWARDS_SECONDS


class TimeLimit:
    """A time limit for work that nearly always ends soon: one timer checks all of it, instead of a timer for each.

    Each timer that is stopped costs a turn of the event loop, and the loop takes the interpreter from the thread that
    has just begun to answer. In return, a limit is noticed up to `LOOK_SECONDS` late.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadlines: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self._is_check_scheduled = False

    def start(self, key: Hashable, on_late: Callable[[], object], seconds: float | None = None) -> None:
        """Call `on_late()` once the time is over, unless `key` is stopped before. Its first start counts."""
        if key not in self._deadlines:
            self._deadlines[key] = (time.monotonic() + (self._seconds if seconds is None else seconds), on_late)
            if not self._is_check_scheduled:
                self._check_later()

    def stop(self, key: Hashable) -> None:
        """Forget `key`, if it was started."""
        self._deadlines.pop(key, None)

    async def wait_for(self, work: Awaitable[T], seconds: float | None = None) -> T:
        """Return what `work` returns.

        Raises:
            TimeoutError: it took longer than the limit, and was cancelled.
        """
        async with asyncio.timeout(None) as timeout:
            self.start(timeout, lambda: timeout.reschedule(asyncio.get_running_loop().time()), seconds)
            try:
                return await work
            finally:
                self.stop(timeout)

    def _check_later(self) -> None:
        self._is_check_scheduled = True
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._check)

    def _check(self) -> None:
        now = time.monotonic()
        for key, (deadline, on_late) in list(self._deadlines.items()):
            if deadline <= now:
                del self._deadlines[key]
                on_late()
        self._is_check_scheduled = False
        if self._deadlines:
            self._check_later()
