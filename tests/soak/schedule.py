"""What is broken when, as its seed says; and how it is broken."""

import random
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from chat_service.embedded.replica_set import EmbeddedReplicaSet, Member

AFTER_SECONDS = 1.0
"""A request that begins so soon after there is a new primary still belongs to the fault."""


class Fault(NamedTuple):
    """A primary that is killed or paused, or a primary that is left alone: both its secondaries are paused."""

    kind: str
    after: float
    """Seconds of quiet before it."""
    lasts: float
    """Seconds until what was killed is started again, or what was paused goes on: from the new primary on, if any."""


class Window(NamedTuple):
    """When a fault was to be felt."""

    fault: Fault
    began: float
    ended: float
    primary_after: float
    """Seconds until there was a new primary."""


LASTING = {"kill": (0.0, 3.0), "pause": (3.0, 10.0), "no majority": (8.0, 20.0)}
"""Seconds at least and at most. Requests wait for 12 s, so some of the last kind outlast them and some do not."""


def plan(seed: int, **numbers: int) -> list[Fault]:
    """Return so many faults of each kind in their order: the same for the same seed and numbers."""
    dice = random.Random(seed)
    kinds = [kind.replace("_", " ") for kind, number in numbers.items() for _ in range(number)]
    dice.shuffle(kinds)
    return [Fault(kind, after=dice.uniform(0, 2), lasts=dice.uniform(*LASTING[kind])) for kind in kinds]


def carry_out(faults: list[Fault], replica_set: EmbeddedReplicaSet, tell: Callable[[str], object]) -> list[Window]:
    """Break and mend the set, fault by fault, each time when it is well again; return when that was to be felt."""
    windows = []
    for number, fault in enumerate(faults, 1):
        replica_set.wait_until_steady()
        time.sleep(fault.after)
        windows.append(window := _break(fault, replica_set))
        tell(f"{number}/{len(faults)} {fault.kind}: a new primary after {window.primary_after:.1f} s")
    replica_set.wait_until_steady()
    return windows


def _break(fault: Fault, replica_set: EmbeddedReplicaSet) -> Window:
    primary = replica_set.primary()
    began = time.monotonic()
    if fault.kind == "no majority":
        return _leave_alone(fault, primary, replica_set, began)
    primary.send(signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
    replica_set.primary(other_than=primary)
    back = time.monotonic()
    time.sleep(fault.lasts)
    if fault.kind == "kill":
        primary.kill()
        primary.start()
    else:
        primary.send(signal.SIGCONT)
    return Window(fault, began, back + AFTER_SECONDS, back - began)


def _leave_alone(fault: Fault, primary: Member, replica_set: EmbeddedReplicaSet, began: float) -> Window:
    others = [member for member in replica_set.members if member is not primary]
    for member in others:
        member.send(signal.SIGSTOP)
    time.sleep(fault.lasts)
    for member in others:
        member.send(signal.SIGCONT)
    replica_set.primary()
    back = time.monotonic()
    return Window(fault, began, back + AFTER_SECONDS, back - began)
