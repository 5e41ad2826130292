"""The files that the processes of one service share: heartbeats, and the metrics that /metrics shows.

They are in shared memory if possible, because a write to a slow disk would hold up a request. Memory that is full, or
not writable, is noticed before it is used: a write to a mapped file without room ends the process.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

MEMORY = "/dev/shm"  # noqa: S108 - each file in it has an unpredictable name

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable in which prometheus_client looks for its folder."""

_PREFIX = "chat-service-metrics-"

UNLOCKED_SECONDS = 60
"""A younger folder may belong to a master that has not locked it yet."""

ROOM_BYTES = 2**20
"""What the files of several workers need. A container's shared memory has 64 MiB."""


def folder_with_room(candidates: Sequence[str] = (MEMORY,)) -> str | None:
    """Return the first candidate that is writable and has room; None leaves the choice to the system."""
    return next((folder for folder in candidates if _has_room(folder)), None)


def _has_room(folder: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            os.posix_fallocate(probe.fileno(), 0, ROOM_BYTES)
    except (OSError, AttributeError):  # macOS has no posix_fallocate, and no /dev/shm either
        return False
    return True


def share_metrics(folder: str | None) -> None:
    """Make a new folder in which the workers keep their metrics. It is removed when this process, the master, ends.

    prometheus_client reads the variable when it is imported, and only workers import it. After SIGHUP the folder stays,
    so that no counter falls. A new master (SIGUSR2) makes a folder of its own. The folders of masters that were killed
    are removed here: each takes about a MiB of memory.
    """
    metrics_folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=folder)
    os.environ[_FOLDER_VARIABLE] = metrics_folder
    _lock(metrics_folder)  # until this process and its workers, which inherit the lock, have all ended
    atexit.register(_remove, metrics_folder, os.getpid())
    for other in Path(metrics_folder).parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or removed meanwhile
            _remove_if_abandoned(other)


def _lock(folder: str | Path) -> int:
    """Lock a folder; return the descriptor that holds the lock.

    Raises:
        OSError: a living process holds it, or this user may not.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_if_abandoned(folder: Path) -> None:
    """Remove the folder of a service of which no process lives; a process id could belong to another container."""
    descriptor = _lock(folder)
    try:
        if time.time() - folder.stat().st_mtime > UNLOCKED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a worker, which has inherited this hook
        shutil.rmtree(folder, ignore_errors=True)


def keep_metrics_as(name: int) -> bool:
    """Keep this worker's metrics under `name`, which no other living worker has, and continue those of its predecessor.

    So the files do not grow in number with each worker that has died, which would fill their memory. Returns whether
    there was room. Without room the worker still serves, but answers /metrics with its own numbers only.
    """
    from prometheus_client import values  # noqa: PLC0415 - after the variable is set

    has_room = _has_room(os.environ[_FOLDER_VARIABLE])
    if has_room:
        values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
    else:
        del os.environ[_FOLDER_VARIABLE]
        values.ValueClass = values.MutexValue
    return has_room


def forget_gauges(name: int) -> None:
    """Drop the gauges of a dead worker. Its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - after the variable is set

    mark_process_dead(name)  # type: ignore[no-untyped-call]
