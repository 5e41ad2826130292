"""Draws a schedule of faults from a seed, and carries it out on a replica set."""

import random
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from chat_service.embedded.replica_set import EmbeddedReplicaSet, Member

AFTER_SECONDS = 1.0
"""A request that begins within this time after the election of a new primary is still part of the fault."""


class Fault(NamedTuple):
    """A primary that is killed or paused, or a primary that loses its majority: both its secondaries are paused."""

    kind: str
    after: float
    """Seconds without a fault before it."""
    lasts: float
    """Seconds until the killed member restarts or the paused ones go on; counted from the new primary, if any."""


class Window(NamedTuple):
    """The time in which a fault could affect requests."""

    fault: Fault
    began: float
    ended: float
    primary_after: float
    """Seconds until there was a new primary."""


LASTING = {"kill": (0.0, 3.0), "pause": (3.0, 10.0), "no majority": (8.0, 20.0)}
"""Seconds at least and at most. Requests wait for 12 s: some faults of the last kind last longer, and some do not."""


def plan(seed: int, **numbers: int) -> list[Fault]:
    """Return so many faults of each kind, shuffled: the same for the same seed and numbers."""
    rng = random.Random(seed)
    kinds = [kind.replace("_", " ") for kind, number in numbers.items() for _ in range(number)]
    rng.shuffle(kinds)
    return [Fault(kind, after=rng.uniform(0, 2), lasts=rng.uniform(*LASTING[kind])) for kind in kinds]


def carry_out(faults: list[Fault], replica_set: EmbeddedReplicaSet, tell: Callable[[str], object]) -> list[Window]:
    """Carry out one fault after the other, each after the set is steady again; return their windows."""
    windows = []
    for number, fault in enumerate(faults, 1):
        replica_set.wait_until_steady()
        time.sleep(fault.after)
        windows.append(window := _carry_out(fault, replica_set))
        tell(f"{number}/{len(faults)} {fault.kind}: a new primary after {window.primary_after:.1f} s")
    replica_set.wait_until_steady()
    return windows


def _carry_out(fault: Fault, replica_set: EmbeddedReplicaSet) -> Window:
    primary = replica_set.primary()
    began = time.monotonic()
    if fault.kind == "no majority":
        return _pause_secondaries(fault, primary, replica_set, began)
    primary.send(signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
    replica_set.primary(other_than=primary)
    elected_at = time.monotonic()
    time.sleep(fault.lasts)
    if fault.kind == "kill":
        primary.kill()
        primary.start()
    else:
        primary.send(signal.SIGCONT)
    return Window(fault, began, elected_at + AFTER_SECONDS, elected_at - began)


def _pause_secondaries(fault: Fault, primary: Member, replica_set: EmbeddedReplicaSet, began: float) -> Window:
    secondaries = [member for member in replica_set.members if member is not primary]
    for member in secondaries:
        member.send(signal.SIGSTOP)
    time.sleep(fault.lasts)
    for member in secondaries:
        member.send(signal.SIGCONT)
    replica_set.primary()
    elected_at = time.monotonic()
    return Window(fault, began, elected_at + AFTER_SECONDS, elected_at - began)
