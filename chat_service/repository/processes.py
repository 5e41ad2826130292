"""Which process a connection belongs to, so that the server can be asked what the dead have left open.

The name goes to the server with what the driver says of itself, and not into the application name, which stays the same
for all.
"""

import os
import uuid

_FAMILY = uuid.uuid4().hex[:16]
"""Made once in the process that imports this first; those that it forks inherit it, so that it can name them too."""

LAYER = "chat-service"

_number: int | None = None


def set_number(number: int) -> None:
    """Take a number into the name of this process, which its parent gives to no other process that it forks."""
    global _number  # noqa: PLW0603 - a process has one name
    _number = number


def name_of(pid: int, number: int | None) -> str:
    """Return the name of this process, or of one that it has forked: no two on any machine have the same.

    The number makes that true also when the system gives the pid of a dead process to a new one.
    """
    return f"{_FAMILY}.{pid}" if number is None else f"{_FAMILY}.{pid}.{number}"


def own_name() -> str:
    """Return the name of this process."""
    return name_of(os.getpid(), _number)
