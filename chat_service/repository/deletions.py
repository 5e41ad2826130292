"""The operation the service exists for: deleting a chat with all its messages.

What this module keeps, in every interleaving with posts, connections, creates and other deletes:

1. A 200 means gone. From that commit on neither the chat nor any message of it can be read, and none appears again.
2. Any other outcome means that nothing changed, also after a crash at any point.
3. Of any number of concurrent deletes exactly one succeeds: the chat document can be removed once.
4. Posting and connecting write the chat document in their own transaction. A transaction that only *read* it could
   commit beside a delete (write skew under snapshot isolation) and leave orphans.
5. A deleted id never comes back: the receipt is its tombstone, written in the delete's own transaction, and creating
   a chat under it is refused.
6. Above the inline limit the messages stay for a purge, which the same transaction opens. Nobody can reach them: every
   way to a message asks for its chat. So a delete costs the same for ten messages and for ten million.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import BulkWriteError, DuplicateKeyError

from chat_service.errors import (
    ActiveConnectionsError,
    ChatNotFoundError,
    ChatServiceError,
    DatabaseUnavailableError,
    OutcomeUnknownError,
    PreconditionFailedError,
)
from chat_service.models import MAX_SEQ, Deletion, IdempotencyKey
from chat_service.repository.chats import at_revision
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key, own_messages
from chat_service.repository.presence import Presence
from chat_service.repository.purges import INLINE_LIMIT, Purges
from chat_service.repository.receipts import from_document, to_document
from chat_service.repository.together import Bounds, GroupCommit, Unit, run_together
from chat_service.repository.transaction import Again
from chat_service.repository.unit_of_work import UnitOfWork

SETTLE_SECONDS = 2.0
"""For the look whether a delete whose answer was lost has happened: it comes after the transaction's whole time."""

GROUP_CHATS = 8
"""Chats that share a transaction, and the cost of its commit. Measured (benchmarks/bulk.py): 3.8 times as fast as
single deletes of 8 clients. 25 would be 7.9 times as fast, and hold others up before they are seen."""

SHARED_INLINE_LIMIT = 100
"""Messages up to which a chat's own are removed with it in a shared transaction, which never holds more than 800."""

DELETES = Bounds(units=GROUP_CHATS)

_DUPLICATE = 11000

CHAT_FIELDS = {"_id": True, "message_count": True, "first_seq": True, "open_purges": True, "revision": True}

Chat = dict[str, Any]
Outcome = Deletion | ChatServiceError


@dataclass(frozen=True, slots=True, eq=False)
class Delete:
    """What one caller asks for: to delete a chat, on these conditions."""

    chat_id: str
    requested_by: str
    revisions: Collection[int] | None = None
    """At which the chat has to be."""
    key: IdempotencyKey | None = None
    evict: bool = False
    """Live connections do not refuse it: their leases go with the chat, and whoever holds the sockets closes them."""
    operation: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Names the run in the receipt, so that it knows its own again when its answer was lost."""
    is_repeated: bool = False
    """What an earlier run of the same operation has deleted counts as deleted, with the time of that."""


class Deletions:
    """Deletes chats."""

    def __init__(self, database: Database, inline_limit: int = INLINE_LIMIT) -> None:
        self._database = database
        self._presence = Presence(database)
        self._purges = Purges(database)
        self._inline_limit = inline_limit
        self._group_commit = GroupCommit(self._carry, DELETES)

    def delete(  # noqa: PLR0913 - what to delete, who asks, and three conditions
        self,
        tenant_id: str,
        chat_id: str,
        requested_by: str,
        revisions: Collection[int] | None = None,
        key: IdempotencyKey | None = None,
        *,
        evict: bool = False,
    ) -> Deletion:
        """Delete the chat and all its messages in one transaction, if it is at one of `revisions`; return the receipt.

        Deletes of a tenant that meet in this process share a transaction, see together.py; one with a key goes alone.
        Five commands: presence, chat, messages (or the purge of many), receipt, commit.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            ActiveConnectionsError: the chat has live connections; nothing was deleted.
            PreconditionFailedError: the chat is at another revision; nothing was deleted.
            IdempotencyKeyReusedError: `key` came with another request before; nothing was deleted.
            DatabaseUnavailableError: nothing was deleted.
            OutcomeUnknownError: the chat is either whole or gone; a retry finds out.
        """
        delete = Delete(chat_id, requested_by, revisions, key, evict)
        unit = Unit[Delete, Deletion](chat_id, delete, goes_alone=key is not None)
        return self._group_commit.run(tenant_id, unit)

    def delete_together(self, tenant_id: str, deletes: Sequence[Delete]) -> list[Outcome]:
        """Delete chats in one transaction, or one by one where they meet a conflict; return what became of each."""
        units = [Unit[Delete, Deletion](delete.chat_id, delete) for delete in deletes]
        return run_together(self._carry, tenant_id, units)

    def done_before(self, tenant_id: str, deletes: Sequence[Delete]) -> dict[Delete, Deletion]:
        """Return the receipts that earlier runs of the deletes have written."""
        with self._database.operation():
            return _own_receipts(self._database.unbound(), tenant_id, deletes)

    def _carry(self, tenant_id: str, deletes: Sequence[Delete], again: Again) -> Sequence[Outcome]:
        """Do what the deletes ask in one transaction, and return what became of each."""
        try:
            if len(deletes) == 1:
                return [self._database.transaction(self._alone(tenant_id, deletes[0]), again)]
            return self._database.transaction(lambda tx: self._delete(tx, tenant_id, deletes), again)
        except OutcomeUnknownError as error:
            return self._settle(tenant_id, deletes, error)
        except DuplicateKeyError:
            if len(deletes) > 1:
                raise
            self.finish(tenant_id, deletes[0].chat_id)
            return [ChatNotFoundError()]

    def _alone(self, tenant_id: str, delete: Delete) -> Callable[[UnitOfWork], Outcome]:
        def recall(facts: dict[str, Any]) -> Deletion:
            count = facts["message_count"]
            return Deletion(delete.chat_id, facts["deleted_at"], count, delete.requested_by, 0, None)

        def remember(done: Deletion) -> dict[str, Any]:
            return {"deleted_at": done.deleted_at, "message_count": done.message_count}

        return once(delete.key, lambda tx: self._delete(tx, tenant_id, [delete])[0], remember, recall)

    def _delete(self, tx: UnitOfWork, tenant_id: str, deletes: Sequence[Delete]) -> list[Outcome]:
        leases = self._presence.count_each(tx, tenant_id, [delete.chat_id for delete in deletes])
        outcomes: dict[Delete, Outcome] = {
            delete: ActiveConnectionsError(leases[delete.chat_id].live)
            for delete in deletes
            if leases[delete.chat_id].live and not delete.evict
        }
        removed: dict[Delete, Chat] = {}
        for delete, chat in self._remove(tx, tenant_id, [one for one in deletes if one not in outcomes]).items():
            if isinstance(chat, ChatServiceError):
                outcomes[delete] = chat
            else:
                removed[delete] = chat
        held = [delete.chat_id for delete in removed if any(leases[delete.chat_id])]
        if held:
            # Taken along, so that a renewal that is under way conflicts with this delete or finds nothing.
            self._presence.clear(tx, tenant_id, held)
        if removed:
            outcomes |= self._take(tx, tenant_id, removed)
        gone = [one for one in deletes if one.is_repeated and isinstance(outcomes[one], ChatNotFoundError)]
        outcomes |= _own_receipts(tx, tenant_id, gone)
        return [outcomes[delete] for delete in deletes]

    def _remove(
        self, tx: UnitOfWork, tenant_id: str, deletes: Sequence[Delete]
    ) -> dict[Delete, Chat | ChatServiceError]:
        """Remove the chat documents, and return what the rest needs of each, or why it cannot be removed."""
        if not deletes:
            return {}
        if len(deletes) == 1:
            return {deletes[0]: self._remove_one(tx, tenant_id, deletes[0])}
        keys = [chat_key(tenant_id, delete.chat_id) for delete in deletes]
        chats = {chat["_id"]["chat_id"]: chat for chat in tx.read("chats", {"_id": {"$in": keys}}, CHAT_FIELDS)}
        verdicts: dict[Delete, Chat | ChatServiceError] = {}
        removed = []
        for delete in deletes:
            chat = chats.get(delete.chat_id)
            if chat is None:
                verdicts[delete] = ChatNotFoundError()
            elif delete.revisions is not None and chat["revision"] not in delete.revisions:
                verdicts[delete] = PreconditionFailedError()
            else:
                verdicts[delete] = chats.pop(delete.chat_id)  # for a second delete of it, it is gone
                removed.append(chat["_id"])
        tx.chats.delete_many({"_id": {"$in": removed}})
        return verdicts

    def _remove_one(self, tx: UnitOfWork, tenant_id: str, delete: Delete) -> Chat | ChatServiceError:
        """Do the same for a single one, with one command less."""
        key = {"_id": chat_key(tenant_id, delete.chat_id)}
        seen = {**key, **at_revision(delete.revisions)}
        chat = tx.chats.find_one_and_delete(seen, projection=CHAT_FIELDS)
        if chat is not None:
            return chat
        if delete.revisions is not None and tx.chats.find_one(key, {"_id": True}):
            return PreconditionFailedError()
        return ChatNotFoundError()

    def _take(self, tx: UnitOfWork, tenant_id: str, removed: Mapping[Delete, Chat]) -> dict[Delete, Deletion]:
        """Take the messages of chats whose documents were just removed, write the receipts, and return them.

        Raises:
            MiscountedError: several chats together do not have as many messages as they say.
            DuplicateKeyError: one of them has a receipt, from before the database was restored; see `finish`.
        """
        limit = self._inline_limit if len(removed) == 1 else min(self._inline_limit, SHARED_INLINE_LIMIT)
        at_once = [chat for chat in removed.values() if chat["message_count"] <= limit and not chat.get("open_purges")]
        if at_once:
            _remove_messages(tx, at_once)
        receipts = {
            delete: _receipt(tx, chat, delete) if chat in at_once else self._staged(tx, tenant_id, chat, delete)
            for delete, chat in removed.items()
        }
        documents = [to_document(tenant_id, receipt, delete.operation) for delete, receipt in receipts.items()]
        try:
            tx.command({"insert": "deletions", "documents": documents})
        except BulkWriteError as error:
            if all(failure["code"] == _DUPLICATE for failure in error.details["writeErrors"]):
                raise DuplicateKeyError("A chat lies beside its receipt.") from error
            raise
        return receipts

    def _staged(self, tx: UnitOfWork, tenant_id: str, chat: Chat, delete: Delete) -> Deletion:
        """Open a purge of the chat's messages, and return the receipt."""
        # What emptying the chat has left on the disk is still there: it is counted, and goes on being removed.
        emptied = self._purges.take_over(tx, tenant_id, delete.chat_id) if chat.get("open_purges") else []
        first = min(chat["first_seq"], *(purge["_id"]["seq"] for purge in emptied), MAX_SEQ)
        count = chat["message_count"] + sum(purge["messages"] for purge in emptied)
        purged = sum(purge["purged"] for purge in emptied)
        self._purges.open(tx, tenant_id, delete.chat_id, (first, MAX_SEQ), count, of_deletion=True, purged=purged)
        return Deletion(delete.chat_id, tx.now, count, delete.requested_by, purged, completed_at=None)

    def _settle(self, tenant_id: str, deletes: Sequence[Delete], unknown: OutcomeUnknownError) -> list[Outcome]:
        """Return the receipts of deletes whose answer was lost, as far as they are there."""
        found: dict[Delete, Deletion] = {}
        # Not to be able to look is not to know, and must not be told as "nothing was changed".
        with suppress(DatabaseUnavailableError), self._database.operation(seconds=SETTLE_SECONDS):
            found = _own_receipts(self._database.unbound(), tenant_id, deletes)
        # That there is none is no proof that it will not happen: the commit may still be on its way.
        return [found.get(delete, unknown) for delete in deletes]

    def finish(self, tenant_id: str, chat_id: str) -> None:
        """Delete once more what a restore has brought back beside its receipt: it was deleted, and that stands.

        The receipt keeps its time, and counts what is removed now too.
        """
        key = {"_id": chat_key(tenant_id, chat_id)}

        def work(tx: UnitOfWork) -> None:
            receipt = tx.deletions.find_one(key)
            chat = None if receipt is None else tx.chats.find_one_and_delete(key, projection=CHAT_FIELDS)
            if receipt is None or chat is None:
                return
            self._presence.clear(tx, tenant_id, [chat_id])
            earlier = self._purges.take_over(tx, tenant_id, chat_id)
            count = chat["message_count"] + sum(purge["messages"] - purge["purged"] for purge in earlier)
            messages = receipt["message_count"] + count
            everything = (0, MAX_SEQ)
            self._purges.open(
                tx, tenant_id, chat_id, everything, messages, of_deletion=True, purged=receipt["message_count"]
            )
            tx.deletions.update_one(key, {"$set": {"message_count": messages, "completed_at": None}})

        self._database.transaction(work)


class MiscountedError(Exception):
    """Chats deleted together had other numbers of messages than they say; nothing was deleted."""


def _own_receipts(tx: UnitOfWork, tenant_id: str, deletes: Sequence[Delete]) -> dict[Delete, Deletion]:
    """Return the receipts that the deletes, or earlier runs of theirs, have written."""
    if not deletes:
        return {}
    keys = [chat_key(tenant_id, delete.chat_id) for delete in deletes]
    operations = list({delete.operation for delete in deletes})
    receipts = {
        (receipt["_id"]["chat_id"], receipt["operation"]): from_document(receipt)
        for receipt in tx.deletions.find({"_id": {"$in": keys}, "operation": {"$in": operations}})
    }
    own = {delete: receipts.get((delete.chat_id, delete.operation)) for delete in deletes}
    return {delete: receipt for delete, receipt in own.items() if receipt is not None}


def _remove_messages(tx: UnitOfWork, chats: Sequence[Chat]) -> None:
    """Remove the messages of the chats with one command, and see that the counts in the documents are true."""
    deletes = [{"q": {"_id": own_messages(chat)}, "limit": 0} for chat in chats]
    removed = int(tx.command({"delete": "messages", "deletes": deletes})["n"])
    if len(chats) == 1:
        chats[0]["message_count"] = removed
    elif removed != sum(chat["message_count"] for chat in chats):
        raise MiscountedError


def _receipt(tx: UnitOfWork, chat: Chat, delete: Delete) -> Deletion:
    count = chat["message_count"]
    return Deletion(delete.chat_id, tx.now, count, delete.requested_by, purged=count, completed_at=tx.now)
