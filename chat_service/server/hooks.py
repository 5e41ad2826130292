"""What to do when gunicorn's processes start and end. gunicorn.conf.py names these hooks; gunicorn sets their order.

- A worker that was killed may leave transactions and leases, and with them chats that cannot be deleted. The master
  learns of it at once and for sure, but does not query the database for it. The next worker that it forks gets the
  names of the dead, and releases what they held, in a thread, from its start. Each new worker gets a name again until
  one of them has reported that the release is done.
- A worker that ends before it serves is replaced after a growing pause. The new worker does the waiting, so that there
  are never more processes than workers, and the master still handles signals.
- A passing fault (no memory, a full disk, an unavailable database) ends a worker, and never the service. A wrong
  setting ends the service at once, with a message.
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
from chat_service.embedded.process import die_with_parent
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
"""After this the database has by itself dropped what a dead worker held."""

RELEASE_EVERY_SECONDS = 0.2

PAUSE_MOST_SECONDS = 15.0
"""The longest wait once the cause is gone. It is half of gunicorn's `timeout`."""

RETURNED_BYTES = 128 * 2**10
"""A larger block goes back to the kernel when it is freed. glibc starts with this threshold too, but raises it with
each such block that is freed. Responses that wait for their readers then take four times their size."""

_M_MMAP_THRESHOLD = -3  # malloc.h

FAILED_START = 1
"""The exit code of a worker that failed before it served. gunicorn's own code, 3, would end the service."""

ReadSettings = Callable[[], Settings]
"""Reads the settings from the environment. gunicorn.conf.py passes it, because it lies outside this package."""

_END_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


class Phase(IntEnum):
    """How far a worker has come. The byte is shared with the master, and with the workers that are forked later."""

    STARTING = 0
    SERVING = 1
    ENDED = 2
    """It ended in good order, and holds nothing."""
    RELEASED = 3
    """It was killed, and a later worker has released what it held."""


class DeadWorker(NamedTuple):
    """A worker that was killed while it served."""

    name: str
    died_at: float
    """On the monotonic clock, which all processes of a machine share."""
    phase: mmap.mmap


class Succession:
    """What the master knows of its workers: which were killed, and how many in a row ended before they served."""

    def __init__(self) -> None:
        self._living: list[Any] = []
        self._dead: list[DeadWorker] = []
        self._failures = 0
        self._last_failure = 0
        self._uncounted_deaths = 0
        """Workers that died since the last fork. The next worker counts them in a metric, for the master has none."""

    def prepare(self, worker: Any) -> None:
        """Give a worker that is about to be forked what it needs to know."""
        self._forget_failures_if_served()
        self._dead = [dead for dead in self._dead if not _is_over(dead)]
        worker.phase = mmap.mmap(-1, 1)
        worker.predecessors = list(self._dead)
        worker.pause = pause_after(self._failures)
        worker.deaths, self._uncounted_deaths = self._uncounted_deaths, 0
        self._living.append(worker)

    def note_end(self, worker: Any) -> None:
        """Note that a worker has ended, however it ended."""
        self._forget_failures_if_served()
        self._living.remove(worker)
        self._uncounted_deaths += worker.phase[0] != Phase.ENDED
        if worker.phase[0] == Phase.STARTING:
            self._failures += 1
            self._last_failure = worker.age
        elif worker.phase[0] == Phase.SERVING:
            name = processes.name_of(worker.pid, worker.age)
            self._dead.append(DeadWorker(name, time.monotonic(), worker.phase))

    def _forget_failures_if_served(self) -> None:
        """Forget the failures once a worker that was forked after them serves."""
        if any(worker.age > self._last_failure and worker.phase[0] != Phase.STARTING for worker in self._living):
            self.forget_failures()

    def forget_failures(self) -> None:
        """Let the next worker start at once."""
        self._failures = 0


def pause_after(failures: int) -> float:
    """Return the seconds that a worker waits before it starts, after so many in a row ended before they served."""
    return 0.0 if failures <= 1 else min(2.0 ** min(failures - 2, 10), PAUSE_MOST_SECONDS)


def _is_over(dead: DeadWorker) -> bool:
    return dead.phase[0] == Phase.RELEASED or time.monotonic() - dead.died_at > GIVE_UP_SECONDS


_succession = Succession()


def on_starting(read_settings: ReadSettings, server: Any) -> None:
    """Refuse to start with a wrong setting, or on a MongoDB without transactions, before the first worker is forked."""
    _end_at_once_in_a_new_worker()
    try:
        database = Database(read_settings().mongodb_uri)
        try:
            database.prepare()
            Orphans(database).reap()  # left by a service whose processes all died just before
        finally:
            database.close()
    except (DatabaseUnavailableError, OutcomeUnknownError):
        server.log.warning("MongoDB does not answer yet; serving 503 until it does.")
    except WrongCollectionsError as error:
        server.log.warning("%s", str(error))  # /readyz says 503 until this is fixed
    except (ConfigError, ChatServiceError) as error:
        server.log.critical("%s", str(error))
        sys.exit(1)
    if server.cfg.worker_tmp_dir is None:
        server.log.warning("%s cannot be written or is full: heartbeats and metrics go to a disk.", shared_files.MEMORY)
    shared_files.share_metrics(server.cfg.worker_tmp_dir)
    gc.freeze()  # no worker's garbage collector visits what the master has loaded, so that the pages stay shared


def _end_at_once_in_a_new_worker() -> None:
    """Make a signal to end effective in a new worker from its start.

    A worker inherits the master's handlers, which would put the signal into a queue that nobody reads.
    """

    def in_child() -> None:
        for signum in _END_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _END_SIGNALS)

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _END_SIGNALS),
        after_in_child=in_child,
    )


def when_ready(read_settings: ReadSettings, server: Any) -> None:
    """Log where the service listens, and which code it runs."""
    listeners = ", ".join(str(listener) for listener in server.LISTENERS)
    logs.write_start("web", __version__, read_settings().commit, address=listeners, workers=server.cfg.workers)


def on_reload(_server: Any) -> None:
    """Let the new workers start at once: the cause that kept the last ones from serving may have been fixed."""
    _succession.forget_failures()


def pre_fork(_server: Any, worker: Any) -> None:
    """Give the worker that is about to be forked the names of the dead, and a slot to count its connections in."""
    _succession.prepare(worker)
    worker.slot = counts.assign_slot()


def post_fork(read_settings: ReadSettings, server: Any, worker: Any) -> None:
    """Begin to release what the dead held. Then pause, if workers before this one ended before they served."""
    processes.set_number(worker.age)
    if not shared_files.keep_metrics_as(_metrics_number(worker)):
        server.log.warning("There is no room for the metrics of a worker: it serves, but /metrics is incomplete.")
    from chat_service.telemetry import metrics  # noqa: PLC0415 - only now is it known where metrics are kept

    metrics.count_deaths(worker.deaths)
    if worker.predecessors:
        work = (worker.predecessors, read_settings().mongodb_uri, server.log)
        threading.Thread(target=release_dead_workers, args=work, name="release-dead-workers", daemon=True).start()
    if worker.pause:
        server.log.warning("Workers end before they serve: the next one starts in %d s.", worker.pause)
        _pause(worker)


def _pause(worker: Any) -> None:
    ends_at = time.monotonic() + worker.pause
    while (seconds_left := ends_at - time.monotonic()) > 0:
        if os.getppid() != worker.ppid:
            sys.exit(0)  # the master was killed
        worker.notify()
        time.sleep(min(seconds_left, 1.0))


def release_dead_workers(predecessors: Sequence[DeadWorker], mongodb_uri: str, log: Any) -> None:
    """Release what the dead held, again and again, until all of it is released or `GIVE_UP_SECONDS` are over.

    The kernel closed their WebSockets when they died, so nobody needs their leases.
    """
    database = Database(mongodb_uri, max_pool_size=2)
    orphans = Orphans(database)
    try:
        while unreleased := [dead for dead in predecessors if not _is_over(dead)]:
            for dead in unreleased:
                try:
                    if orphans.release(dead.name):
                        dead.phase[0] = Phase.RELEASED
                except Exception as error:  # noqa: BLE001 - any error: the release is tried again, for a while
                    log.debug("What a dead worker held is not released yet: %s", type(error).__name__)
            time.sleep(RELEASE_EVERY_SECONDS)
    finally:
        database.close()


def post_worker_init(worker: Any) -> None:
    """Note that the application is loaded, exclude it from garbage collection, and have freed memory returned.

    An export makes thousands of dictionaries at a time. The search for cycles in them took a fifth of its time.
    """
    worker.phase[0] = Phase.SERVING
    _end_with_master(worker)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    _return_large_blocks()


def _end_with_master(worker: Any) -> None:
    """Have this worker end in good order when its master was killed. Else it would serve on, and keep the port."""
    die_with_parent()
    if os.getppid() != worker.ppid:  # it was killed before
        os.kill(os.getpid(), signal.SIGTERM)


def _return_large_blocks() -> None:
    """Fix malloc's threshold, see mallopt(3). C libraries other than glibc have none to fix."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, RETURNED_BYTES)


def worker_exit(_server: Any, worker: Any) -> None:
    """Note a good end, and keep a failed start from ending the service, unless a setting is wrong."""
    error = sys.exception()
    if not isinstance(error, SystemExit):
        return
    if not error.code:
        worker.phase[0] = Phase.ENDED
    elif error.code == Arbiter.WORKER_BOOT_ERROR:
        worker.phase[0] = Phase.STARTING
        if not _is_wrong_setting(error):
            sys.exit(FAILED_START)


def _is_wrong_setting(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ConfigError | UnsupportedServerError):
        error = error.__context__
    return error is not None


def child_exit(_server: Any, worker: Any) -> None:
    """Note, in the master, that a worker has ended, and drop its gauges. Its counters stay."""
    counts.free_slot(worker.slot)
    _succession.note_end(worker)
    shared_files.forget_gauges(_metrics_number(worker))


def _metrics_number(worker: Any) -> int:
    """Return the number that a worker keeps its metrics under: no other living one has it, and its successor will."""
    return int(worker.pid if worker.slot is None else worker.slot)
