"""Releases what dead processes hold, wherever they ran: their own master may have died with them."""

import logging
import time
from collections.abc import Callable, Iterable

from chat_service.jobs.runner import Job
from chat_service.repository.orphans import Absent, Orphans
from chat_service.repository.presence import LEASE

LOOK_EVERY_SECONDS = 1.0
"""Between two looks, which cost MongoDB about a millisecond each."""

_log = logging.getLogger(__name__)


class OrphanReaper(Job):
    """One reaper. Any number of them may run."""

    name = "orphan-reaper"
    rest_seconds = LOOK_EVERY_SECONDS

    def __init__(self, orphans: Orphans, clock: Callable[[], float] = time.monotonic) -> None:
        self._orphans = orphans
        self._clock = clock
        self._absent_since: dict[Absent, float] = {}

    def run_once(self) -> int | None:
        """Look once; return how many transactions, claims and leases were released, or None if there were none.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the job looks again later.
        """
        killed = self._orphans.reap()
        absent = self._orphans.absent()
        claims = self._orphans.release_claims([holder.process for holder in absent]) if absent else 0
        leases = sum(self._orphans.release_leases(holder) for holder in self._long_absent(absent))
        if not (killed or claims or leases):
            return None
        _log.warning("Released what dead processes held: %d transactions, %d claims, %d leases", killed, claims, leases)
        return killed + claims + leases

    def _long_absent(self, absent: Iterable[Absent]) -> list[Absent]:
        """Return the processes that have been absent, and have renewed no lease, for as long as a lease lasts."""
        now = self._clock()
        self._absent_since = {holder: self._absent_since.get(holder, now) for holder in absent}
        return [holder for holder, since in self._absent_since.items() if now - since > LEASE.total_seconds()]

    def is_done(self) -> bool:
        """Return False: processes may die at any time."""
        return False
