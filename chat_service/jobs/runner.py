"""Runs a job again and again: a bounded piece of work at a time, a rest when there is none, patience with outages."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from chat_service.errors import DatabaseUnavailableError, OutcomeUnknownError

REPORT_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Job(ABC):
    """Background work, of which any number of processes may do some at once, and be killed."""

    name: str
    rest_seconds: float
    """Between two looks for work when there was none."""

    @abstractmethod
    def run_once(self) -> int | None:
        """Do one bounded piece of work; return how much it was, or None if there was nothing to do.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: it is looked for again later.
        """

    @abstractmethod
    def is_done(self) -> bool:
        """Tell whether nothing is left for anybody, not even what others are working on."""

    def end(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what is held between two pieces: this process does no more of it."""


def run(
    job: Job, stop: threading.Event, *, until_done: bool = False, tell: Callable[[int], object] = lambda _: None
) -> None:
    """Run the job until told to stop, or with `until_done` until nothing is left; `tell` hears of each piece done."""
    report = _Report(job.name)
    while not stop.is_set():
        try:
            worked = job.run_once()
            if worked is None and until_done and job.is_done():
                break
        except Exception as error:
            if isinstance(error, DatabaseUnavailableError | OutcomeUnknownError):
                _log.warning("%s waits for the database: %s", job.name, type(error).__name__)
            elif until_done:
                raise
            else:  # what nobody has thought of must not end a job for good, while its process goes on
                _log.error("%s failed: %s", job.name, type(error).__name__)
            worked = None
            report.failures += 1
        report.add(worked)
        if worked is None:
            stop.wait(job.rest_seconds)
        else:
            tell(worked)
    job.end()


class _Report:
    """What a job has done, for the log: a line in `REPORT_SECONDS`, if there was anything."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since = time.monotonic()
        self._done = 0
        self.failures = 0

    def add(self, worked: int | None) -> None:
        """Count a piece of work, and write the line if it is time."""
        self._done += worked or 0
        seconds = time.monotonic() - self._since
        if seconds < REPORT_SECONDS:
            return
        if self._done or self.failures:
            _log.info("%s: %d done, %d failures in %.0f s", self._name, self._done, self.failures, seconds)
        self._since, self._done, self.failures = time.monotonic(), 0, 0


def start(job: Job, stop: threading.Event) -> threading.Thread:
    """Run the job in a thread of its own, and return it. It ends with the process, at whatever point it is."""
    thread = threading.Thread(target=run, args=(job, stop), name=job.name, daemon=True)
    thread.start()
    return thread
