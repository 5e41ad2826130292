"""Group commit: operations of one tenant that meet in one process share a transaction, and the cost of its commit.

A unit is one caller's operation on one chat. The first that comes is a leader: its thread runs a transaction at once.
Who comes meanwhile waits in the tenant's queue, and the next leader takes all of them along as its followers. Where
there was a crowd a moment ago, a leader lingers until as many have come back: else the crowd would split into those
that are carried and those that wait. So a lone unit waits for nobody, and the more there are, the less each costs.

What this module keeps:

1. First come, first served in each chat: no unit is overtaken by another on its chat.
2. A group that meets a conflict is split, and tried again chat by chat; meanwhile the queue goes on without its chats.
   So a chat that another process holds costs its neighbours one repetition, and stalls nobody.
3. Whatever the database refuses of a group is tried unit by unit, so that nobody suffers for another's.
4. Nobody waits for another tenant, nobody without a deadline, and everybody hears what became of its own unit.
5. A unit that goes alone (its Idempotency-Key's record belongs to one request) shares nothing, and starts as soon as
   its chat is free.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Generic, NamedTuple, NoReturn, TypeVar

from cachetools import TTLCache

from chat_service.errors import ChatServiceError, DatabaseUnavailableError, OutcomeUnknownError
from chat_service.repository.tracer import SILENT, Place, Tracer
from chat_service.repository.transaction import Again

QUEUE_SECONDS = 10.0
"""In the queue: with the 12 s of a transaction it stays within the 25 s in which every request is answered."""

CARRIED_SECONDS = 20.0
"""For the outcome once another thread carries the unit: longer than any transaction, whose end always tells it."""

LINGER = 0.5
"""Of the last group's time, at most, a leader waits for its followers. Measured with 8 clients on two workers: groups
of 2.0 without, 3.4 with 0.3, 3.9 with 0.5 and 4.0 with 1.0; deletes a second 356, 550, 605 and 520."""

LINGER_SECONDS = 0.01
"""At most, however long the last group took: it may have met an election."""

CROWD_SECONDS = 0.05
"""After this a crowd is taken to have left."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Bounds(NamedTuple):
    """Of what shares a transaction, so that it never holds much for long. A unit that exceeds them goes by itself."""

    units: int
    size: int = 0
    """The sum of the units' sizes."""


class Unit(Generic[Item, Result]):
    """One caller's operation on a chat, and what became of it."""

    __slots__ = ("carrier", "chat_id", "followers", "goes_alone", "item", "origin", "outcome", "ready", "size")

    def __init__(self, chat_id: str, item: Item, size: int = 0, *, goes_alone: bool = False) -> None:
        self.chat_id = chat_id
        self.item = item
        self.size = size
        self.goes_alone = goes_alone
        self.ready = threading.Event()
        """Set when there is an outcome, and when there is none yet because it is this unit's turn to lead."""
        self.followers: list[Unit[Item, Result]] = []
        """Those of its chat that it has to lead, after a group was split."""
        self.outcome: Result | BaseException | None = None
        self.origin: Place = None
        """The step of its caller."""
        self.carrier: Place = None
        """The step that has carried it, of a leader whose thread is another one."""

    def verdict(self) -> Result | ChatServiceError:
        """Return what became of it, also if it was refused; raise what is no verdict."""
        if isinstance(self.outcome, BaseException) and not isinstance(self.outcome, ChatServiceError):
            raise self.outcome
        assert self.outcome is not None  # noqa: S101 - whoever has carried it has set it
        return self.outcome


Carry = Callable[[str, Sequence[Item], Again], Sequence[Result | ChatServiceError]]
"""Does what the items ask, of chats of one tenant, in one transaction; returns what became of each.

Calls the last argument before each repetition. What it raises is the outcome of all: nothing was changed, or of none of
them it is known."""


class _Crowd(NamedTuple):
    """A tenant's units at the end of a group, carried or waiting, and how long it took."""

    units: int
    seconds: float


class _SplitError(Exception):
    """What several chats share is not tried again."""


def run_together(
    carry: Carry[Item, Result], tenant_id: str, units: Sequence[Unit[Item, Result]]
) -> list[Result | ChatServiceError]:
    """Run the units in one transaction, or each by itself where they meet a conflict; return what became of each."""

    def split() -> NoReturn:
        raise _SplitError

    try:
        _run(carry, tenant_id, units, split if len(units) > 1 else lambda: None)
    except _SplitError:
        for unit in units:
            _run(carry, tenant_id, [unit], lambda: None)
    return [unit.verdict() for unit in units]


def _run(carry: Carry[Item, Result], tenant_id: str, units: Sequence[Unit[Item, Result]], again: Again) -> None:
    """Run the units in one transaction and set the outcome of each.

    Raises:
        _SplitError: as `again` does, before the same is tried again.
    """
    try:
        outcomes: Sequence[Result | BaseException] = carry(tenant_id, [unit.item for unit in units], again)
    except _SplitError:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the thread of each unit
        if len(units) > 1 and isinstance(error, Exception) and not isinstance(error, ChatServiceError):
            again()
            for unit in units:
                _run(carry, tenant_id, [unit], again)
            return
        outcomes = [error] * len(units)
    for unit, outcome in zip(units, outcomes, strict=True):
        unit.outcome = outcome


class _Queue(Generic[Item, Result]):
    """The units of a tenant that nobody carries yet, in their order. Only to be touched under the lock."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.waiting: list[Unit[Item, Result]] = []
        self._leader: Unit[Item, Result] | None = None
        """Of the shared transaction that runs; those that were split go on without holding up the queue."""
        self._busy: set[str] = set()
        """The chats of all that is being carried."""

    @property
    def is_over(self) -> bool:
        return not self.waiting and not self._busy

    def admit(self) -> None:
        """Let every unit begin that goes alone and whose chat is free, and one of the others if nobody leads."""
        passed = set(self._busy)
        for unit in list(self.waiting):
            if unit.chat_id not in passed and (unit.goes_alone or self._leader is None):
                self._leader = self._leader if unit.goes_alone else unit
                self.waiting.remove(unit)
                self._busy.add(unit.chat_id)
                unit.ready.set()
            passed.add(unit.chat_id)  # whoever stands behind it must not overtake it

    def take(self, leader: Unit[Item, Result]) -> list[Unit[Item, Result]]:
        """Take those out of the queue that can share a transaction with `leader`; return them all."""
        if leader.goes_alone:
            return [leader]
        group, left, size = [leader], [], leader.size
        passed = self._busy - {leader.chat_id}
        for unit in self.waiting:
            fits = len(group) < self._bounds.units and size + unit.size <= self._bounds.size
            if fits and not unit.goes_alone and unit.chat_id not in passed:
                group.append(unit)
                size += unit.size
            else:
                passed.add(unit.chat_id)  # whoever stands behind it must not overtake it
                left.append(unit)
        self.waiting = left
        self._busy.update(unit.chat_id for unit in group)
        return group

    def end(self, group: Sequence[Unit[Item, Result]]) -> None:
        """Let the next ones begin after `group` was carried."""
        self._busy.difference_update(unit.chat_id for unit in group)
        self.step_aside(group[0])

    def step_aside(self, leader: Unit[Item, Result]) -> None:
        """Let another lead: this one has ended, or its group takes longer."""
        if self._leader is leader:
            self._leader = None
        self.admit()


class GroupCommit(Generic[Item, Result]):
    """Carries the units of this process, in a queue for each tenant that has any."""

    def __init__(self, carry: Carry[Item, Result], bounds: Bounds, tracer: Tracer = SILENT) -> None:
        self._carry = carry
        self._bounds = bounds
        self._tracer = tracer
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._queues: dict[str, _Queue[Item, Result]] = {}
        self._crowds: TTLCache[str, _Crowd] = TTLCache(maxsize=1_000, ttl=CROWD_SECONDS)

    def run(self, tenant_id: str, unit: Unit[Item, Result]) -> Result:
        """Run the unit, with others or alone, and return what became of it.

        Raises:
            ChatServiceError: it was refused; or what `carry` raised for the transaction that carried it.
            DatabaseUnavailableError: it was not carried in time, and is not going to be.
        """
        unit.origin, since = self._tracer.here(), time.time_ns()
        with self._lock:
            queue = self._queues.setdefault(tenant_id, _Queue(self._bounds))
            queue.waiting.append(unit)
            queue.admit()
            self._came.notify_all()
        self._wait(queue, unit)
        if unit.outcome is None:
            self._lead(tenant_id, queue, unit)
        else:
            self._tracer.carried(unit.carrier, since)
        verdict = unit.verdict()
        if isinstance(verdict, ChatServiceError):
            raise verdict
        return verdict

    def _wait(self, queue: _Queue[Item, Result], unit: Unit[Item, Result]) -> None:
        """Wait until `unit` is carried, or it is its turn to lead."""
        if unit.ready.wait(QUEUE_SECONDS):
            return
        with self._lock:
            if unit in queue.waiting:
                queue.waiting.remove(unit)
                raise DatabaseUnavailableError
        if not unit.ready.wait(CARRIED_SECONDS):
            raise OutcomeUnknownError

    def _lead(self, tenant_id: str, queue: _Queue[Item, Result], leader: Unit[Item, Result]) -> None:
        """Carry the unit and those that share its transaction, and let the queue go on."""
        with self._lock:
            group = leader.followers or self._gather(tenant_id, queue, leader)
        began = time.monotonic()

        def again() -> None:
            with self._lock:
                queue.step_aside(leader)
            if any(unit.chat_id != leader.chat_id for unit in group):
                raise _SplitError

        try:
            with self._as_step(group):
                try:
                    _run(self._carry, tenant_id, group, again)
                except _SplitError:
                    group = _hand_over(group)
                    _run(self._carry, tenant_id, group, lambda: None)
        finally:
            with self._lock:
                self._crowds[tenant_id] = _Crowd(len(group) + len(queue.waiting), time.monotonic() - began)
                queue.end(group)
                if queue.is_over:
                    del self._queues[tenant_id]
            for unit in group:
                unit.ready.set()

    @contextmanager
    def _as_step(self, group: Sequence[Unit[Item, Result]]) -> Iterator[None]:
        """Tell the tracer whom the leader's step serves, and each follower which step that is; a lone unit has none."""
        links = [unit.origin for unit in group[1:]]
        with self._tracer.step("group commit", links) if links else nullcontext() as carrier:
            for unit in group:
                unit.carrier = carrier
            yield

    def _gather(
        self, tenant_id: str, queue: _Queue[Item, Result], leader: Unit[Item, Result]
    ) -> list[Unit[Item, Result]]:
        """Linger for the followers that can be expected, and take those that are there. Called under the lock."""
        crowd = self._crowds.get(tenant_id)
        if crowd is not None and not leader.goes_alone:
            expected = min(crowd.units, self._bounds.units)
            seconds = min(crowd.seconds * LINGER, LINGER_SECONDS)
            self._came.wait_for(lambda: len(queue.waiting) + 1 >= expected, seconds)
        return queue.take(leader)


def _hand_over(group: Sequence[Unit[Item, Result]]) -> list[Unit[Item, Result]]:
    """Have the first unit of each other chat lead those of its chat; return those of the leader's own."""
    by_chat: dict[str, list[Unit[Item, Result]]] = {}
    for unit in group:
        by_chat.setdefault(unit.chat_id, []).append(unit)
    own, *others = by_chat.values()
    for those in others:
        those[0].followers = those
        those[0].ready.set()
    return own
