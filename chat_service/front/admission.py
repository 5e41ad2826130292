"""Who may take a worker thread, and who is refused at once: what keeps a database that is away from taking them all.

The rule (`decide` is all of it):

- While the database is there, as many requests run as there are threads, the others wait for their turn, first come,
  first served, and none for longer than `TURN_SECONDS`.
- Once it is known to be away, half of the threads may wait for it to come back, as it does after an election. Everybody
  else is refused at once, those that were waiting for a turn too. The moment it is back, all are let in again.
- A request that the router is about to give up is refused: nobody would see the answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

TURN_SECONDS = 8.0
"""For a thread to become free. Whoever waits for longer gets a better answer by trying again."""

KNOWN_AWAY_SECONDS = 1.0
"""A primary that steps down in good order has a successor before this, and nobody need be refused."""

REVIEW_SECONDS = 0.1
"""Between two looks at those who wait for a turn: the most that an outage is noticed late."""


class Verdict(Enum):
    """What becomes of a request."""

    RUN = auto()
    WAIT = auto()
    REFUSE = auto()


def decide(threads: int, running: int, away: float, waited: float, left: float) -> Verdict:
    """Return what becomes of a request now.

    `running` requests have a thread; the database has been away for `away` seconds, 0 if it is there; this request has
    waited for `waited` seconds, and there are `left` until its answer would come too late.
    """
    if left <= 0 or waited > TURN_SECONDS:
        return Verdict.REFUSE
    if away > KNOWN_AWAY_SECONDS:
        return Verdict.RUN if running < max(threads // 2, 1) else Verdict.REFUSE
    return Verdict.RUN if running < threads else Verdict.WAIT


class Admission:
    """Gives the threads of one event loop to its requests; every method is called by the loop."""

    def __init__(self, threads: int, seconds_away: Callable[[], float]) -> None:
        """Admit to `threads` threads; `seconds_away` tells for how long the database has been away."""
        self._threads = threads
        self._seconds_away = seconds_away
        self._running = 0
        self._waiting: deque[tuple[asyncio.Future[bool], float, float]] = deque()
        self._review_is_due = False

    async def enter(self, deadline: float) -> bool:
        """Wait for a thread; return whether the request got one, which it has to `leave`, or is refused.

        `deadline` is when its answer would come too late, on the clock of `time.monotonic()`.
        """
        now = time.monotonic()
        verdict = self._decide(now, now, deadline)
        # Nobody overtakes those who wait.
        if verdict is Verdict.REFUSE or (verdict is Verdict.RUN and not self._waiting):
            self._running += verdict is Verdict.RUN
            return verdict is Verdict.RUN
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, now, deadline))
        self._review_soon()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a thread back."""
        self._running -= 1
        if self._waiting:
            self._review()

    def _decide(self, now: float, since: float, deadline: float) -> Verdict:
        return decide(self._threads, self._running, self._seconds_away(), now - since, deadline - now)

    def _review(self) -> None:
        """Let in or refuse those who wait, in their order."""
        now = time.monotonic()
        still = deque[tuple[asyncio.Future[bool], float, float]]()
        for turn, since, deadline in self._waiting:
            if turn.done():  # its client has left
                continue
            verdict = self._decide(now, since, deadline)
            if verdict is Verdict.WAIT:
                still.append((turn, since, deadline))
            else:
                self._running += verdict is Verdict.RUN
                turn.set_result(verdict is Verdict.RUN)
        self._waiting = still

    def _review_soon(self) -> None:
        if not self._review_is_due:
            self._review_is_due = True
            asyncio.get_running_loop().call_later(REVIEW_SECONDS, self._review_when_due)

    def _review_when_due(self) -> None:
        self._review_is_due = False
        self._review()
        if self._waiting:
            self._review_soon()
