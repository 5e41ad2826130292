"""Who may take a worker thread, and who is refused: so that neither one tenant nor an outage takes them all.

- While the database is there, as many requests run as there are threads. The others wait, none for longer than
  `TURN_SECONDS`: tenants take turns, and within a tenant it is first come, first served.
- A tenant never has all threads: `places_of_tenant` leaves some to others, who need not wait for its requests to end.
- Heavy work (imports, exports, bulk deletes, large bodies) has few places: it holds the interpreter, and the database,
  for long, and light requests, messages of sockets among them, would wait behind it.
- Once the database is known to be away, half of the threads may wait for it to come back, as it does after an election.
  Everybody else is refused at once, those that waited for a turn too. The moment it is back, all are let in again.
- A request that the router is about to give up is refused: nobody would see the answer.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import NamedTuple

from chat_service.telemetry import metrics

TURN_SECONDS = 8.0
"""For a thread to become free. Whoever waits for longer gets a better answer by trying again."""

KNOWN_AWAY_SECONDS = 1.0
"""A primary that steps down in good order has a successor before this, and nobody need be refused."""

REVIEW_SECONDS = 0.1
"""Between two looks at those who wait for a turn: the most that an outage is noticed late."""

WAITING_OF_TENANT = 1_000
"""Requests of one tenant that may wait. Beyond it they are refused: its own, and nobody else's."""

HEAVY_BODY_BYTES = 16 * 2**10
"""A request with a larger body is heavy: a batch, or a message that is longer than most."""

HEAVY_PATHS = ("/import", "/export", "/chats/delete", "/chats/trash", "/trash/restore")

Tenant = str | None
"""A tenant's id; None stands for all whose key was never seen."""


class Verdict(Enum):
    """What becomes of a request."""

    RUN = auto()
    WAIT = auto()
    REFUSE = auto()


class Weight(Enum):
    """How long a request keeps others from the interpreter and the database."""

    LIGHT = auto()
    HEAVY = auto()


def weigh(path: str, body_bytes: int) -> Weight:
    """Return the weight of a request, which its address and the size of its body tell."""
    return Weight.HEAVY if body_bytes > HEAVY_BODY_BYTES or path.endswith(HEAVY_PATHS) else Weight.LIGHT


def decide(threads: int, running: int, seconds_away: float, seconds_waited: float, seconds_left: float) -> Verdict:
    """Return what becomes of a request now, as far as it does not depend on whose it is.

    `running` requests have a thread; the database has been away for `seconds_away`, 0 if it is there; this request has
    waited for `seconds_waited`, and there are `seconds_left` until its answer would come too late.
    """
    if seconds_left <= 0 or seconds_waited > TURN_SECONDS:
        return Verdict.REFUSE
    if seconds_away > KNOWN_AWAY_SECONDS:
        return Verdict.RUN if running < max(threads // 2, 1) else Verdict.REFUSE
    return Verdict.RUN if running < threads else Verdict.WAIT


def places_of_tenant(threads: int) -> int:
    """Return how many of the threads one tenant may have at once: a quarter of them is left to others."""
    return max(threads - threads // 4, 1)


def heavy_places(threads: int) -> int:
    """Return how many of the threads may do heavy work at once."""
    return max(threads // 4, 1)


class Place:
    """A request's right to a thread."""

    __slots__ = ("_admission", "_is_left", "_tenant", "_weight")

    def __init__(self, admission: "Admission", tenant: Tenant, weight: Weight) -> None:
        self._admission = admission
        self._tenant = tenant
        self._weight = weight
        self._is_left = False

    def leave(self) -> None:
        """Give the thread back, once."""
        if not self._is_left:
            self._is_left = True
            self._admission.release(self._tenant, self._weight)


class _Waiter(NamedTuple):
    """A request that waits for its turn: a place, or None when it is refused."""

    turn: "asyncio.Future[Place | None]"
    since: float
    deadline: float


class Admission:
    """Gives the threads of one event loop to its requests; every method is called by the loop."""

    def __init__(self, threads: int, seconds_away: Callable[[], float]) -> None:
        """Admit to `threads` threads; `seconds_away` tells for how long the database has been away."""
        self._threads = threads
        self._seconds_away = seconds_away
        self._running = 0
        self._heavy = 0
        self._of_tenant: Counter[Tenant] = Counter()
        # Invariant: nobody waits who could run.
        self._waiting: dict[Weight, dict[Tenant, deque[_Waiter]]] = {weight: {} for weight in Weight}
        self._review_is_due = False

    async def enter(self, tenant: Tenant, weight: Weight, deadline: float) -> Place | None:
        """Wait for a thread, and return the place of the request, which has to leave it; None if it is refused.

        `deadline` is when its answer would come too late, on the clock of `time.monotonic()`.
        """
        now = time.monotonic()
        verdict = self._decide(now, now, deadline)
        queue = self._waiting[weight].get(tenant)
        if verdict is Verdict.RUN and not queue and self._has_room(tenant, weight):
            return self._take(tenant, weight)
        if verdict is Verdict.REFUSE or (queue and len(queue) >= WAITING_OF_TENANT):
            return None
        turn: asyncio.Future[Place | None] = asyncio.get_running_loop().create_future()
        self._waiting[weight].setdefault(tenant, deque()).append(_Waiter(turn, now, deadline))
        self._review_soon()
        metrics.count_waiting(begins=True)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and (place := turn.result()) is not None:
                place.leave()
            raise
        finally:
            metrics.count_waiting(begins=False)

    def release(self, tenant: Tenant, weight: Weight) -> None:
        """Take a thread back, and give it to whose turn it is."""
        self._running -= 1
        self._heavy -= weight is Weight.HEAVY
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]
        self._admit()

    def _take(self, tenant: Tenant, weight: Weight) -> Place:
        self._running += 1
        self._heavy += weight is Weight.HEAVY
        self._of_tenant[tenant] += 1
        return Place(self, tenant, weight)

    def _decide(self, now: float, since: float, deadline: float) -> Verdict:
        return decide(self._threads, self._running, self._seconds_away(), now - since, deadline - now)

    def _has_room(self, tenant: Tenant, weight: Weight) -> bool:
        fits = weight is Weight.LIGHT or self._heavy < heavy_places(self._threads)
        return fits and self._of_tenant[tenant] < places_of_tenant(self._threads)

    def _admit(self) -> None:
        """Let in who can run now: light work first, one request of each tenant in turn."""
        for weight, queues in self._waiting.items():
            admitted = True
            while admitted and queues and self._running < self._threads:
                admitted = False
                for tenant in list(queues):
                    admitted |= self._admit_next(tenant, weight, queues)

    def _admit_next(self, tenant: Tenant, weight: Weight, queues: dict[Tenant, deque[_Waiter]]) -> bool:
        """Let in the request of the tenant that has waited longest; return whether there was room for it."""
        queue = queues[tenant]
        while queue and queue[0].turn.done():  # its client has left
            queue.popleft()
        now = time.monotonic()
        can_run = queue and self._has_room(tenant, weight) and self._decide(now, *queue[0][1:]) is Verdict.RUN
        if can_run:
            queue.popleft().turn.set_result(self._take(tenant, weight))
        if not queue:
            del queues[tenant]
        elif can_run:
            queues[tenant] = queues.pop(tenant)  # behind the others
        return bool(can_run)

    def _review(self) -> None:
        """Refuse those who must not wait any longer, and let in who can run."""
        now = time.monotonic()
        for waiter in self._waiters():
            if not waiter.turn.done() and self._decide(now, *waiter[1:]) is Verdict.REFUSE:
                waiter.turn.set_result(None)
        self._admit()

    def _waiters(self) -> Iterator[_Waiter]:
        return (waiter for queues in self._waiting.values() for queue in queues.values() for waiter in queue)

    def _review_soon(self) -> None:
        if not self._review_is_due:
            self._review_is_due = True
            asyncio.get_running_loop().call_later(REVIEW_SECONDS, self._review_when_due)

    def _review_when_due(self) -> None:
        self._review_is_due = False
        self._review()
        if any(self._waiting.values()):
            self._review_soon()
