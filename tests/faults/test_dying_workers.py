"""Workers that die each time they start: few processes run, restarts back off, and the service stays up."""

import heapq
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from chat_service.embedded.process import free_port, stop
from chat_service.server.hooks import PAUSE_MOST_SECONDS, pause_after
from tests.forked import start
from tests.wait import PATIENCE, wait_until

WORKERS = 2
AT_ONCE_SECONDS = 1.5 * PATIENCE
"""How soon the service must end. gunicorn checks ten times a second whether its workers have ended."""


@contextmanager
def dying(how: str, mongodb_uri: str, output: IO[bytes] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Run gunicorn with its real configuration and an application that ends each worker that loads it."""
    settings = {"MONGODB_URI": mongodb_uri, "PORT": str(free_port()), "WEB_CONCURRENCY": str(WORKERS), "DYING": how}
    settings["SOURCE_VERSION"] = "test"  # else the master runs git, in a child process that is not a worker
    command = ("gunicorn", "-c", "gunicorn.conf.py", "tests.faults.dying_application:application")
    process = start(*command, output=output, **settings)
    try:
        yield process
    finally:
        stop(process, 10)


def descendants(pid: int) -> set[int]:
    """Return the pids of all descendants of a process."""
    try:
        children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()
    return children.union(*map(descendants, children))


def watch(process: "subprocess.Popen[bytes]", seconds: float) -> tuple[int, int]:
    """Return how many descendants the process had at most at once, and how many in all."""
    most_at_once, all_pids = 0, set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service stays"
        running = descendants(process.pid)
        most_at_once = max(most_at_once, len(running))
        all_pids |= running
        time.sleep(0.01)
    return most_at_once, len(all_pids)


def starts_within(seconds: float) -> int:
    """Return how many workers start within so many seconds if each dies as soon as its pause is over."""
    deaths = [0.0] * WORKERS
    starts = WORKERS
    while deaths[0] <= seconds:
        heapq.heapreplace(deaths, deaths[0] + pause_after(starts - WORKERS + 1))
        starts += 1
    return starts


@pytest.mark.parametrize(
    ("how", "is_away", "seconds"),
    [
        ("killed", True, 3),
        ("disk full", False, 3),
        pytest.param("killed", True, 90, marks=pytest.mark.soak),
        pytest.param("disk full", True, 90, marks=pytest.mark.soak),
    ],
)
def test_workers_that_die_as_they_start(mongod, how: str, *, is_away: bool, seconds: int) -> None:
    """Never more processes than workers run, none starts before its pause is over, and SIGTERM ends a pause at once."""
    unreachable_uri = f"mongodb://127.0.0.1:{free_port()}/?replicaSet=rs0"
    with dying(how, unreachable_uri if is_away else mongod.uri) as process:
        wait_until(lambda: descendants(process.pid), 20)  # until then, the master looks for the database, for 5 s
        seconds = int(seconds * PATIENCE)
        most_at_once, starts = watch(process, seconds)
        print(f"{most_at_once} processes at once, {starts} in {seconds} s")  # noqa: T201 - shown when it fails
        began = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - began < AT_ONCE_SECONDS
    assert most_at_once <= WORKERS
    assert WORKERS < starts <= starts_within(seconds)


def test_a_wrong_setting_ends_the_service(mongod, tmp_path) -> None:
    """Even if only a worker finds it: a wrong setting does not pass by itself. The log says what is wrong."""
    log = tmp_path / "log"
    with log.open("wb") as output, dying("wrong setting", mongod.uri, output) as process:
        assert process.wait(20) != 0
    assert "Settings are missing or wrong" in log.read_text()


def test_the_pause_grows_and_is_bounded() -> None:
    """The first worker that dies as it starts is replaced at once."""
    pauses = [pause_after(failures) for failures in range(8)]
    assert pauses == [0, 0, 1, 2, 4, 8, PAUSE_MOST_SECONDS, PAUSE_MOST_SECONDS]
    assert pause_after(100_000) == PAUSE_MOST_SECONDS
