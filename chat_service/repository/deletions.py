"""The main operation of the service: deleting a chat with all its messages, or moving it to the trash.

What happens to the chat is in lifecycle.py. This module runs the removals: alone or with others in one transaction, and
once for each Idempotency-Key. It also finds the outcome when the reply to a commit was lost.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

from pymongo.errors import DuplicateKeyError

from chat_service.errors import ChatNotFoundError, ChatServiceError, DatabaseUnavailableError, OutcomeUnknownError
from chat_service.models import Deletion, IdempotencyKey, Trashing
from chat_service.repository.database import Database, Work
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key
from chat_service.repository.lifecycle import Lifecycle, Outcome, Removal, trash_outcome
from chat_service.repository.presence import Presence
from chat_service.repository.purges import INLINE_LIMIT, Purges
from chat_service.repository.receipts import KEPT_FIELDS, from_document
from chat_service.repository.together import Bounds, GroupCommit, Unit, run_together
from chat_service.repository.traffic import GROUP_OPERATIONS, Traffic
from chat_service.repository.transaction import BeforeRetry
from chat_service.repository.unit_of_work import UnitOfWork

SETTLE_SECONDS = 2.0
"""For finding out whether a delete whose reply was lost has happened: in addition to the transaction's own time."""

GROUP_CHATS = 8
"""Chats that share a transaction, and the cost of its commit. Measured (benchmarks/bulk.py): 3.8 times as fast as
single deletes of 8 clients. 25 would be 7.9 times as fast, but would delay others before their traffic is noticed."""

POLITE_CHATS = 2
"""The same for a job while others use the database, so that their requests wait no longer behind its transaction."""

DELETES = Bounds(units=GROUP_CHATS)

Removed = Deletion | Trashing
"""What a removal that succeeded returns."""


class Deletions:
    """Deletes chats, and moves them to the trash."""

    def __init__(self, database: Database, inline_limit: int = INLINE_LIMIT) -> None:
        self._database = database
        self._traffic = Traffic(database)
        self._lifecycle = Lifecycle(Presence(database), Purges(database), inline_limit)
        self._group_commit: GroupCommit[Removal, Removed] = GroupCommit(self._commit_group, DELETES, database.tracer)

    def delete(  # noqa: PLR0913 - what to delete, who asks, and the conditions
        self,
        tenant_id: str,
        chat_id: str,
        requested_by: str,
        revisions: Collection[int] | None = None,
        key: IdempotencyKey | None = None,
        *,
        evict: bool = False,
        of_trash: bool = False,
        export_sha256: str | None = None,
        grace: timedelta | None = None,
        governs: bool = False,
    ) -> Deletion:
        """Delete the chat and all its messages in one transaction, if it is at one of `revisions`; return the receipt.

        The chat may be in the trash; with `of_trash` it must be. The receipt stores `export_sha256`. Concurrent deletes
        of a tenant in this process share a transaction (see together.py); a delete with a key has its own. Five
        commands: presence, chat, messages (or the purge of many), receipt, commit.

        Raises:
            ChatNotFoundError: the chat is absent, deleted or another tenant's.
            PreconditionFailedError: the chat is at another revision; nothing was deleted.
            ActiveConnectionsError: the chat has live connections; nothing was deleted.
            IdempotencyKeyReusedError: `key` came with another request before; nothing was deleted.
            DatabaseUnavailableError: nothing was deleted.
            OutcomeUnknownError: the chat is either unchanged or deleted; a retry finds out.
        """
        removal = Removal(
            chat_id,
            requested_by,
            None,
            revisions,
            key,
            evict,
            of_trash=of_trash,
            grace=grace,
            governs=governs,
            export_sha256=export_sha256,
        )
        result = self._run(tenant_id, removal)
        assert isinstance(result, Deletion)  # noqa: S101 - the removal asks for a delete
        return result

    def move_to_trash(  # noqa: PLR0913, PLR0917 - what to move, for how long, who asks, and the conditions
        self,
        tenant_id: str,
        chat_id: str,
        requested_by: str,
        keep: timedelta,
        revisions: Collection[int] | None = None,
        key: IdempotencyKey | None = None,
        *,
        evict: bool = False,
    ) -> Trashing:
        """Move the chat to the trash for the time `keep`; return since when it is there, and until when.

        A chat that is in the trash already stays there unchanged. Four commands: presence, chat, trash, commit.

        Raises:
            As `delete`.
        """
        result = self._run(tenant_id, Removal(chat_id, requested_by, keep, revisions, key, evict))
        assert isinstance(result, Trashing)  # noqa: S101 - the removal asks for a trashing
        return result

    def _run(self, tenant_id: str, removal: Removal) -> Removed:
        unit = Unit[Removal, Removed](removal.chat_id, removal, goes_alone=removal.key is not None)
        return self._group_commit.run(tenant_id, unit)

    def remove_together(self, tenant_id: str, removals: Sequence[Removal]) -> list[Outcome]:
        """Remove chats in one transaction, or one by one after a conflict; return the outcome of each removal."""
        units = [Unit[Removal, Removed](removal.chat_id, removal) for removal in removals]
        return run_together(self._commit_group, tenant_id, units)

    def remove_all(self, tenant_id: str, removals: Sequence[Removal]) -> Iterator[int]:
        """Remove chats for a job in groups, and yield after each group how many of its chats were removed.

        Each group is a transaction of its own. While others use the chats, groups are small, with rests in between.
        """
        left = removals
        while left:
            size = POLITE_CHATS if self._traffic.is_shared else GROUP_CHATS
            group, left = left[:size], left[size:]
            began = time.monotonic()
            outcomes = self.remove_together(tenant_id, group)
            self._traffic.step_aside(began, GROUP_OPERATIONS)
            yield sum(not isinstance(outcome, ChatServiceError) for outcome in outcomes)

    def done_before(self, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Outcome]:
        """Return the outcomes that earlier runs of the removals have left."""
        with self._database.operation():
            return _done_before(self._database.unbound(), tenant_id, removals)

    def _commit_group(
        self, tenant_id: str, removals: Sequence[Removal], before_retry: BeforeRetry
    ) -> Sequence[Outcome]:
        """Run the removals in one transaction, and return the outcome of each."""
        self._database.rules.learn(tenant_id)
        try:
            if len(removals) == 1:
                # mypy does not see which part of the union the transaction raises.
                return [cast("Removed", self._database.transaction(self._alone(tenant_id, removals[0]), before_retry))]
            return self._database.transaction(lambda tx: self._remove(tx, tenant_id, removals), before_retry)
        except OutcomeUnknownError as error:
            return self._outcomes_after(tenant_id, removals, error)
        except DuplicateKeyError:
            if len(removals) > 1:
                raise
            self.delete_again(tenant_id, removals[0].chat_id)
            return [ChatNotFoundError()]

    def _alone(self, tenant_id: str, removal: Removal) -> Work[Removed]:
        """Return the work of a transaction for one removal, which runs once for its Idempotency-Key."""

        def recall(facts: dict[str, Any]) -> Removed:
            if removal.keep is not None:
                return Trashing(removal.chat_id, facts["trashed_at"], facts["purge_at"])
            count = facts["message_count"]
            return Deletion(removal.chat_id, facts["deleted_at"], count, removal.requested_by, 0, count, None)

        def remember(result: Removed) -> dict[str, Any]:
            if isinstance(result, Trashing):
                return {"trashed_at": result.trashed_at, "purge_at": result.purge_at}
            return {"deleted_at": result.deleted_at, "message_count": result.message_count}

        return once(removal.key, lambda tx: self._remove(tx, tenant_id, [removal])[0], remember, recall)

    def _remove(self, tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> list[Outcome]:
        outcomes: dict[Removal, Outcome] = {}
        while left := [removal for removal in removals if removal not in outcomes]:
            # Each pass removes a chat only once: a second removal of the same chat sees the result of the first.
            first = {removal.chat_id: removal for removal in reversed(left)}
            outcomes |= self._lifecycle.take_away(tx, tenant_id, list(first.values()))
        missing = [each for each in removals if each.is_repeated and isinstance(outcomes[each], ChatNotFoundError)]
        outcomes |= _done_before(tx, tenant_id, missing)
        return [outcomes[removal] for removal in removals]

    def _outcomes_after(
        self, tenant_id: str, removals: Sequence[Removal], unknown: OutcomeUnknownError
    ) -> list[Outcome]:
        """Return the outcomes of removals whose commit had no reply, as far as they can be found; else `unknown`."""
        known: dict[Removal, Outcome] = {}
        # A failure here leaves the outcome unknown. It must not be reported as "nothing was changed".
        with suppress(DatabaseUnavailableError), self._database.operation(seconds=SETTLE_SECONDS):
            known = _done_before(self._database.unbound(), tenant_id, removals)
        # A missing result does not prove that nothing will happen: the commit may still be on its way.
        return [known.get(removal, unknown) for removal in removals]

    def delete_again(self, tenant_id: str, chat_id: str) -> None:
        """Delete a chat again that has a receipt, and that a restore of the database has brought back."""
        self._database.transaction(lambda tx: self._lifecycle.delete_again(tx, tenant_id, chat_id))


def _done_before(tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Outcome]:
    """Return the receipts and trashings that these removals, or earlier runs of them, have written."""
    deletes = [removal for removal in removals if removal.stay is None]
    trashings = [removal for removal in removals if removal.stay is not None]
    return {**_own_receipts(tx, tenant_id, deletes), **_own_trashings(tx, tenant_id, trashings)}


def _own_receipts(tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Deletion]:
    if not removals:
        return {}
    keys = [chat_key(tenant_id, removal.chat_id) for removal in removals]
    operations = list({removal.operation for removal in removals})
    receipts = {
        (receipt["_id"]["chat_id"], receipt["operation"]): from_document(receipt)
        for receipt in tx.deletions.find({"_id": {"$in": keys}, "operation": {"$in": operations}})
    }
    own = {removal: receipts.get((removal.chat_id, removal.operation)) for removal in removals}
    return {removal: receipt for removal, receipt in own.items() if receipt is not None}


def _own_trashings(tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Outcome]:
    """Return the trashings of the removals, including those of chats that were restored since."""
    if not removals:
        return {}
    keys = {"_id": {"$in": [chat_key(tenant_id, removal.chat_id) for removal in removals]}}
    operations = {"$in": list({removal.operation for removal in removals})}
    trashed = tx.read("trash", {**keys, "operation": operations}, KEPT_FIELDS)
    restored = tx.read("chats", {**keys, "last_trashing.operation": operations}, {"last_trashing": True})
    trashings = {row["_id"]["chat_id"]: row.get("last_trashing", row) for row in [*restored, *trashed]}
    return {
        removal: trash_outcome(trashings[removal.chat_id], removal)
        for removal in removals
        if removal.chat_id in trashings
    }
