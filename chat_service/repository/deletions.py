"""The operation the service exists for: deleting a chat with all its messages, or moving it to the trash.

What becomes of the chat is in lifecycle.py. Here is how it is asked for: alone or with others that share a transaction,
once for each Idempotency-Key, and what is said when the answer to a commit was lost.
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
from chat_service.repository.lifecycle import Lifecycle, Outcome, Removal, told
from chat_service.repository.presence import Presence
from chat_service.repository.purges import INLINE_LIMIT, Purges
from chat_service.repository.receipts import KEPT_FIELDS, from_document
from chat_service.repository.together import Bounds, GroupCommit, Unit, run_together
from chat_service.repository.traffic import Traffic
from chat_service.repository.transaction import Again
from chat_service.repository.unit_of_work import UnitOfWork

SETTLE_SECONDS = 2.0
"""For the look whether a delete whose answer was lost has happened: it comes after the transaction's whole time."""

GROUP_CHATS = 8
"""Chats that share a transaction, and the cost of its commit. Measured (benchmarks/bulk.py): 3.8 times as fast as
single deletes of 8 clients. 25 would be 7.9 times as fast, and hold others up before they are seen."""

POLITE_CHATS = 2
"""Chats of a job that share a transaction while others use the database, so that none waits for longer behind it."""

DELETES = Bounds(units=GROUP_CHATS)

Done = Deletion | Trashing


class Deletions:
    """Takes chats away."""

    def __init__(self, database: Database, inline_limit: int = INLINE_LIMIT) -> None:
        self._database = database
        self._traffic = Traffic(database)
        self._lifecycle = Lifecycle(Presence(database), Purges(database), inline_limit)
        self._group_commit: GroupCommit[Removal, Done] = GroupCommit(self._carry, DELETES, database.tracer)

    def delete(  # noqa: PLR0913 - what to delete, who asks, and three conditions
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

        It may be in the trash, or with `of_trash` it has to be. The receipt keeps `export_sha256`. Deletes of a tenant
        that meet in this process share a transaction, see together.py; one with a key goes alone. Five commands:
        presence, chat, messages (or the purge of many), receipt, commit.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            PreconditionFailedError: the chat is at another revision; nothing was deleted.
            ActiveConnectionsError: the chat has live connections; nothing was deleted.
            IdempotencyKeyReusedError: `key` came with another request before; nothing was deleted.
            DatabaseUnavailableError: nothing was deleted.
            OutcomeUnknownError: the chat is either whole or gone; a retry finds out.
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
        done = self._run(tenant_id, removal)
        assert isinstance(done, Deletion)  # noqa: S101 - what was asked for
        return done

    def move_to_trash(  # noqa: PLR0913, PLR0917 - what to move, for how long, who asks, and three conditions
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
        """Move the chat to the trash for a while; return since when it is there, and until when.

        If it is there already, it stays as it is. Four commands: presence, chat, trash, commit.

        Raises:
            As `delete`.
        """
        done = self._run(tenant_id, Removal(chat_id, requested_by, keep, revisions, key, evict))
        assert isinstance(done, Trashing)  # noqa: S101 - what was asked for
        return done

    def _run(self, tenant_id: str, removal: Removal) -> Done:
        unit = Unit[Removal, Done](removal.chat_id, removal, goes_alone=removal.key is not None)
        return self._group_commit.run(tenant_id, unit)

    def remove_together(self, tenant_id: str, removals: Sequence[Removal]) -> list[Outcome]:
        """Remove chats in one transaction, or one by one where they meet a conflict; return what became of each."""
        units = [Unit[Removal, Done](removal.chat_id, removal) for removal in removals]
        return run_together(self._carry, tenant_id, units)

    def remove_all(self, tenant_id: str, removals: Sequence[Removal]) -> Iterator[int]:
        """Remove the chats of a job's work in groups, and give after each how many of it there were.

        Each group is a transaction of its own. While others use the chats the groups are small, with rests between.
        """
        left = removals
        while left:
            size = POLITE_CHATS if self._traffic.is_shared else GROUP_CHATS
            group, left = left[:size], left[size:]
            begun = time.monotonic()
            outcomes = self.remove_together(tenant_id, group)
            self._traffic.step_aside(begun)
            yield sum(not isinstance(outcome, ChatServiceError) for outcome in outcomes)

    def done_before(self, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Outcome]:
        """Return what earlier runs of the removals have done."""
        with self._database.operation():
            return _done_before(self._database.unbound(), tenant_id, removals)

    def _carry(self, tenant_id: str, removals: Sequence[Removal], again: Again) -> Sequence[Outcome]:
        """Do what the removals ask in one transaction, and return what became of each."""
        self._database.rules.learn(tenant_id)
        try:
            if len(removals) == 1:
                # mypy does not see which part of the union the transaction raises.
                return [cast("Done", self._database.transaction(self._alone(tenant_id, removals[0]), again))]
            return self._database.transaction(lambda tx: self._remove(tx, tenant_id, removals), again)
        except OutcomeUnknownError as error:
            return self._settle(tenant_id, removals, error)
        except DuplicateKeyError:
            if len(removals) > 1:
                raise
            self.delete_again(tenant_id, removals[0].chat_id)
            return [ChatNotFoundError()]

    def _alone(self, tenant_id: str, removal: Removal) -> Work[Done]:
        def recall(facts: dict[str, Any]) -> Done:
            if removal.keep is not None:
                return Trashing(removal.chat_id, facts["trashed_at"], facts["purge_at"])
            count = facts["message_count"]
            return Deletion(removal.chat_id, facts["deleted_at"], count, removal.requested_by, 0, count, None)

        def remember(done: Done) -> dict[str, Any]:
            if isinstance(done, Trashing):
                return {"trashed_at": done.trashed_at, "purge_at": done.purge_at}
            return {"deleted_at": done.deleted_at, "message_count": done.message_count}

        return once(removal.key, lambda tx: self._remove(tx, tenant_id, [removal])[0], remember, recall)

    def _remove(self, tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> list[Outcome]:
        outcomes: dict[Removal, Outcome] = {}
        while left := [removal for removal in removals if removal not in outcomes]:
            # Each chat once at a time: the second one to ask for it finds what the first has left.
            first = {removal.chat_id: removal for removal in reversed(left)}
            outcomes |= self._lifecycle.take_away(tx, tenant_id, list(first.values()))
        missing = [one for one in removals if one.is_repeated and isinstance(outcomes[one], ChatNotFoundError)]
        outcomes |= _done_before(tx, tenant_id, missing)
        return [outcomes[removal] for removal in removals]

    def _settle(self, tenant_id: str, removals: Sequence[Removal], unknown: OutcomeUnknownError) -> list[Outcome]:
        """Return what the removals have left whose answer was lost, as far as it is there."""
        found: dict[Removal, Outcome] = {}
        # Not to be able to look is not to know, and must not be told as "nothing was changed".
        with suppress(DatabaseUnavailableError), self._database.operation(seconds=SETTLE_SECONDS):
            found = _done_before(self._database.unbound(), tenant_id, removals)
        # That there is none is no proof that it will not happen: the commit may still be on its way.
        return [found.get(removal, unknown) for removal in removals]

    def delete_again(self, tenant_id: str, chat_id: str) -> None:
        """Delete what a restore of the database has brought back beside its receipt."""
        self._database.transaction(lambda tx: self._lifecycle.delete_again(tx, tenant_id, chat_id))


def _done_before(tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Outcome]:
    """Return what the removals, or earlier runs of theirs, have left."""
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
    """Also of chats that were restored since."""
    if not removals:
        return {}
    keys = {"_id": {"$in": [chat_key(tenant_id, removal.chat_id) for removal in removals]}}
    operations = {"$in": list({removal.operation for removal in removals})}
    kept = tx.read("trash", {**keys, "operation": operations}, KEPT_FIELDS)
    restored = tx.read("chats", {**keys, "last_trashing.operation": operations}, {"last_trashing": True})
    found = {one["_id"]["chat_id"]: one.get("last_trashing", one) for one in [*restored, *kept]}
    return {removal: told(found[removal.chat_id], removal) for removal in removals if removal.chat_id in found}
