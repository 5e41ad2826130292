"""Deleting many chats: in groups, each one transaction, so that a commit is paid once for many chats.

Every chat is deleted as `Deletions.delete` does it, with the same promises; only the group it shares a commit with is
new. A group is small, so that it holds few documents for a short time, and other tenants' requests get in between;
while there are any, each group is followed by a rest.
"""

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

from pymongo.errors import DuplicateKeyError

from chat_service.errors import (
    ActiveConnectionsError,
    ChatNotFoundError,
    ChatServiceError,
    DatabaseUnavailableError,
    OutcomeUnknownError,
)
from chat_service.models import Deletion, IdempotencyKey
from chat_service.repository.database import Database
from chat_service.repository.deadline import at_most
from chat_service.repository.deletions import (
    CHAT_FIELDS,
    SETTLE_SECONDS,
    Deletions,
    MiscountedError,
    Stamp,
    from_document,
)
from chat_service.repository.idempotency import claimed
from chat_service.repository.keys import chat_key
from chat_service.repository.presence import Presence
from chat_service.repository.traffic import Traffic
from chat_service.repository.unit_of_work import UnitOfWork

GROUP_CHATS = 8
"""Chats that share a transaction, and the cost of its commit. Measured (benchmarks/bulk.py): 3.8 times as fast as
single deletes of 8 clients. 25 would be 7.9 times as fast, and hold others up before they are seen."""

POLITE_REST = 0.5
"""The rest after a group while others use the database, in times of the group: reads of theirs stay within twice their
quiet p99, which without it they do not always."""

POLITE_SECONDS = 4.0
"""For so long a request rests; then it needs what is left of its time for itself."""

GROUP_OPERATIONS = 2
"""What deleting a group is on the collection of chats."""

INLINE_LIMIT = 100
"""Messages up to which a chat's own are removed with it: a group never holds more than 2,500."""

TOTAL_SECONDS = 12.0
"""After this, or when the request's own time is up, no further group is begun."""

CLAIM_SECONDS = 20.0
"""For another run of the same request, which is over by then unless it was cut off."""

RETURN_SECONDS = 0.3
"""Left of a request's time to say that it waited in vain."""

Outcome = Deletion | ChatServiceError
Outcomes = dict[str, Outcome]


class BulkDeletions:
    """Deletes chats in groups."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._presence = Presence(database)
        self._traffic = Traffic(database)
        self._deletions = Deletions(database, INLINE_LIMIT)

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
        if key is None:
            return self._delete_all(tenant_id, chat_ids, requested_by, uuid.uuid4().hex)
        with claimed(self._database, key, at_most(CLAIM_SECONDS) - RETURN_SECONDS):
            return self._continue(tenant_id, chat_ids, requested_by, _operation(key))

    def _continue(self, tenant_id: str, chat_ids: Sequence[str], requested_by: str, operation: str) -> Outcomes:
        with self._database.operation():
            earlier = self._receipts(self._database.unbound(), tenant_id, chat_ids, operation)
        left = [chat_id for chat_id in chat_ids if chat_id not in earlier]
        outcomes = {**earlier, **self._delete_all(tenant_id, left, requested_by, operation)}
        return {chat_id: outcomes[chat_id] for chat_id in chat_ids}

    def _delete_all(self, tenant_id: str, chat_ids: Sequence[str], requested_by: str, operation: str) -> Outcomes:
        began = time.monotonic()
        deadline = began + at_most(TOTAL_SECONDS)
        left = list(dict.fromkeys(chat_ids))
        outcomes: Outcomes = {}
        while left and time.monotonic() < deadline:
            group, left = left[:GROUP_CHATS], left[GROUP_CHATS:]
            begun = time.monotonic()
            outcomes.update(self._delete_group(tenant_id, group, requested_by, operation))
            self._traffic.add(GROUP_OPERATIONS)
            if left and begun - began < POLITE_SECONDS and self._traffic.look_for_others():
                time.sleep((time.monotonic() - begun) * POLITE_REST)
        return {**outcomes, **dict.fromkeys(left, DatabaseUnavailableError())}

    def _delete_group(self, tenant_id: str, group: list[str], requested_by: str, operation: str) -> Outcomes:
        def work(tx: UnitOfWork) -> Outcomes:
            leases = self._presence.count_each(tx, tenant_id, group)
            outcomes: Outcomes = {
                chat_id: ActiveConnectionsError(found.live) for chat_id, found in leases.items() if found.live
            }
            chats = self._remove(tx, tenant_id, [chat_id for chat_id in group if chat_id not in outcomes])
            removed = [chat["_id"]["chat_id"] for chat in chats]
            if any(leases[chat_id].expired for chat_id in removed):
                self._presence.clear(tx, tenant_id, removed)
            if chats:
                receipts = self._deletions.take(tx, tenant_id, chats, Stamp(requested_by, operation))
                outcomes.update((receipt.chat_id, receipt) for receipt in receipts)
            gone = [chat_id for chat_id in group if chat_id not in outcomes]
            outcomes.update(self._earlier(tx, tenant_id, gone, operation, ChatNotFoundError()))
            return {chat_id: outcomes[chat_id] for chat_id in group}

        try:
            return self._database.transaction(work)
        except (MiscountedError, DuplicateKeyError):
            return {chat_id: self._delete_one(tenant_id, chat_id, requested_by, operation) for chat_id in group}
        except DatabaseUnavailableError as error:
            return dict.fromkeys(group, error)
        except OutcomeUnknownError as error:
            # Not to be able to look is not to know, and must not be told as "nothing was changed".
            with suppress(DatabaseUnavailableError), self._database.operation(seconds=SETTLE_SECONDS):
                return self._earlier(self._database.unbound(), tenant_id, group, operation, error)
            return dict.fromkeys(group, error)

    def _remove(self, tx: UnitOfWork, tenant_id: str, chat_ids: list[str]) -> list[dict[str, Any]]:
        """Remove the chat documents that are there, and return what the rest needs of them."""
        keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
        chats = list(tx.chats.find({"_id": {"$in": keys}}, CHAT_FIELDS))
        tx.chats.delete_many({"_id": {"$in": [chat["_id"] for chat in chats]}})
        return chats

    def _earlier(
        self, tx: UnitOfWork, tenant_id: str, chat_ids: Sequence[str], operation: str, otherwise: ChatServiceError
    ) -> Outcomes:
        """Return the receipts that this very operation wrote for the chats before, and `otherwise` for the rest."""
        return {**dict.fromkeys(chat_ids, otherwise), **self._receipts(tx, tenant_id, chat_ids, operation)}

    def _receipts(self, tx: UnitOfWork, tenant_id: str, chat_ids: Sequence[str], operation: str) -> Outcomes:
        if not chat_ids:
            return {}
        keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
        receipts = tx.deletions.find({"_id": {"$in": keys}, "operation": operation})
        return {receipt["_id"]["chat_id"]: from_document(receipt) for receipt in receipts}

    def _delete_one(self, tenant_id: str, chat_id: str, requested_by: str, operation: str) -> Outcome:
        try:
            return self._deletions.delete(tenant_id, chat_id, requested_by, operation=operation)
        except ChatServiceError as error:
            return error


def _operation(key: IdempotencyKey) -> str:
    """Return the name under which every run of the same request writes its receipts."""
    return sha256(f"{key.tenant_id}/{key.key}/{key.fingerprint}".encode()).hexdigest()
