"""What is broken when, as its seed says; and how it is broken."""

import random
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from chat_service.embedded.replica_set import EmbeddedReplicaSet

AFTER_SECONDS = 1.0
"""A request that begins so soon after there is a new primary still belongs to the fault."""


class Fault(NamedTuple):
    """A primary that is killed, or paused."""

    kind: str
    after: float
    """Seconds of quiet before it."""
    lasts: float
    """Seconds from the new primary until the old one is started again, or goes on."""


class Window(NamedTuple):
    """When a fault was to be felt."""

    fault: Fault
    began: float
    ended: float
    primary_after: float
    """Seconds until there was a new primary."""


def plan(seed: int, kills: int, pauses: int) -> list[Fault]:
    """Return the faults in their order: the same for the same seed and numbers."""
    dice = random.Random(seed)
    kinds = ["kill"] * kills + ["pause"] * pauses
    dice.shuffle(kinds)
    return [
        Fault(kind, after=dice.uniform(0, 2), lasts=dice.uniform(0, 3) if kind == "kill" else dice.uniform(3, 10))
        for kind in kinds
    ]


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
    victim = replica_set.primary()
    began = time.monotonic()
    victim.send(signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
    replica_set.primary(other_than=victim)
    back = time.monotonic()
    time.sleep(fault.lasts)
    if fault.kind == "kill":
        victim.kill()
        victim.start()
    else:
        victim.send(signal.SIGCONT)
    return Window(fault, began, back + AFTER_SECONDS, back - began)
