"""The processes of the real service."""

import subprocess

from chat_service.embedded.service import EmbeddedGunicorn


def workers_of(service: EmbeddedGunicorn) -> set[int]:
    """Return the process ids of the service's live workers."""
    assert service.process is not None
    return children_of(service.process.pid)


def children_of(pid: int) -> set[int]:
    """Return the process ids of a process' live children."""
    command = ["pgrep", "-P", str(pid)]
    return set(map(int, subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()))
