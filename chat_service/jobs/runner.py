"""Runs a job in a loop: one bounded piece of work at a time, a rest when there is none, and retries in an outage."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from chat_service.errors import DatabaseUnavailableError, OutcomeUnknownError

REPORT_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Job(ABC):
    """Background work. Any number of processes may do it at once, and each may be killed."""

    name: str
    rest_seconds: float
    """The pause before the next look for work when there was none."""

    @abstractmethod
    def run_once(self) -> int | None:
        """Do one bounded piece of work; return how much it was, or None if there was nothing to do.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the job looks again later.
        """

    @abstractmethod
    def is_done(self) -> bool:
        """Return whether no work is left, not even work that others have claimed."""

    def end(self) -> None:  # noqa: B027 - most jobs hold nothing
        """Release what is held between two pieces of work, because this process does no more of them."""


def run(
    job: Job, stop: threading.Event, *, until_done: bool = False, tell: Callable[[int], object] = lambda _: None
) -> None:
    """Run the job until `stop` is set, or with `until_done` until no work is left; call `tell` after each piece."""
    report = _Report(job.name)
    while not stop.is_set():
        try:
            amount = job.run_once()
            if amount is None and until_done and job.is_done():
                break
        except Exception as error:
            if isinstance(error, DatabaseUnavailableError | OutcomeUnknownError):
                _log.warning("%s waits for the database: %s", job.name, type(error).__name__)
            elif until_done:
                raise
            else:  # an unexpected error must not end the job for good while its process goes on
                _log.error("%s failed: %s", job.name, type(error).__name__)
            amount = None
            report.failures += 1
        report.add(amount)
        if amount is None:
            stop.wait(job.rest_seconds)
        else:
            tell(amount)
    job.end()


class _Report:
    """What a job has done: one log line in `REPORT_SECONDS`, if there was anything."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since = time.monotonic()
        self._done = 0
        self.failures = 0

    def add(self, amount: int | None) -> None:
        """Count a piece of work, and log the line if it is due."""
        self._done += amount or 0
        seconds = time.monotonic() - self._since
        if seconds < REPORT_SECONDS:
            return
        if self._done or self.failures:
            _log.info("%s: %d done, %d failures in %.0f s", self._name, self._done, self.failures, seconds)
        self._since, self._done, self.failures = time.monotonic(), 0, 0


def start(job: Job, stop: threading.Event) -> threading.Thread:
    """Run the job in a thread of its own, and return the thread. It ends with the process, at any point of its work."""
    thread = threading.Thread(target=run, args=(job, stop), name=job.name, daemon=True)
    thread.start()
    return thread
