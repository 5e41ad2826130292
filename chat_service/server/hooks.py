"""What happens as gunicorn's processes come and go. gunicorn.conf.py names these hooks; their order is gunicorn's.

- A worker that was killed may have left transactions and leases, and with them chats that cannot be deleted. The master
  learns of it at once and for sure, but asks the database for nothing. The next worker that it forks gets the names of
  the dead, and releases what they held, in a thread, from its first moment on. A name is handed on, to each new worker,
  until one of them has reported that it is done.
- A worker that ends before it serves is replaced after a pause that grows. It is the new worker that waits, so that
  there are never more processes than workers, and the master hears its signals.
- What passes by itself (no memory, a full disk, a database that is away) ends a worker, and never the service. A wrong
  setting ends the service at once, with a sentence.
"""

import ctypes
import gc
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from gunicorn.arbiter import Arbiter

from chat_service import __version__
from chat_service.errors import (
    ChatServiceError,
    DatabaseUnavailableError,
    OutcomeUnknownError,
    UnsupportedServerError,
    WrongCollectionsError,
)
from chat_service.repository import processes
from chat_service.repository.database import Database
from chat_service.repository.orphans import Orphans
from chat_service.server import shared_files
from chat_service.server.balance import counts
from chat_service.settings import ConfigError, Settings
from chat_service.telemetry import logs

GIVE_UP_SECONDS = 90.0
"""After this the server has given up by itself what the dead held."""

RELEASE_EVERY_SECONDS = 0.2

PAUSE_MOST_SECONDS = 15.0
"""Once the cause is gone, nobody waits for longer than this, and half of gunicorn's `timeout`."""

RETURNED_BYTES = 128 * 2**10
"""What is larger goes back to the kernel when it is freed. That is where glibc begins, but it raises this bound with
each such block that is freed; answers that wait for their readers then take four times their size."""

_M_MMAP_THRESHOLD = -3  # malloc.h

FAILED_START = 1
"""The exit code of a worker that did not get to serve: gunicorn takes its own, 3, for a reason to end the service."""

ReadSettings = Callable[[], Settings]
"""Reads the environment; gunicorn.conf.py binds it, because it lies outside this package."""

_ENDINGS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


class Phase(IntEnum):
    """How far a worker has come: one byte that it shares with the master, and with the workers that come after it."""

    STARTING = 0
    SERVING = 1
    ENDED = 2
    """In good order: it holds nothing."""
    RELEASED = 3
    """It was killed, and a later worker has released what it held."""


class DeadWorker(NamedTuple):
    """A worker that was killed while it served."""

    name: str
    died_at: float
    """On the monotonic clock, which all processes of a machine share."""
    phase: mmap.mmap


class Succession:
    """What the master knows of its workers: who has died, and how many in a row did so before they served."""

    def __init__(self) -> None:
        self._living: list[Any] = []
        self._dead: list[DeadWorker] = []
        self._failures = 0
        self._last_failure = 0
        self._uncounted = 0
        """Who has died since the last fork: the next worker counts them, for the master has no metrics."""

    def prepare(self, worker: Any) -> None:
        """Give a worker that is about to be forked what it has to know."""
        self._look_for_success()
        self._dead = [dead for dead in self._dead if not _is_over(dead)]
        worker.phase = mmap.mmap(-1, 1)
        worker.predecessors = list(self._dead)
        worker.pause = pause_after(self._failures)
        worker.deaths, self._uncounted = self._uncounted, 0
        self._living.append(worker)

    def note_end(self, worker: Any) -> None:
        """Take note that a worker has ended, however it did."""
        self._look_for_success()
        self._living.remove(worker)
        self._uncounted += worker.phase[0] != Phase.ENDED
        if worker.phase[0] == Phase.STARTING:
            self._failures += 1
            self._last_failure = worker.age
        elif worker.phase[0] == Phase.SERVING:
            name = processes.name_of(worker.pid, worker.age)
            self._dead.append(DeadWorker(name, time.monotonic(), worker.phase))

    def _look_for_success(self) -> None:
        """Forget the failures once a worker that came after them has got to serve."""
        if any(worker.age > self._last_failure and worker.phase[0] != Phase.STARTING for worker in self._living):
            self.forget_failures()

    def forget_failures(self) -> None:
        """Start the next worker at once."""
        self._failures = 0


def pause_after(failures: int) -> float:
    """Return how long a worker waits before it starts, when so many in a row ended before they served."""
    return 0.0 if failures <= 1 else min(2.0 ** min(failures - 2, 10), PAUSE_MOST_SECONDS)


def _is_over(dead: DeadWorker) -> bool:
    return dead.phase[0] == Phase.RELEASED or time.monotonic() - dead.died_at > GIVE_UP_SECONDS


_succession = Succession()


def on_starting(read_settings: ReadSettings, server: Any) -> None:
    """Refuse to start with a wrong setting, or on a server without transactions, before the first worker is forked."""
    _end_at_once_in_a_new_worker()
    try:
        database = Database(read_settings().mongodb_uri)
        try:
            database.prepare()
            Orphans(database).reap()  # of a service that died as a whole just before
        finally:
            database.close()
    except (DatabaseUnavailableError, OutcomeUnknownError):
        server.log.warning("MongoDB does not answer yet; serving 503 until it does.")
    except WrongCollectionsError as error:
        server.log.warning("%s", str(error))  # /readyz says 503 until it is put right
    except (ConfigError, ChatServiceError) as error:
        server.log.critical("%s", str(error))
        sys.exit(1)
    if server.cfg.worker_tmp_dir is None:
        server.log.warning("%s cannot be written or is full: heartbeats and metrics go to a disk.", shared_files.MEMORY)
    shared_files.share_metrics(server.cfg.worker_tmp_dir)
    gc.freeze()  # no worker's collector goes through what the master has loaded, so that the pages stay shared


def _end_at_once_in_a_new_worker() -> None:
    """See that a signal to end does so from a worker's first moment on.

    It is born with the master's handlers, which would put the signal in a queue that nobody reads.
    """

    def in_child() -> None:
        for signum in _ENDINGS:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS),
        after_in_child=in_child,
    )


def when_ready(read_settings: ReadSettings, server: Any) -> None:
    """Say where the service listens, and which code it runs."""
    listeners = ", ".join(str(listener) for listener in server.LISTENERS)
    logs.write_start("web", __version__, read_settings().commit, address=listeners, workers=server.cfg.workers)


def on_reload(_server: Any) -> None:
    """Start the new workers at once: whoever reloads may have mended what kept the last ones from serving."""
    _succession.forget_failures()


def pre_fork(_server: Any, worker: Any) -> None:
    """Hand the names of the dead to the worker that is about to be forked, and a place to count its connections."""
    _succession.prepare(worker)
    worker.slot = counts.assign_slot()


def post_fork(read_settings: ReadSettings, server: Any, worker: Any) -> None:
    """Begin to release what the dead held; then wait, if workers before this one ended before they served."""
    processes.set_number(worker.age)
    if not shared_files.keep_metrics_as(_number(worker)):
        server.log.warning("There is no room for the metrics of a worker: it serves, and /metrics tells too little.")
    from chat_service.telemetry import metrics  # noqa: PLC0415 - after it is known where numbers are kept

    metrics.count_deaths(worker.deaths)
    if worker.predecessors:
        work = (worker.predecessors, read_settings().mongodb_uri, server.log)
        threading.Thread(target=release_dead_workers, args=work, name="release-dead-workers", daemon=True).start()
    if worker.pause:
        server.log.warning("Workers end before they serve: the next one starts in %d s.", worker.pause)
        _wait(worker)


def _wait(worker: Any) -> None:
    end = time.monotonic() + worker.pause
    while (left := end - time.monotonic()) > 0:
        if os.getppid() != worker.ppid:
            sys.exit(0)  # the master was killed
        worker.notify()
        time.sleep(min(left, 1.0))


def release_dead_workers(predecessors: Sequence[DeadWorker], mongodb_uri: str, log: Any) -> None:
    """Release what the dead held, again and again until nothing of it can come up any more, or is given up.

    Their WebSockets were closed by the kernel as they died, so that their leases hold chats for nobody.
    """
    database = Database(mongodb_uri, max_pool_size=2)
    orphans = Orphans(database)
    try:
        while left := [dead for dead in predecessors if not _is_over(dead)]:
            for dead in left:
                try:
                    if orphans.release(dead.name):
                        dead.phase[0] = Phase.RELEASED
                except Exception as error:  # noqa: BLE001 - whatever it was: it is tried again, for a while
                    log.debug("What a dead worker held was not released yet: %s", type(error).__name__)
            time.sleep(RELEASE_EVERY_SECONDS)
    finally:
        database.close()


def post_worker_init(worker: Any) -> None:
    """Take note that the application is loaded, leave it out of the collector's rounds, and return what is freed.

    An export makes thousands of dictionaries at a time, and a fifth of its time went to looking for cycles in them.
    """
    worker.phase[0] = Phase.SERVING
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    _return_large_blocks()


def _return_large_blocks() -> None:
    """Fix malloc's bound, see mallopt(3); another C library than glibc has no such bound to fix."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, RETURNED_BYTES)


def worker_exit(_server: Any, worker: Any) -> None:
    """Take note of a good end, and keep a failed start from ending the service unless a setting is wrong."""
    ending = sys.exception()
    if not isinstance(ending, SystemExit):
        return
    if not ending.code:
        worker.phase[0] = Phase.ENDED
    elif ending.code == Arbiter.WORKER_BOOT_ERROR:
        worker.phase[0] = Phase.STARTING
        if not _is_wrong_setting(ending):
            sys.exit(FAILED_START)


def _is_wrong_setting(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ConfigError | UnsupportedServerError):
        error = error.__context__
    return error is not None


def child_exit(_server: Any, worker: Any) -> None:
    """Note who is dead, in the master, and forget its gauges; what it counted stays."""
    counts.free_slot(worker.slot)
    _succession.note_end(worker)
    shared_files.forget_gauges(_number(worker))


def _number(worker: Any) -> int:
    """Return the number that a worker counts under: no other living one has it, and its successor will."""
    return int(worker.pid if worker.slot is None else worker.slot)
