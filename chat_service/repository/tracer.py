"""The interface to traces. `Tracer` records nothing; with traces on, telemetry/tracing.py takes its place."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

Step = Any
"""One step of a request's work, in the form of the tracer that returned it; None if it is not recorded."""


class Outgoing:
    """The trace of a request that the service sends itself."""

    headers: Mapping[str, str] = {}
    """The headers to send with the request."""

    def end(self, status: int | None, error: str) -> None:
        """Record the status of the response, or the error, in one word, if there was no response."""


class Tracer:
    """The tracer that records nothing, and the base class of those that do."""

    def current_step(self) -> Step:
        """Return the step that this thread is in."""
        return None

    def step(self, _name: str, _links: Sequence[Step] = ()) -> AbstractContextManager[Step]:
        """Record the block as a step that also does work for the steps in `_links`."""
        return nullcontext()

    def carried(self, _by: Step, _since: int) -> None:
        """Record that this thread has waited since `_since`, in nanoseconds, for a step of another thread."""

    def outgoing(self, _url: str, _number: int) -> Outgoing:
        """Begin the trace of a POST; `_number` counts the attempts of the same POST from 1."""
        return Outgoing()

    def end(self) -> None:
        """Send what was recorded and release resources, because the process ends."""


SILENT = Tracer()
