"""Listeners of the driver's monitoring events: commands per request, connections for the whole process."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, NamedTuple

from pymongo import monitoring


class Tally:
    """The number of commands that were sent since `begin_tally`."""

    __slots__ = ("commands",)

    def __init__(self) -> None:
        self.commands = 0


_tally: ContextVar[Tally | None] = ContextVar("tally", default=None)


def begin_tally() -> Tally:
    """Count the commands that this context sends from now on, including retries; return the count."""
    tally = Tally()
    _tally.set(tally)
    return tally


def _ignore(_self: object, _event: Any) -> None:
    """Ignore an event."""


class CommandCounter(monitoring.ConnectionPoolListener):
    """Adds each command to the tally of the context that sends it, if there is one.

    It counts the connections taken out of the pool: every command takes one, also each retry and each later batch of a
    cursor. This costs a third of listening to the commands, for which the driver would build an event with each.
    """

    def connection_checked_out(self, _event: monitoring.ConnectionCheckedOutEvent) -> None:
        """Count a command; the driver calls this in the thread that sends it."""
        tally = _tally.get()
        if tally is not None:
            tally.commands += 1

    # One function ignores all other events, whatever their types.
    pool_created = pool_ready = pool_cleared = pool_closed = _ignore  # type: ignore[assignment]
    connection_created = connection_ready = connection_closed = _ignore  # type: ignore[assignment]
    connection_check_out_started = connection_check_out_failed = connection_checked_in = _ignore  # type: ignore[assignment]


class PoolEvent(StrEnum):
    """A change of a pooled connection."""

    CREATED = "created"
    CLOSED = "closed"
    CHECKED_OUT = "checked_out"
    CHECKED_IN = "checked_in"
    REFUSED = "refused"
    """No connection became free in time, or none could be made."""


PoolObserver = Callable[[PoolEvent], None]


class PoolListener(monitoring.ConnectionPoolListener):
    """Reports the events of the pool's connections to an observer."""

    def __init__(self, observer: PoolObserver) -> None:
        self._observer = observer

    def connection_created(self, _event: monitoring.ConnectionCreatedEvent) -> None:
        """Report it."""
        self._observer(PoolEvent.CREATED)

    def connection_closed(self, _event: monitoring.ConnectionClosedEvent) -> None:
        """Report it."""
        self._observer(PoolEvent.CLOSED)

    def connection_checked_out(self, _event: monitoring.ConnectionCheckedOutEvent) -> None:
        """Report it."""
        self._observer(PoolEvent.CHECKED_OUT)

    def connection_checked_in(self, _event: monitoring.ConnectionCheckedInEvent) -> None:
        """Report it."""
        self._observer(PoolEvent.CHECKED_IN)

    def connection_check_out_failed(self, _event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        """Report it."""
        self._observer(PoolEvent.REFUSED)

    # One function ignores all other events, whatever their types.
    pool_created = pool_ready = pool_cleared = pool_closed = _ignore  # type: ignore[assignment]
    connection_ready = connection_check_out_started = _ignore  # type: ignore[assignment]


class Command(NamedTuple):
    """What may be recorded of a command: its name and target, and never its content."""

    id: int
    name: str
    database: str
    collection: str | None
    host: str
    port: int | None


class CommandListener(monitoring.CommandListener):
    """Reports each command's start and end. Used only for traces, because it costs what `CommandCounter` avoids."""

    def __init__(self, began: Callable[[Command], None], ended: Callable[[int, str | None], None]) -> None:
        """`began` gets the command; `ended` gets its id, and the name of the error or None."""
        self._began = began
        self._ended = ended

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Report the start; the driver calls this in the thread that sends the command."""
        host, port = event.connection_id
        name, collection = event.command_name, _collection(event.command, event.command_name)
        self._began(Command(event.request_id, name, event.database_name, collection, host, port))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Report the success."""
        self._ended(event.request_id, None)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Report the server's or the driver's name of the error, not its text, which may quote documents."""
        failure = event.failure
        self._ended(event.request_id, str(failure.get("codeName") or failure.get("errtype") or failure.get("code")))


def _collection(command: Mapping[str, Any], name: str) -> str | None:
    """Return the collection of a command, or None if it has none, like a commit."""
    collection = command.get("collection" if name == "getMore" else name)
    return collection if isinstance(collection, str) else None
