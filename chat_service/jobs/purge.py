"""The purge worker: removes what deletes of large chats left behind. Any number of them may run, and be killed."""

import threading
import time
import uuid

from chat_service.errors import ClaimLostError
from chat_service.jobs.runner import Job
from chat_service.models import Purge
from chat_service.repository.purges import Purges

SLICE_SECONDS = 1.0
"""How long one purge is worked on before the next tenant has its turn."""

IDLE_SECONDS = 2.0
"""Between two looks for work: receipts are completed soon, and an idle worker costs one command in that time."""

BATCH_MESSAGES = 1_000
"""A batch on an idle database: measured as the fastest, about 7 ms."""

POLITE_MESSAGES = 100
"""A batch while others use the chats: about 2 ms, so that no request waits longer behind it."""

POLITE_REST = 3.0
"""The rest after such a batch, as a multiple of its time: three of four requests meet no batch."""


class PurgeWorker(Job):
    """One worker. It works on purges in slices, and on the tenants in turn."""

    name = "purge"
    rest_seconds = IDLE_SECONDS

    def __init__(self, purges: Purges, stop: threading.Event | None = None) -> None:
        self._purges = purges
        self._stop = stop or threading.Event()
        self._id = uuid.uuid4().hex
        self._last_tenant = ""

    def run_once(self) -> int | None:
        """Work on one purge for a slice of time; return the messages removed, or None if none was free.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the purge is continued when its lease has expired.
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
        slice_end = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < slice_end and not self._stop.is_set():
            next_seq = self._purges.next_seq(purge, position)
            if next_seq is None:
                if self._purges.next_seq(purge) is None:
                    self._purges.finish(purge)
                    return removed
                position = purge.first_seq
                continue
            began = time.monotonic()
            size = POLITE_MESSAGES if self._purges.traffic.is_shared else BATCH_MESSAGES
            removed += self._purges.remove(purge, next_seq, size)
            position = next_seq + size
            self._purges.traffic.step_aside(began, operations=0, rest=POLITE_REST)
        self._purges.release(purge)
        return removed

    def is_done(self) -> bool:
        """Return whether no purge is open."""
        return self._purges.progress()[0] == 0
