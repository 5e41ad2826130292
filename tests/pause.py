"""A process that stands still, as one does on a machine that is out of memory or being moved."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop the process, and let it go on afterwards. On a busy machine its threads run on for a while after SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 10
        while not _is_stopped(pid):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)
