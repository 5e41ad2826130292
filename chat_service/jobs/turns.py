"""Jobs that delete some chats of one tenant after the other: of those whose time is over, and of tenants that leave."""

from typing import Protocol

from chat_service.jobs.runner import Job
from chat_service.repository.lists import next_in_turn

BATCH_CHATS = 64
"""Of a tenant, before the next one has its turn."""


class Deleter(Protocol):
    """Finds and deletes them."""

    def tenants(self) -> list[str]:
        """Return the tenants that have some, in their order."""

    def take_some(self, tenant_id: str, most: int) -> int:
        """Delete some of a tenant's, `most` at most, and return how many."""


class Turns(Job):
    """One worker; it takes the tenants in turns."""

    rest_seconds = 5.0

    def __init__(self, deleter: Deleter) -> None:
        self._deleter = deleter
        self._last_tenant = ""

    def run_once(self) -> int | None:
        """Delete some chats of one tenant, and return how many; None if no tenant has any.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: those that are left are found again.
        """
        waiting = self._deleter.tenants()
        if not waiting:
            return None
        self._last_tenant = next_in_turn(waiting, self._last_tenant)
        return self._deleter.take_some(self._last_tenant, BATCH_CHATS)

    def is_done(self) -> bool:
        """Tell whether no tenant has any that can be deleted now: a hold may keep some, and a purge be under way."""
        return not self._deleter.tenants()


class Expiry(Turns):
    """Deletes chats whose time is over. Nobody could reach or restore them any more before it came by."""

    name = "expiry"


class RemovingTenants(Turns):
    """Deletes what there is of tenants that are to be deleted."""

    name = "tenants"
