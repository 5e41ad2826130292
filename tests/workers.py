"""The processes of the real service."""

import subprocess
from pathlib import Path

from chat_service.embedded.service import EmbeddedGunicorn


def workers_of(service: EmbeddedGunicorn) -> set[int]:
    """Return the process ids of the service's live workers."""
    assert service.process is not None
    return children_of(service.process.pid)


def children_of(pid: int) -> set[int]:
    """Return the process ids of a process' live children."""
    command = ["pgrep", "-P", str(pid)]
    return set(map(int, subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()))


def is_running(pid: int) -> bool:
    """Return whether the process lives; one that has ended may be there until its parent looks at it."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
    except FileNotFoundError:
        return False
