"""Deletes, trashes or restores many chats at once: in groups, each of which is one transaction with one commit.

Every chat is treated as by a request of its own, with the same promises; only the shared commit is new. A group is
small: it locks few documents for a short time, so that requests of other tenants get in between. While others use the
database, each group is followed by a rest.
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
from chat_service.repository.traffic import GROUP_OPERATIONS, REQUEST_REST, Traffic
from chat_service.repository.trash import Trash

POLITE_SECONDS = 4.0
"""A request that has run for this long rests no more: it needs the rest of its time for its own work."""

TOTAL_SECONDS = 12.0
"""After this time, or at the request's own deadline if that is sooner, no further group is begun."""

CLAIM_SECONDS = 20.0
"""How long to wait for another run of the same request, which is over by then unless it was cut off."""

RETURN_SECONDS = 0.3
"""Kept of the request's time to answer that the wait was in vain."""

Result = TypeVar("Result")

DoneBefore = Callable[[Sequence[str], str], Mapping[str, Result]]
"""Returns what earlier runs of the operation with this name did to the chats."""

AfterGroup = Callable[[], None]

RunGroup = Callable[[Sequence[str], str], Sequence[Result]]
"""Runs the operation with this name on the chats of a group, and returns the outcome for each."""


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
        """Delete the chats, or move them to the trash for the time `keep`; return the outcome for each chat.

        With `grace`, a key with the scope `govern` can undo the delete for that long.

        With `key`, a repeated request continues the same operation. Chats that it has removed count as removed, with
        the time of their removal. All others are tried again, so that the answer is true at the time it is given. Of
        two runs at once one works, and the other waits for it.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before; nothing was done.
            RequestInProgressError: another run is still at work after the wait for it.
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

        def run_group(ids: Sequence[str], operation: str) -> Sequence[Outcome]:
            return self._deletions.remove_together(tenant_id, removals(ids, operation))

        return self._run(chat_ids, key, done_before, run_group)

    def restore(
        self,
        tenant_id: str,
        chat_ids: Sequence[str],
        requested_by: str,
        key: IdempotencyKey | None = None,
        *,
        governs: bool = False,
    ) -> dict[str, Chat | ChatServiceError]:
        """Restore the chats from the trash, and return the outcome for each. `key` works as for `remove`.

        Raises:
            As `remove`.
        """
        run_group = partial(self._trash.restore_together, tenant_id, requested_by, governs=governs)
        return self._run(chat_ids, key, partial(self._trash.restored_before, tenant_id), run_group)

    def _run(
        self,
        chat_ids: Sequence[str],
        key: IdempotencyKey | None,
        done_before: DoneBefore[Result],
        run_group: RunGroup[Result],
    ) -> dict[str, Result | ChatServiceError]:
        ids = list(dict.fromkeys(chat_ids))
        if key is None:
            return self._in_groups(ids, uuid.uuid4().hex, run_group)
        operation = _operation(key)
        with claimed(self._database, key, at_most(CLAIM_SECONDS) - RETURN_SECONDS) as claim:
            earlier = done_before(ids, operation)
            left = [chat_id for chat_id in ids if chat_id not in earlier]
            outcomes = {**self._in_groups(left, operation, run_group, claim.renew), **earlier}
            return {chat_id: outcomes[chat_id] for chat_id in ids}

    def _in_groups(
        self,
        left: Sequence[str],
        operation: str,
        run_group: RunGroup[Result],
        after_group: AfterGroup = lambda: None,
    ) -> dict[str, Result | ChatServiceError]:
        began = time.monotonic()
        deadline = began + at_most(TOTAL_SECONDS)
        outcomes: dict[str, Result | ChatServiceError] = {}
        while left and time.monotonic() < deadline:
            group, left = left[:GROUP_CHATS], left[GROUP_CHATS:]
            group_began = time.monotonic()
            outcomes.update(zip(group, run_group(group, operation), strict=True))
            after_group()
            if left and group_began - began < POLITE_SECONDS:
                self._traffic.step_aside(group_began, GROUP_OPERATIONS, REQUEST_REST)
        return {**outcomes, **{chat_id: DatabaseUnavailableError() for chat_id in left}}


def _operation(key: IdempotencyKey) -> str:
    """Return the name of the operation, which is the same for every run of the same request."""
    return sha256(f"{key.tenant_id}/{key.key}/{key.fingerprint}".encode()).hexdigest()
