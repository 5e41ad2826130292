"""Who is told what the work of a request consists of: nobody, unless traces are on (telemetry/tracing.py)."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

Place = Any
"""A step of a request's work, as the tracer that gave it knows it; None if nobody was told of it."""


class Outgoing:
    """A request to somebody else."""

    headers: Mapping[str, str] = {}
    """What it has to carry along."""

    def end(self, status: int | None, error: str) -> None:
        """Tell how it was answered: with a status, or why in a word it was not."""


class Tracer:
    """Tells nobody."""

    def here(self) -> Place:
        """Return the step that this thread is at."""
        return None

    def step(self, _name: str, _links: Sequence[Place] = ()) -> AbstractContextManager[Place]:
        """Take what is done in the block for a step, which serves those at `_links` too."""
        return nullcontext()

    def carried(self, _by: Place, _since: int) -> None:
        """Take note that this thread has waited, since a time in nanoseconds, for what a step of another one did."""

    def outgoing(self, _url: str, _number: int) -> Outgoing:
        """Begin a POST, the first or a later one of the same."""
        return Outgoing()

    def end(self) -> None:
        """Let go of what is kept, because the process ends."""


SILENT = Tracer()
