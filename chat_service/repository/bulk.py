"""Many chats at once, deleted, trashed or restored: in groups, each one transaction, so that they share its commit.

To every chat the same is done as by a request of its own, with the same promises; only the group it shares a commit
with is new. A group is small, so that it holds few documents for a short time, and other tenants' requests get in
between; while there are any, each group is followed by a rest.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import TypeVar

from chat_service.errors import ChatServiceError, DatabaseUnavailableError
from chat_service.models import Chat, IdempotencyKey
from chat_service.repository.database import Database
from chat_service.repository.deadline import at_most
from chat_service.repository.deletions import GROUP_CHATS, Deletions
from chat_service.repository.idempotency import claimed
from chat_service.repository.lifecycle import Outcome, Removal
from chat_service.repository.traffic import GROUP_OPERATIONS, Traffic
from chat_service.repository.trash import Trash

POLITE_REST = 0.5
"""The rest after a group while others use the database, in times of the group: reads of theirs stay within twice their
quiet p99, which without it they do not always."""

POLITE_SECONDS = 4.0
"""For so long a request rests; then it needs what is left of its time for itself."""

TOTAL_SECONDS = 12.0
"""After this, or when the request's own time is up, no further group is begun."""

CLAIM_SECONDS = 20.0
"""For another run of the same request, which is over by then unless it was cut off."""

RETURN_SECONDS = 0.3
"""Left of a request's time to say that it waited in vain."""

Result = TypeVar("Result")

DoneBefore = Callable[[Sequence[str], str], Mapping[str, Result]]
"""Returns what earlier runs of an operation of this name have done to the chats."""

Between = Callable[[], None]

Carry = Callable[[Sequence[str], str], Sequence[Result]]
"""Does it to the chats of a group under the name of an operation, and returns what became of each."""


class Bulk:
    """Operations on many chats."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._database = database
        self._deletions = deletions
        self._trash = Trash(database)
        self._traffic = Traffic(database)

    def remove(  # noqa: PLR0913, PLR0917 - which chats, who asks, and what for
        self,
        tenant_id: str,
        chat_ids: Sequence[str],
        requested_by: str,
        key: IdempotencyKey | None = None,
        keep: timedelta | None = None,
        grace: timedelta | None = None,
    ) -> dict[str, Outcome]:
        """Delete the chats, or `keep` them in the trash for so long; return what became of each, or why it stayed.

        With `grace` they are deleted such that a key that governs can take it back.

        With `key`, a repetition is the same operation continued: what it has removed counts as removed, with the time
        of that; all else is tried again, so that what is answered is true when it is. Of two runs at once one works,
        and the other waits for it.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before; nothing was done.
            RequestInProgressError: another run is still at work, and was waited for in vain.
        """

        def removals(ids: Sequence[str], operation: str) -> list[Removal]:
            is_repeated = key is not None
            return [
                Removal(chat_id, requested_by, keep, grace=grace, operation=operation, is_repeated=is_repeated)
                for chat_id in ids
            ]

        def done_before(ids: Sequence[str], operation: str) -> dict[str, Outcome]:
            done = self._deletions.done_before(tenant_id, removals(ids, operation))
            return {removal.chat_id: outcome for removal, outcome in done.items()}

        def carry(ids: Sequence[str], operation: str) -> Sequence[Outcome]:
            return self._deletions.remove_together(tenant_id, removals(ids, operation))

        return self._run(chat_ids, key, done_before, carry)

    def restore(
        self,
        tenant_id: str,
        chat_ids: Sequence[str],
        requested_by: str,
        key: IdempotencyKey | None = None,
        *,
        governs: bool = False,
    ) -> dict[str, Chat | ChatServiceError]:
        """Make the chats of the trash live again, and return what became of each. With `key` as `remove`.

        Raises:
            As `remove`.
        """
        carry = partial(self._trash.restore_together, tenant_id, requested_by, governs=governs)
        return self._run(chat_ids, key, partial(self._trash.restored_before, tenant_id), carry)

    def _run(
        self,
        chat_ids: Sequence[str],
        key: IdempotencyKey | None,
        done_before: DoneBefore[Result],
        carry: Carry[Result],
    ) -> dict[str, Result | ChatServiceError]:
        ids = list(dict.fromkeys(chat_ids))
        if key is None:
            return self._in_groups(ids, uuid.uuid4().hex, carry)
        operation = _operation(key)
        with claimed(self._database, key, at_most(CLAIM_SECONDS) - RETURN_SECONDS) as claim:
            earlier = done_before(ids, operation)
            left = [chat_id for chat_id in ids if chat_id not in earlier]
            outcomes = {**self._in_groups(left, operation, carry, claim.renew), **earlier}
            return {chat_id: outcomes[chat_id] for chat_id in ids}

    def _in_groups(
        self, left: Sequence[str], operation: str, carry: Carry[Result], between: Between = lambda: None
    ) -> dict[str, Result | ChatServiceError]:
        began = time.monotonic()
        deadline = began + at_most(TOTAL_SECONDS)
        outcomes: dict[str, Result | ChatServiceError] = {}
        while left and time.monotonic() < deadline:
            group, left = left[:GROUP_CHATS], left[GROUP_CHATS:]
            begun = time.monotonic()
            outcomes.update(zip(group, carry(group, operation), strict=True))
            self._traffic.add(GROUP_OPERATIONS)
            between()
            if left and begun - began < POLITE_SECONDS and self._traffic.look_for_others():
                time.sleep((time.monotonic() - begun) * POLITE_REST)
        return {**outcomes, **{chat_id: DatabaseUnavailableError() for chat_id in left}}


def _operation(key: IdempotencyKey) -> str:
    """Return the name under which every run of the same request does what it does."""
    return sha256(f"{key.tenant_id}/{key.key}/{key.fingerprint}".encode()).hexdigest()
