"""The name of this process, which the server has of each connection: so it can be asked for those of dead processes.

The name is sent with the driver's own name and version. The application name is the same for all processes.
"""

import os
import uuid

_FAMILY = uuid.uuid4().hex[:16]
"""Made by the process that imports this first. The processes that it forks inherit it, so that it can name them too."""

LAYER = "chat-service"

_number: int | None = None


def set_number(number: int) -> None:
    """Add a number to the name of this process, which its parent gives to no other process that it forks."""
    global _number  # noqa: PLW0603 - a process has one name
    _number = number


def name_of(pid: int, number: int | None) -> str:
    """Return the name of this process, or of one that it has forked. It is unique across machines.

    With the number it is unique even if the system gives the pid of a dead process to a new one.
    """
    return f"{_FAMILY}.{pid}" if number is None else f"{_FAMILY}.{pid}.{number}"


def own_name() -> str:
    """Return the name of this process."""
    return name_of(os.getpid(), _number)
