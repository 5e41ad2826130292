"""Jobs that delete chats, some of each tenant in turn: expired chats, and the chats of tenants that are deleted."""

from typing import Protocol

from chat_service.jobs.runner import Job
from chat_service.repository.lists import next_in_turn

BATCH_CHATS = 64
"""How many chats of a tenant are deleted before the next tenant has its turn."""


class Deleter(Protocol):
    """Finds and deletes the chats."""

    def tenants(self) -> list[str]:
        """Return the tenants that have such chats, sorted."""

    def take_some(self, tenant_id: str, most: int) -> int:
        """Delete up to `most` chats of a tenant, and return how many."""


class Turns(Job):
    """One worker. It processes the tenants in turn."""

    rest_seconds = 5.0

    def __init__(self, deleter: Deleter) -> None:
        self._deleter = deleter
        self._last_tenant = ""

    def run_once(self) -> int | None:
        """Delete some chats of one tenant, and return how many; None if no tenant has any.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the remaining chats are found again.
        """
        tenant_ids = self._deleter.tenants()
        if not tenant_ids:
            return None
        self._last_tenant = next_in_turn(tenant_ids, self._last_tenant)
        return self._deleter.take_some(self._last_tenant, BATCH_CHATS)

    def is_done(self) -> bool:
        """Return whether no chat can be deleted now. A hold may still keep some, and a purge may be in progress."""
        return not self._deleter.tenants()


class Expiry(Turns):
    """Deletes expired chats. Nobody could reach or restore them any more even before that."""

    name = "expiry"


class RemovingTenants(Turns):
    """Deletes the data of tenants that are to be deleted."""

    name = "tenants"
