"""Erases what senders have said, as tenants have asked for it."""

import uuid

from chat_service.errors import ClaimLostError
from chat_service.jobs.runner import Job
from chat_service.repository.erasures import Erasures

REST_SECONDS = 2.0


class Erasing(Job):
    """One worker; it takes slices of erasures, and the tenants in turns. Any number may run, and be killed."""

    name = "erasing"
    rest_seconds = REST_SECONDS

    def __init__(self, erasures: Erasures) -> None:
        self._erasures = erasures
        self._id = uuid.uuid4().hex
        self._last_tenant = ""

    def run_once(self) -> int | None:
        """Look at a slice of a tenant's messages; return how many were erased, or None if there was nothing to do.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the erasure is taken up again when its lease has run out.
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
        """Tell whether no erasure is under way but those that wait for a hold."""
        return self._erasures.are_done()
