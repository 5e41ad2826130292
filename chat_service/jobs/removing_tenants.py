"""Deletes what there is of tenants that are to be deleted."""

from chat_service.jobs.runner import Job
from chat_service.repository.lists import next_in_turn
from chat_service.repository.tenant_deletions import TenantDeletions

BATCH_CHATS = 64
"""Of a tenant, before the next one has its turn."""

REST_SECONDS = 5.0


class RemovingTenants(Job):
    """One worker; it takes the tenants in turns."""

    name = "tenants"
    rest_seconds = REST_SECONDS

    def __init__(self, deletions: TenantDeletions) -> None:
        self._deletions = deletions
        self._last_tenant = ""

    def run_once(self) -> int | None:
        """Delete some chats of one tenant, and return how many; None if there is nothing to delete.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: those that are left are found again.
        """
        waiting = self._deletions.due()
        if not waiting:
            return None
        self._last_tenant = next_in_turn(waiting, self._last_tenant)
        return self._deletions.take_some(self._last_tenant, BATCH_CHATS)

    def is_done(self) -> bool:
        """Tell whether nothing can be deleted now: a hold may keep some, and a purge may be under way."""
        return not self._deletions.due()
