"""What the processes that a benchmark has started use, as /proc tells it."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the process ids of a process' children."""
    listed = [Path(f"/proc/{pid}/task/{task.name}/children") for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for path in listed for child in path.read_text().split()]


def descendants(pid: int) -> list[int]:
    """Return the process ids of a process' children, and of theirs."""
    found = children(pid)
    return found + [pid for child in found for pid in descendants(child)]


def workers_of_service() -> list[int]:
    """Return the process ids of the workers of the service that is a child of ours."""
    masters = [pid for pid in children(os.getpid()) if "gunicorn" in Path(f"/proc/{pid}/cmdline").read_text()]
    return children(masters[0])


def memory(pid: int) -> int:
    """Return the memory of a process, in bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def cpu_of_services() -> float:
    """Return the CPU seconds that our children have used, but for mongod: those of the service that is measured."""
    return sum(_cpu(pid) for pid in descendants(os.getpid()))


def _cpu(pid: int) -> float:
    name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(") ")
    fields = rest.split()
    return 0 if name.endswith("(mongod") else (int(fields[11]) + int(fields[12])) / TICKS
