"""What the driver tells of its work: commands for the request that sends them, connections for the whole process."""

from collections.abc import Callable
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

from pymongo import monitoring


class Tally:
    """How many commands were sent since it was begun."""

    __slots__ = ("commands",)

    def __init__(self) -> None:
        self.commands = 0


_tally: ContextVar[Tally | None] = ContextVar("tally", default=None)


def begin_tally() -> Tally:
    """Count the commands that this context sends from now on, each repetition too."""
    tally = Tally()
    _tally.set(tally)
    return tally


def _ignore(_self: object, _event: Any) -> None:
    """Of no interest."""


class CommandCounter(monitoring.ConnectionPoolListener):
    """Adds each command to the tally of the context that sends it, if there is one.

    Each command takes a connection out of the pool, repetitions and later batches of a cursor too, and this costs a
    third of what listening to the commands themselves does: the driver makes no events that hold them.
    """

    def connection_checked_out(self, _event: monitoring.ConnectionCheckedOutEvent) -> None:
        """Count; the driver calls this in the sender's own thread."""
        tally = _tally.get()
        if tally is not None:
            tally.commands += 1

    # One function for every event of no interest, whatever its type.
    pool_created = pool_ready = pool_cleared = pool_closed = _ignore  # type: ignore[assignment]
    connection_created = connection_ready = connection_closed = _ignore  # type: ignore[assignment]
    connection_check_out_started = connection_check_out_failed = connection_checked_in = _ignore  # type: ignore[assignment]


class PoolEvent(StrEnum):
    """What happens to a connection."""

    CREATED = "created"
    CLOSED = "closed"
    CHECKED_OUT = "checked_out"
    CHECKED_IN = "checked_in"
    REFUSED = "refused"
    """None became free in time, or none could be made."""


PoolObserver = Callable[[PoolEvent], None]


class PoolListener(monitoring.ConnectionPoolListener):
    """Tells an observer what happens to the connections."""

    def __init__(self, observer: PoolObserver) -> None:
        self._tell = observer

    def connection_created(self, _event: monitoring.ConnectionCreatedEvent) -> None:
        """Tell."""
        self._tell(PoolEvent.CREATED)

    def connection_closed(self, _event: monitoring.ConnectionClosedEvent) -> None:
        """Tell."""
        self._tell(PoolEvent.CLOSED)

    def connection_checked_out(self, _event: monitoring.ConnectionCheckedOutEvent) -> None:
        """Tell."""
        self._tell(PoolEvent.CHECKED_OUT)

    def connection_checked_in(self, _event: monitoring.ConnectionCheckedInEvent) -> None:
        """Tell."""
        self._tell(PoolEvent.CHECKED_IN)

    def connection_check_out_failed(self, _event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        """Tell."""
        self._tell(PoolEvent.REFUSED)

    # One function for every event of no interest, whatever its type.
    pool_created = pool_ready = pool_cleared = pool_closed = _ignore  # type: ignore[assignment]
    connection_ready = connection_check_out_started = _ignore  # type: ignore[assignment]
