"""Group commit: operations of one tenant that meet in one process share a transaction, and the cost of its commit.

A unit is one caller's operation on one chat. The first unit to arrive becomes the leader: its thread runs a transaction
at once. Units that arrive meanwhile wait in the tenant's queue. The next leader carries them in its own transaction, as
its followers. If there was a crowd a moment ago, a leader first waits a little ("lingers") until as many units are
back: otherwise the crowd would split into units that are carried and units that wait. So a lone unit waits for nobody,
and the more units there are, the less each costs.

Invariants:

1. In each chat, units run in the order of their arrival: none overtakes another on its chat.
2. A group that meets a write conflict is split and retried chat by chat. Meanwhile the queue goes on without its chats.
   So a chat that another process is writing costs its neighbours one retry, and stalls none of them.
3. If the database refuses a group, its units are retried one by one, so that no unit fails because of another.
4. No unit waits for another tenant, every wait has a deadline, and every caller learns the outcome of its own unit.
5. A unit that goes alone (its Idempotency-Key's record belongs to one request) shares its transaction with no other,
   and starts as soon as its chat is free.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Generic, NamedTuple, NoReturn, TypeVar

from cachetools import TTLCache

from chat_service.errors import ChatServiceError, DatabaseUnavailableError, OutcomeUnknownError
from chat_service.repository.tracer import SILENT, Step, Tracer
from chat_service.repository.transaction import BeforeRetry

QUEUE_SECONDS = 10.0
"""How long a unit waits in the queue: with the 12 s of a transaction this is within the 25 s of every request."""

FOLLOWER_SECONDS = 20.0
"""How long a follower waits for its leader: longer than any transaction, and the end of one always sets the outcome."""

LINGER = 0.5
"""The share of the last group's time that a leader waits for followers, at most. Measured with 8 clients on two
workers: without it groups of 2.0 and 356 deletes a second; with 0.3, 3.4 and 550; with 0.5, 3.9 and 605; with 1.0, 4.0
and 520."""

LINGER_SECONDS = 0.01
"""The longest that a leader waits for followers: the last group may have taken long because of an election."""

CROWD_SECONDS = 0.05
"""How long after a group its crowd is expected to come back."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Bounds(NamedTuple):
    """How much one transaction may be shared by, so that it never locks much for long. A larger unit runs by itself."""

    units: int
    size: int = 0
    """The sum of the units' sizes."""


class Unit(Generic[Item, Result]):
    """One caller's operation on a chat, and its outcome."""

    __slots__ = ("caller_step", "chat_id", "followers", "goes_alone", "group_step", "item", "outcome", "ready", "size")

    def __init__(self, chat_id: str, item: Item, size: int = 0, *, goes_alone: bool = False) -> None:
        self.chat_id = chat_id
        self.item = item
        self.size = size
        self.goes_alone = goes_alone
        self.ready = threading.Event()
        """Set when the unit has an outcome, and also without one when it is this unit's turn to lead."""
        self.followers: list[Unit[Item, Result]] = []
        """After a group was split: all units of this unit's chat, itself first, which it has to lead."""
        self.outcome: Result | BaseException | None = None
        self.caller_step: Step = None
        """The traced step in which its caller waits."""
        self.group_step: Step = None
        """The traced step of the group that carried it."""

    def verdict(self) -> Result | ChatServiceError:
        """Return its result or why it was refused; raise any other error."""
        if isinstance(self.outcome, BaseException) and not isinstance(self.outcome, ChatServiceError):
            raise self.outcome
        assert self.outcome is not None  # noqa: S101 - the thread that carried it has set it
        return self.outcome


CommitGroup = Callable[[str, Sequence[Item], BeforeRetry], Sequence[Result | ChatServiceError]]
"""Runs the operations of all items, on chats of one tenant, in one transaction; returns the outcome of each.

Calls the last argument before each retry. An error that it raises is the outcome of all items: nothing was changed, or
nobody knows whether anything was."""


class _Crowd(NamedTuple):
    """A tenant's units at the end of a group, carried or waiting, and how long the group took."""

    units: int
    seconds: float


class _SplitError(Exception):
    """A group of several chats met a conflict: it must not be retried as a whole."""


def run_together(
    commit_group: CommitGroup[Item, Result], tenant_id: str, units: Sequence[Unit[Item, Result]]
) -> list[Result | ChatServiceError]:
    """Run the units in one transaction, or each in its own if they meet a conflict; return the outcome of each."""

    def split() -> NoReturn:
        raise _SplitError

    try:
        _run(commit_group, tenant_id, units, split if len(units) > 1 else lambda: None)
    except _SplitError:
        for unit in units:
            _run(commit_group, tenant_id, [unit], lambda: None)
    return [unit.verdict() for unit in units]


def _run(
    commit_group: CommitGroup[Item, Result],
    tenant_id: str,
    units: Sequence[Unit[Item, Result]],
    before_retry: BeforeRetry,
) -> None:
    """Run the units in one transaction and set the outcome of each.

    Raises:
        _SplitError: raised by `before_retry`.
    """
    try:
        items = [unit.item for unit in units]
        outcomes: Sequence[Result | BaseException] = commit_group(tenant_id, items, before_retry)
    except _SplitError:
        raise
    except BaseException as error:  # noqa: BLE001 - any error is raised again in the thread of each unit
        if len(units) > 1 and isinstance(error, Exception) and not isinstance(error, ChatServiceError):
            before_retry()
            for unit in units:
                _run(commit_group, tenant_id, [unit], before_retry)
            return
        outcomes = [error] * len(units)
    for unit, outcome in zip(units, outcomes, strict=True):
        unit.outcome = outcome


class _Queue(Generic[Item, Result]):
    """A tenant's units that no thread carries yet, in the order of their arrival. Used only under the lock."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.waiting: list[Unit[Item, Result]] = []
        self._leader: Unit[Item, Result] | None = None
        """The leader of the running shared transaction; None after that was split, so that the queue goes on."""
        self._busy_chats: set[str] = set()
        """The chats of all units that are being carried."""

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self._busy_chats

    def start_ready_units(self) -> None:
        """Start each unit that goes alone and whose chat is free; without a leader, start one other unit as leader."""
        blocked_chats = set(self._busy_chats)
        for unit in list(self.waiting):
            if unit.chat_id not in blocked_chats and (unit.goes_alone or self._leader is None):
                self._leader = self._leader if unit.goes_alone else unit
                self.waiting.remove(unit)
                self._busy_chats.add(unit.chat_id)
                unit.ready.set()
            blocked_chats.add(unit.chat_id)  # a later unit of this chat must not overtake it

    def form_group(self, leader: Unit[Item, Result]) -> list[Unit[Item, Result]]:
        """Move the units that can share a transaction with `leader` out of the queue; return them, `leader` first."""
        if leader.goes_alone:
            return [leader]
        group, still_waiting, size = [leader], [], leader.size
        blocked_chats = self._busy_chats - {leader.chat_id}
        for unit in self.waiting:
            fits = len(group) < self._bounds.units and size + unit.size <= self._bounds.size
            if fits and not unit.goes_alone and unit.chat_id not in blocked_chats:
                group.append(unit)
                size += unit.size
            else:
                blocked_chats.add(unit.chat_id)  # a later unit of this chat must not overtake it
                still_waiting.append(unit)
        self.waiting = still_waiting
        self._busy_chats.update(unit.chat_id for unit in group)
        return group

    def finish(self, group: Sequence[Unit[Item, Result]]) -> None:
        """Free the chats of a group that was carried, and start the next units."""
        self._busy_chats.difference_update(unit.chat_id for unit in group)
        self.release_lead(group[0])

    def release_lead(self, leader: Unit[Item, Result]) -> None:
        """Let another unit lead, because `leader` has ended or its group has to be retried."""
        if self._leader is leader:
            self._leader = None
        self.start_ready_units()


class GroupCommit(Generic[Item, Result]):
    """Carries the units of this process, with a queue for each tenant that has any."""

    def __init__(self, commit_group: CommitGroup[Item, Result], bounds: Bounds, tracer: Tracer = SILENT) -> None:
        self._commit_group = commit_group
        self._bounds = bounds
        self._tracer = tracer
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._queues: dict[str, _Queue[Item, Result]] = {}
        self._crowds: TTLCache[str, _Crowd] = TTLCache(maxsize=1_000, ttl=CROWD_SECONDS)

    def run(self, tenant_id: str, unit: Unit[Item, Result]) -> Result:
        """Run the unit, with others or alone, and return its result.

        Raises:
            ChatServiceError: the unit was refused, or `commit_group` raised this for its whole group.
            DatabaseUnavailableError: the unit was not carried in time, and will not be.
            OutcomeUnknownError: the thread that carries the unit did not set its outcome in time.
        """
        unit.caller_step, since = self._tracer.current_step(), time.time_ns()
        with self._lock:
            queue = self._queues.setdefault(tenant_id, _Queue(self._bounds))
            queue.waiting.append(unit)
            queue.start_ready_units()
            self._arrived.notify_all()
        self._wait(queue, unit)
        if unit.outcome is None:
            self._lead(tenant_id, queue, unit)
        else:
            self._tracer.carried(unit.group_step, since)
        verdict = unit.verdict()
        if isinstance(verdict, ChatServiceError):
            raise verdict
        return verdict

    def _wait(self, queue: _Queue[Item, Result], unit: Unit[Item, Result]) -> None:
        """Wait until `unit` was carried, or it is its turn to lead."""
        if unit.ready.wait(QUEUE_SECONDS):
            return
        with self._lock:
            if unit in queue.waiting:
                queue.waiting.remove(unit)
                raise DatabaseUnavailableError
        if not unit.ready.wait(FOLLOWER_SECONDS):
            raise OutcomeUnknownError

    def _lead(self, tenant_id: str, queue: _Queue[Item, Result], leader: Unit[Item, Result]) -> None:
        """Carry `leader` and its followers in one transaction, then let the queue go on."""
        with self._lock:
            group = leader.followers or self._gather(tenant_id, queue, leader)
        began = time.monotonic()

        def before_retry() -> None:
            with self._lock:
                queue.release_lead(leader)
            if any(unit.chat_id != leader.chat_id for unit in group):
                raise _SplitError

        try:
            with self._traced(group):
                try:
                    _run(self._commit_group, tenant_id, group, before_retry)
                except _SplitError:
                    group = _split_by_chat(group)
                    _run(self._commit_group, tenant_id, group, lambda: None)
        finally:
            with self._lock:
                self._crowds[tenant_id] = _Crowd(len(group) + len(queue.waiting), time.monotonic() - began)
                queue.finish(group)
                if queue.is_idle:
                    del self._queues[tenant_id]
            for unit in group:
                unit.ready.set()

    @contextmanager
    def _traced(self, group: Sequence[Unit[Item, Result]]) -> Iterator[None]:
        """Trace the block as a step linked to the followers' steps, and note it in each unit; not for a lone unit."""
        links = [unit.caller_step for unit in group[1:]]
        with self._tracer.step("group commit", links) if links else nullcontext() as group_step:
            for unit in group:
                unit.group_step = group_step
            yield

    def _gather(
        self, tenant_id: str, queue: _Queue[Item, Result], leader: Unit[Item, Result]
    ) -> list[Unit[Item, Result]]:
        """Wait for as many followers as the last crowd had, within bounds; return the group. Called under the lock."""
        crowd = self._crowds.get(tenant_id)
        if crowd is not None and not leader.goes_alone:
            expected = min(crowd.units, self._bounds.units)
            seconds = min(crowd.seconds * LINGER, LINGER_SECONDS)
            self._arrived.wait_for(lambda: len(queue.waiting) + 1 >= expected, seconds)
        return queue.form_group(leader)


def _split_by_chat(group: Sequence[Unit[Item, Result]]) -> list[Unit[Item, Result]]:
    """Let the first unit of each other chat lead the units of its chat; return those of the leader's own chat."""
    by_chat: dict[str, list[Unit[Item, Result]]] = {}
    for unit in group:
        by_chat.setdefault(unit.chat_id, []).append(unit)
    own, *others = by_chat.values()
    for units in others:
        units[0].followers = units
        units[0].ready.set()
    return own
