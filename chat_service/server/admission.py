"""Decides which requests get a thread and which are refused, so that no single tenant and no outage takes all threads.

- While the database is available, as many requests run as there are threads. The others wait for `TURN_SECONDS` at
  most. Tenants take turns; the requests of one tenant are served first come, first served.
- A tenant never has all threads: `places_of_tenant` leaves some to others, who need not wait for its requests to end.
- Heavy work (imports, exports, bulk deletes, large bodies) has few places. It holds the interpreter and the database
  for long, and light requests, messages of sockets among them, would wait behind it.
- Once the database is known to be unavailable, half of the threads may wait for it to come back, as it does after an
  election. All other requests are refused at once, also those in the queue. When it is back, all are admitted again.
- A request that the router is about to give up on is refused: nobody would see the response.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import NamedTuple

from chat_service.telemetry import metrics

TURN_SECONDS = 8.0
"""How long a request waits for a thread. After that, the client is better off with a retry."""

KNOWN_AWAY_SECONDS = 1.0
"""The database is unavailable for longer than this before requests are refused. A clean step-down takes less time."""

REVIEW_SECONDS = 0.1
"""Between two reviews of the queue: an outage is noticed this late at most."""

WAITING_OF_TENANT = 1_000
"""How many requests of one tenant may wait. Its further ones are refused; other tenants are not affected."""

HEAVY_BODY_BYTES = 16 * 2**10
"""A request with a larger body is heavy: a batch, or a message that is longer than most."""

HEAVY_PATHS = ("/import", "/export", "/chats/delete", "/chats/trash", "/trash/restore")

Tenant = str | None
"""A tenant's id. None stands for all callers whose key was never seen."""


class Verdict(Enum):
    """What to do with a request."""

    RUN = auto()
    WAIT = auto()
    REFUSE = auto()


class Weight(Enum):
    """How long a request keeps others from the interpreter and the database."""

    LIGHT = auto()
    HEAVY = auto()


def weigh(path: str, body_bytes: int) -> Weight:
    """Return the weight of a request, by its path and the size of its body."""
    return Weight.HEAVY if body_bytes > HEAVY_BODY_BYTES or path.endswith(HEAVY_PATHS) else Weight.LIGHT


def decide(threads: int, running: int, seconds_away: float, seconds_waited: float, seconds_left: float) -> Verdict:
    """Return what to do with a request now, as far as that does not depend on its tenant and weight.

    `running` requests have a thread. The database has been unavailable for `seconds_away`, 0 if it is available. This
    request has waited for `seconds_waited`, and in `seconds_left` its response would come too late.
    """
    if seconds_left <= 0 or seconds_waited > TURN_SECONDS:
        return Verdict.REFUSE
    if seconds_away > KNOWN_AWAY_SECONDS:
        return Verdict.RUN if running < max(threads // 2, 1) else Verdict.REFUSE
    return Verdict.RUN if running < threads else Verdict.WAIT


def places_of_tenant(threads: int) -> int:
    """Return how many threads one tenant may have at once. A quarter of them is left to others."""
    return max(threads - threads // 4, 1)


def heavy_places(threads: int) -> int:
    """Return how many threads may do heavy work at once."""
    return max(threads // 4, 1)


class Place:
    """A request's right to a thread."""

    __slots__ = ("_admission", "_is_released", "_tenant", "_weight")

    def __init__(self, admission: "Admission", tenant: Tenant, weight: Weight) -> None:
        self._admission = admission
        self._tenant = tenant
        self._weight = weight
        self._is_released = False

    def leave(self) -> None:
        """Give the thread back. A second call does nothing."""
        if not self._is_released:
            self._is_released = True
            self._admission.release(self._tenant, self._weight)


class _Waiter(NamedTuple):
    """A request in the queue. The result of `turn` is its place, or None if it is refused."""

    turn: "asyncio.Future[Place | None]"
    arrived_at: float
    deadline: float


class Admission:
    """Gives the threads of one event loop to its requests. Only the loop calls its methods."""

    def __init__(self, threads: int, seconds_away: Callable[[], float]) -> None:
        """Admit to `threads` threads; `seconds_away()` returns for how long the database has been unavailable."""
        self._threads = threads
        self._seconds_away = seconds_away
        self._running = 0
        self._running_heavy = 0
        self._running_of: Counter[Tenant] = Counter()
        # Invariant: no request waits that could run.
        self._queues: dict[Weight, dict[Tenant, deque[_Waiter]]] = {weight: {} for weight in Weight}
        self._is_review_scheduled = False

    async def enter(self, tenant: Tenant, weight: Weight, deadline: float) -> Place | None:
        """Wait for a thread, and return the place, which the caller has to leave; None if the request is refused.

        `deadline` is when its response would come too late, on the clock of `time.monotonic()`.
        """
        now = time.monotonic()
        verdict = self._decide(now, now, deadline)
        queue = self._queues[weight].get(tenant)
        if verdict is Verdict.RUN and not queue and self._has_room(tenant, weight):
            return self._occupy(tenant, weight)
        if verdict is Verdict.REFUSE or (queue and len(queue) >= WAITING_OF_TENANT):
            return None
        turn: asyncio.Future[Place | None] = asyncio.get_running_loop().create_future()
        self._queues[weight].setdefault(tenant, deque()).append(_Waiter(turn, now, deadline))
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
        """Take a thread back, and give it to the next request in turn."""
        self._running -= 1
        self._running_heavy -= weight is Weight.HEAVY
        self._running_of[tenant] -= 1
        if not self._running_of[tenant]:
            del self._running_of[tenant]
        self._admit()

    def _occupy(self, tenant: Tenant, weight: Weight) -> Place:
        self._running += 1
        self._running_heavy += weight is Weight.HEAVY
        self._running_of[tenant] += 1
        return Place(self, tenant, weight)

    def _decide(self, now: float, arrived_at: float, deadline: float) -> Verdict:
        return decide(self._threads, self._running, self._seconds_away(), now - arrived_at, deadline - now)

    def _has_room(self, tenant: Tenant, weight: Weight) -> bool:
        fits = weight is Weight.LIGHT or self._running_heavy < heavy_places(self._threads)
        return fits and self._running_of[tenant] < places_of_tenant(self._threads)

    def _admit(self) -> None:
        """Admit the requests that can run now: light work first, one request of each tenant in turn."""
        for weight, queues in self._queues.items():
            admitted = True
            while admitted and queues and self._running < self._threads:
                admitted = False
                for tenant in list(queues):
                    admitted |= self._admit_next(tenant, weight, queues)

    def _admit_next(self, tenant: Tenant, weight: Weight, queues: dict[Tenant, deque[_Waiter]]) -> bool:
        """Admit the tenant's request that has waited longest; return whether there was room for it."""
        queue = queues[tenant]
        while queue and queue[0].turn.done():  # its client has disconnected
            queue.popleft()
        now = time.monotonic()
        can_run = queue and self._has_room(tenant, weight) and self._decide(now, *queue[0][1:]) is Verdict.RUN
        if can_run:
            queue.popleft().turn.set_result(self._occupy(tenant, weight))
        if not queue:
            del queues[tenant]
        elif can_run:
            queues[tenant] = queues.pop(tenant)  # to the end, behind the other tenants
        return bool(can_run)

    def _review(self) -> None:
        """Refuse the requests that must not wait any longer, and admit those that can run."""
        now = time.monotonic()
        for waiter in self._all_waiters():
            if not waiter.turn.done() and self._decide(now, *waiter[1:]) is Verdict.REFUSE:
                waiter.turn.set_result(None)
        self._admit()

    def _all_waiters(self) -> Iterator[_Waiter]:
        return (waiter for queues in self._queues.values() for queue in queues.values() for waiter in queue)

    def _review_soon(self) -> None:
        if not self._is_review_scheduled:
            self._is_review_scheduled = True
            asyncio.get_running_loop().call_later(REVIEW_SECONDS, self._review_again)

    def _review_again(self) -> None:
        self._is_review_scheduled = False
        self._review()
        if any(self._queues.values()):
            self._review_soon()
