"""Takes the chats that tenants' retention policies take."""

from typing import TYPE_CHECKING

from chat_service.jobs.runner import Job
from chat_service.repository.retention import RetentionPolicies

if TYPE_CHECKING:
    from chat_service.models import ListPosition

BATCH_CHATS = 64
"""Of a tenant, before the next one has its turn."""

REST_SECONDS = 30.0


class Retaining(Job):
    """One worker. It goes through the chats of all tenants that have a policy, in turns, and then rests."""

    name = "retention"
    rest_seconds = REST_SECONDS

    def __init__(self, policies: RetentionPolicies) -> None:
        self._policies = policies
        self._left: dict[str, ListPosition | None] = {}
        """The tenants of this round, each with where to go on."""
        self._is_resting = True
        self._taken = 0
        """In this round, or the last one."""

    def run_once(self) -> int | None:
        """Take some chats of one tenant, and return how many; None when a round is over.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: they are looked for again later.
        """
        if not self._left:
            self._is_resting = not self._is_resting
            if self._is_resting:
                return None
            self._left, self._taken = dict.fromkeys(self._policies.tenants()), 0
            if not self._left:
                self._is_resting = True
                return None
        tenant_id, after = next(iter(self._left.items()))
        del self._left[tenant_id]
        taken, place = self._policies.take_some(tenant_id, after, BATCH_CHATS)
        if place is not None:
            self._left[tenant_id] = place  # at the end: the others have their turn
        self._taken += taken
        return taken

    def is_done(self) -> bool:
        """Tell whether the last round has found nothing to take."""
        return not self._taken
