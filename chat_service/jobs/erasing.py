"""Erases the messages of senders whose erasure a tenant has requested."""

import uuid

from chat_service.errors import ClaimLostError
from chat_service.jobs.runner import Job
from chat_service.repository.erasures import Erasures

REST_SECONDS = 2.0


class Erasing(Job):
    """One worker. It works on erasures in slices, and on the tenants in turn. Any number may run, and be killed."""

    name = "erasing"
    rest_seconds = REST_SECONDS

    def __init__(self, erasures: Erasures) -> None:
        self._erasures = erasures
        self._id = uuid.uuid4().hex
        self._last_tenant = ""

    def run_once(self) -> int | None:
        """Look at a slice of a tenant's messages; return how many were erased, or None if there was nothing to do.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the erasure is continued when its lease has expired.
        """
        claim = self._erasures.claim(self._id, self._last_tenant)
        if claim is None:
            return None
        self._last_tenant = claim.tenant_id
        try:
            return self._erasures.work_on(claim)
        except ClaimLostError:
            return 0

    def is_done(self) -> bool:
        """Return whether no erasure is in progress, except for those that wait for a hold."""
        return self._erasures.are_done()
