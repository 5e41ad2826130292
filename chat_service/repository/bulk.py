"""Deleting many chats: in groups, each one transaction, so that a commit is paid once for many chats.

Every chat is deleted as `Deletions.delete` does it, with the same promises; only the group it shares a commit with is
new. A group is small, so that it holds few documents for a short time, and other tenants' requests get in between;
while there are any, each group is followed by a rest.
"""

import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from chat_service.errors import DatabaseUnavailableError
from chat_service.models import IdempotencyKey
from chat_service.repository.database import Database
from chat_service.repository.deadline import at_most
from chat_service.repository.deletions import GROUP_CHATS, Delete, Deletions, Outcome
from chat_service.repository.idempotency import claimed
from chat_service.repository.traffic import Traffic

POLITE_REST = 0.5
"""The rest after a group while others use the database, in times of the group: reads of theirs stay within twice their
quiet p99, which without it they do not always."""

POLITE_SECONDS = 4.0
"""For so long a request rests; then it needs what is left of its time for itself."""

GROUP_OPERATIONS = 2
"""What deleting a group is on the collection of chats."""

TOTAL_SECONDS = 12.0
"""After this, or when the request's own time is up, no further group is begun."""

CLAIM_SECONDS = 20.0
"""For another run of the same request, which is over by then unless it was cut off."""

RETURN_SECONDS = 0.3
"""Left of a request's time to say that it waited in vain."""

Outcomes = dict[str, Outcome]


class BulkDeletions:
    """Deletes chats in groups."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions
        self._traffic = Traffic(database)

    def delete(
        self, tenant_id: str, chat_ids: Sequence[str], requested_by: str, key: IdempotencyKey | None = None
    ) -> Outcomes:
        """Delete the chats, and return what became of each: its receipt, or why it stayed.

        With `key`, a repetition is the same operation continued: what it has deleted counts as deleted, with the time
        of that; all else is tried again, so that what is answered is true when it is. Of two runs at once one works,
        and the other waits for it.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before; nothing was deleted.
            RequestInProgressError: another run is still at work, and was waited for in vain.
        """
        ids = dict.fromkeys(chat_ids)
        if key is None:
            return self._delete_all(tenant_id, [Delete(chat_id, requested_by) for chat_id in ids])
        run = _operation(key)
        with claimed(self._database, key, at_most(CLAIM_SECONDS) - RETURN_SECONDS) as claim:
            deletes = [Delete(chat_id, requested_by, operation=run, is_repeated=True) for chat_id in ids]
            earlier = self._deletions.done_before(tenant_id, deletes)
            outcomes = self._delete_all(tenant_id, [delete for delete in deletes if delete not in earlier], claim.renew)
            outcomes.update((delete.chat_id, receipt) for delete, receipt in earlier.items())
            return {chat_id: outcomes[chat_id] for chat_id in ids}

    def _delete_all(
        self, tenant_id: str, left: Sequence[Delete], between: Callable[[], None] = lambda: None
    ) -> Outcomes:
        began = time.monotonic()
        deadline = began + at_most(TOTAL_SECONDS)
        outcomes: Outcomes = {}
        while left and time.monotonic() < deadline:
            group, left = left[:GROUP_CHATS], left[GROUP_CHATS:]
            begun = time.monotonic()
            told = self._deletions.delete_together(tenant_id, group)
            outcomes.update((delete.chat_id, outcome) for delete, outcome in zip(group, told, strict=True))
            self._traffic.add(GROUP_OPERATIONS)
            between()
            if left and begun - began < POLITE_SECONDS and self._traffic.look_for_others():
                time.sleep((time.monotonic() - begun) * POLITE_REST)
        return outcomes | {delete.chat_id: DatabaseUnavailableError() for delete in left}


def _operation(key: IdempotencyKey) -> str:
    """Return the name under which every run of the same request writes its receipts."""
    return sha256(f"{key.tenant_id}/{key.key}/{key.fingerprint}".encode()).hexdigest()
