"""The purge worker: removes what deletes of large chats left behind. Any number of them may run, and be killed."""

import threading
import time
import uuid

from chat_service.errors import ClaimLostError
from chat_service.jobs.pace import LOOK_SECONDS, Pace
from chat_service.jobs.runner import Job
from chat_service.models import Purge
from chat_service.repository.purges import Purges

SLICE_SECONDS = 1.0
"""How long one purge is worked on before the next tenant has its turn."""

IDLE_SECONDS = 2.0
"""Between two looks for work: a receipt is complete soon, and an idle worker costs one command in that time."""


class PurgeWorker(Job):
    """One worker; it takes slices of purges in turns."""

    name = "purge"
    rest_seconds = IDLE_SECONDS

    def __init__(self, purges: Purges, stop: threading.Event | None = None) -> None:
        self._purges = purges
        self._stop = stop or threading.Event()
        self._id = uuid.uuid4().hex
        self._pace = Pace()
        self._last_tenant = ""
        self._looked, self._operations = 0.0, 0

    def run_once(self) -> int | None:
        """Work on one purge for a slice of time; return the messages removed, or None if none was free.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the purge is taken up again when its lease has run out.
        """
        purge = self._purges.claim(self._id, self._last_tenant)
        if purge is None:
            return None
        self._last_tenant = purge.tenant_id
        try:
            return self._work_on(purge)
        except ClaimLostError:
            return 0

    def _work_on(self, purge: Purge) -> int:
        removed, position = 0, purge.position
        end = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < end and not self._stop.is_set():
            began = time.monotonic()
            found = self._purges.next_seq(purge, position)
            read = time.monotonic()
            if found is None:
                if self._purges.next_seq(purge) is None:
                    self._purges.finish(purge)
                    return removed
                position = purge.first_seq
                continue
            self._pace.learn(read - began)
            if read - self._looked > LOOK_SECONDS:
                self._look_for_others(read)
            size = self._pace.batch
            removed += self._purges.remove(purge, found, size)
            position = found + size
            self._stop.wait(self._pace.rest(time.monotonic() - read))
        self._purges.release(purge)
        return removed

    def _look_for_others(self, now: float) -> None:
        operations = self._purges.operations_of_others()
        self._pace.learn_others(operations - self._operations if self._looked else 0)
        self._looked, self._operations = now, operations

    def is_done(self) -> bool:
        """Tell whether no purge is open."""
        return self._purges.progress()[0] == 0
