"""The memory and CPU time of the processes that a benchmark has started, from /proc."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the process ids of a process' children."""
    files = [Path(f"/proc/{pid}/task/{task.name}/children") for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for file in files for child in file.read_text().split()]


def descendants(pid: int) -> list[int]:
    """Return the process ids of all descendants of a process."""
    direct = children(pid)
    return direct + [pid for child in direct for pid in descendants(child)]


def workers_of_service() -> list[int]:
    """Return the process ids of the workers of the service that this process has started."""
    masters = [pid for pid in children(os.getpid()) if "gunicorn" in Path(f"/proc/{pid}/cmdline").read_text()]
    return children(masters[0])


def memory(pid: int) -> int:
    """Return the memory of a process, in bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def cpu_of_services() -> float:
    """Return the CPU seconds of our descendants without mongod: those of the service that is measured."""
    return sum(_cpu(pid) for pid in descendants(os.getpid()))


def _cpu(pid: int) -> float:
    name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(") ")
    fields = rest.split()
    return 0 if name.endswith("(mongod") else (int(fields[11]) + int(fields[12])) / TICKS
