"""The runner of jobs: it waits for the end of outages, ends when nothing is left, and logs what was done."""

import logging
import threading

import pytest

from chat_service.errors import DatabaseUnavailableError
from chat_service.jobs import runner
from chat_service.jobs.runner import Job, run


class Three(Job):
    """A job with three pieces of work, and an outage before the second."""

    name = "three"
    rest_seconds = 0.0

    def __init__(self) -> None:
        self.left: list[int | None] = [5, None, 7, 9]
        self.has_ended = False

    def run_once(self) -> int | None:
        if not self.left:
            return None
        worked = self.left.pop(0)
        if worked is None:
            raise DatabaseUnavailableError
        return worked

    def is_done(self) -> bool:
        return not self.left

    def end(self) -> None:
        self.has_ended = True


def test_a_job_continues_after_an_outage_and_is_ended() -> None:
    job, reported = Three(), list[int]()
    run(job, threading.Event(), until_done=True, tell=reported.append)
    assert reported == [5, 7, 9]
    assert job.has_ended


def test_the_log_says_what_was_done(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one line for each interval, and none for an interval without work or failures."""
    monkeypatch.setattr(runner, "REPORT_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        run(Three(), threading.Event(), until_done=True)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert lines == [
        "three: 5 done, 0 failures in 0 s",
        "three: 0 done, 1 failures in 0 s",
        "three: 7 done, 0 failures in 0 s",
        "three: 9 done, 0 failures in 0 s",
    ]


class Broken(Three):
    """A job whose second piece fails with an unexpected error; it sets `stop` when all is done."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def run_once(self) -> int | None:
        try:
            return super().run_once()
        except DatabaseUnavailableError:
            raise KeyError("canary") from None
        finally:
            if not self.left:
                self._stop.set()


def test_a_failure_does_not_end_a_job(caplog: pytest.LogCaptureFixture) -> None:
    """The job continues, and the log has the type of the exception and not its text."""
    stop = threading.Event()
    job = Broken(stop)
    run(job, stop)
    assert job.left == []
    assert "three failed: KeyError" in caplog.text
    assert "canary" not in caplog.text
    with pytest.raises(KeyError):
        run(Broken(threading.Event()), threading.Event(), until_done=True)
