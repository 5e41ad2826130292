"""Deletes or trashes the chats that have outlived the retention policy of their tenant."""

from typing import TYPE_CHECKING

from chat_service.jobs.runner import Job
from chat_service.repository.retention import RetentionPolicies

if TYPE_CHECKING:
    from chat_service.models import ListPosition

BATCH_CHATS = 64
"""How many chats of a tenant are processed before the next tenant has its turn."""

REST_SECONDS = 30.0


class Retaining(Job):
    """One worker. It goes through the chats of all tenants with a policy, in turns, and then rests."""

    name = "retention"
    rest_seconds = REST_SECONDS

    def __init__(self, policies: RetentionPolicies) -> None:
        self._policies = policies
        self._remaining: dict[str, ListPosition | None] = {}
        """The tenants left in this round, each with the position to continue at."""
        self._is_resting = True
        self._taken = 0
        """How many chats were taken in this round, or in the last one while it rests."""

    def run_once(self) -> int | None:
        """Delete or trash some chats of one tenant, and return how many; None when a round is over.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the chats are found again later.
        """
        if not self._remaining:
            self._is_resting = not self._is_resting
            if self._is_resting:
                return None
            self._remaining, self._taken = dict.fromkeys(self._policies.tenants()), 0
            if not self._remaining:
                self._is_resting = True
                return None
        tenant_id, after = next(iter(self._remaining.items()))
        del self._remaining[tenant_id]
        taken, position = self._policies.take_some(tenant_id, after, BATCH_CHATS)
        if position is not None:
            self._remaining[tenant_id] = position  # at the end: first the others have their turn
        self._taken += taken
        return taken

    def is_done(self) -> bool:
        """Return whether the last round has found no chat to take."""
        return not self._taken
