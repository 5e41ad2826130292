"""The expiry: deletes chats whose time is over. Nobody could reach or restore them any more before it came by."""

from chat_service.jobs.runner import Job
from chat_service.repository.expired import Expired
from chat_service.repository.lists import next_in_turn

BATCH_CHATS = 64
"""Of a tenant, before the next one has its turn."""

REST_SECONDS = 5.0


class Expiry(Job):
    """One worker; it takes the tenants in turns."""

    name = "expiry"
    rest_seconds = REST_SECONDS

    def __init__(self, expired: Expired) -> None:
        self._expired = expired
        self._last_tenant = ""

    def run_once(self) -> int | None:
        """Delete some chats of one tenant, and return how many; None if no chat's time is over.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: those that are left are found again.
        """
        waiting = self._expired.tenants()
        if not waiting:
            return None
        self._last_tenant = next_in_turn(waiting, self._last_tenant)
        return self._expired.delete(self._last_tenant, BATCH_CHATS)

    def is_done(self) -> bool:
        """Tell whether no chat's time is over."""
        return not self._expired.tenants()
