"""The files that the processes of one service share: heartbeats, and the numbers that /metrics tells.

They lie in memory where there is a place for that, because a write to a slow disk would hold up a request. A full or
forbidden one is noticed before anything rests on it: writing to a mapped file that has no room ends the process.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence

MEMORY = "/dev/shm"  # noqa: S108 - each file in it has a name that nobody can foresee

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client is told where."""

ROOM_BYTES = 2**20
"""What the files of several workers take; a container's shared memory has 64 MiB."""


def folder_with_room(candidates: Sequence[str] = (MEMORY,)) -> str | None:
    """Return the first folder that can be written and has room; None if only the system's own choice is left."""
    return next((folder for folder in candidates if _has_room(folder)), None)


def _has_room(folder: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            os.posix_fallocate(probe.fileno(), 0, ROOM_BYTES)
    except (OSError, AttributeError):  # macOS has no posix_fallocate, and no /dev/shm either
        return False
    return True


def share_metrics(folder: str | None) -> None:
    """Make a fresh folder in which the workers keep their numbers; it goes when this process, the master, ends.

    prometheus_client reads the variable when it is imported, which is in the workers. After SIGHUP the folder stays, so
    that no number falls; a new master (SIGUSR2) takes one of its own.
    """
    own = tempfile.mkdtemp(prefix=f"chat-service-metrics-{os.getpid()}-", dir=folder)
    os.environ[_FOLDER] = own
    atexit.register(_remove, own, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a worker, which has inherited this
        shutil.rmtree(folder, ignore_errors=True)


def keep_metrics_as(name: int) -> bool:
    """Have this worker keep its numbers under `name`, which no other living one has, and go on with those it finds.

    So files do not become more with each worker that has died, which would fill the memory they lie in. Returns whether
    there was room; else the worker serves all the same, and tells its own numbers to who happens to ask it.
    """
    from prometheus_client import values  # noqa: PLC0415 - after the variable is set

    has_room = _has_room(os.environ[_FOLDER])
    if has_room:
        values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
    else:
        del os.environ[_FOLDER]
        values.ValueClass = values.MutexValue
    return has_room


def forget_gauges(name: int) -> None:
    """Forget what a worker that is dead had open; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - after the variable is set

    mark_process_dead(name)  # type: ignore[no-untyped-call]
