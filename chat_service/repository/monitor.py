"""What the driver tells of its work: commands for the request that sends them, connections for the whole process."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, NamedTuple

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


class Command(NamedTuple):
    """What may be told of a command: where it goes, and never what is in it."""

    id: int
    name: str
    database: str
    collection: str | None
    host: str
    port: int | None


class CommandListener(monitoring.CommandListener):
    """Tells of each command as it is sent, and how it ended. Costs what `CommandCounter` avoids: only where wanted."""

    def __init__(self, began: Callable[[Command], None], ended: Callable[[int, str | None], None]) -> None:
        """`ended` is told the command's id, and the name of an error."""
        self._began = began
        self._ended = ended

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Tell; the driver calls this in the sender's own thread."""
        host, port = event.connection_id
        name, collection = event.command_name, _collection(event.command, event.command_name)
        self._began(Command(event.request_id, name, event.database_name, collection, host, port))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Tell."""
        self._ended(event.request_id, None)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Tell the server's name for the error, or the driver's; its text may quote documents."""
        failure = event.failure
        self._ended(event.request_id, str(failure.get("codeName") or failure.get("errtype") or failure.get("code")))


def _collection(command: Mapping[str, Any], name: str) -> str | None:
    """Return the collection that a command is for; a commit, for one, has none."""
    found = command.get("collection" if name == "getMore" else name)
    return found if isinstance(found, str) else None
