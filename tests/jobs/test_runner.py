"""What runs the jobs: patience with outages, an end when nothing is left, and a line of what was done."""

import logging
import threading

import pytest

from chat_service.errors import DatabaseUnavailableError
from chat_service.jobs import runner
from chat_service.jobs.runner import Job, run


class Three(Job):
    """Three pieces of work, and an outage before the second."""

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


def test_an_outage_is_waited_for_and_what_is_held_is_let_go_of() -> None:
    job, told = Three(), list[int]()
    run(job, threading.Event(), until_done=True, tell=told.append)
    assert told == [5, 7, 9]
    assert job.has_ended


def test_what_was_done_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each time that has gone by, and none where there was nothing."""
    monkeypatch.setattr(runner, "REPORT_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        run(Three(), threading.Event(), until_done=True)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert said == [
        "three: 5 done, 0 failures in 0 s",
        "three: 0 done, 1 failures in 0 s",
        "three: 7 done, 0 failures in 0 s",
        "three: 9 done, 0 failures in 0 s",
    ]
