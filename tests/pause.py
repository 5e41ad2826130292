"""A paused process, as on a machine that is out of memory or being migrated."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.wait import wait_until


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Pause the process while the block runs. On a busy machine its threads keep running for a while after SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: _is_stopped(pid))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)
