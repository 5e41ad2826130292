"""Which process a connection belongs to, so that the server can be asked what the dead have left open.

The name goes to the server with what the driver says of itself, and not into the application name, which stays the same
for all.
"""

import os
import uuid

_FAMILY = uuid.uuid4().hex[:16]
"""Made once in the process that imports this first; those that it forks inherit it, so that it can name them too."""

LAYER = "chat-service"


def name_of(pid: int) -> str:
    """Return the name of this process, or of one that it has forked: no two on any machine have the same."""
    return f"{_FAMILY}.{pid}"


def own_name() -> str:
    """Return the name of this process."""
    return name_of(os.getpid())
