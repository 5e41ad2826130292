"""The life cycle of a chat id within a tenant, and the only code that deletes a chat or moves it to the trash.

    absent ──create, import──▶ live ──trash──▶ trashed ──restore──▶ live
                                 │                │
                                 └──── delete ────┴──▶ deleted: the receipt is its tombstone, for ever

Each arrow runs in its caller's transaction, for several chats at once. To trash a chat moves its document to another
collection. Everything that reads a message looks up its chat first. So no query can forget to filter out trashed chats,
and one write hides a chat of any size.

Invariants, in every interleaving with posts, connections, creates, deletes and restores:

1. A delete that was answered with 200 is final. From its commit on nobody can read the chat or any of its messages, and
   none of them appears again.
2. Any other outcome means that nothing changed, even after a crash at any point.
3. Of any number of concurrent deletes, trashings and restores of a chat exactly one succeeds, because its document can
   be removed only once from where it is.
4. Posting and connecting write the chat document in their own transaction. If a transaction only *read* it, it could
   commit beside a delete (write skew under snapshot isolation) and leave orphaned messages or leases.
5. A deleted id never comes back: the delete's own transaction writes the receipt, and creating a chat under its id is
   refused. So is creating one under the id of a chat in the trash.
6. A held chat is not destroyed. The hold is a field of the chat's document, so placing a hold and removing the document
   conflict. A held chat may be moved to the trash and back; its hold moves with it.
7. Above the inline limit the messages stay for a purge, which the same transaction opens. So a delete costs the same
   for ten messages and for ten million. The cost of trashing and restoring never depends on the number of messages.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pymongo.errors import BulkWriteError, DuplicateKeyError

from chat_service.errors import (
    ActiveConnectionsError,
    ChatNotFoundError,
    ChatServiceError,
    NotInTrashError,
    PreconditionFailedError,
)
from chat_service.models import MAX_SEQ, Deletion, Event, IdempotencyKey, Kind, Trashing
from chat_service.repository.chats import at_revision
from chat_service.repository.keys import chat_key, has_expired, unexpired
from chat_service.repository.presence import LeaseCount, Presence
from chat_service.repository.protection import UNHELD, log_refusals, on_everything, refusal, refusals
from chat_service.repository.purges import Purges, remove_inline
from chat_service.repository.receipts import receipt_in_grace, to_document
from chat_service.repository.unit_of_work import UnitOfWork

SHARED_INLINE_LIMIT = 100
"""Up to this many messages of a chat are removed inline in a shared transaction: 800 in all, at most."""

_DUPLICATE = 11000

CHAT_FIELDS = dict.fromkeys(("_id", "message_count", "first_seq", "open_purges", "revision"), True)
"""The fields of a chat that deleting it needs."""

Chat = dict[str, Any]
Verdict = Chat | Deletion | Trashing | ChatServiceError
"""The document of a chat that was removed; or an outcome, if it was not."""

Outcome = Deletion | Trashing | ChatServiceError


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """One caller's request to delete a chat, or to move it to the trash, and its conditions."""

    chat_id: str
    requested_by: str
    keep: timedelta | None = None
    """How long the chat stays in the trash; None deletes it, even if it is in the trash."""
    revisions: Collection[int] | None = None
    """The chat must be at one of these revisions; None allows any."""
    key: IdempotencyKey | None = None
    evict: bool = False
    """Remove the chat despite live connections: their leases go with it, and their workers close the sockets."""
    operation: str = field(default_factory=lambda: uuid.uuid4().hex)
    """The id of this run, kept in what it writes: so it recognises its own work if the commit's answer was lost."""
    is_repeated: bool = False
    """If an earlier run of the same operation has removed the chat, that is the outcome, with the time of that run."""
    of_trash: bool = False
    """Remove the chat only if it is in the trash."""
    export_sha256: str | None = None
    """The digest of an export taken before, for the receipt."""
    grace: timedelta | None = None
    """How long a deleted chat stays in the trash: answered as deleted, and seen only by keys that govern."""
    governs: bool = False
    """Find the chat even if it was deleted in grace."""
    is_due: bool = False
    """Remove the chat only if it has expired, live or in the trash: nothing but the expiry finds it any more."""

    @property
    def stay(self) -> timedelta | None:
        """How long the chat stays in the trash, openly or in grace; None if not at all."""
        return self.keep or self.grace

    @property
    def destroys(self) -> bool:
        """Whether the answer says that the chat is gone, which a hold refuses: also that to a delete in grace."""
        return self.keep is None


class Lifecycle:
    """Moves chats from one state to the next."""

    def __init__(self, presence: Presence, purges: Purges, inline_limit: int) -> None:
        self._presence = presence
        self._purges = purges
        self._inline_limit = inline_limit

    def take_away(self, tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Outcome]:
        """Delete chats, or move them to the trash; return the outcome of each. No chat may be in `removals` twice.

        The first of these refuses a removal: the chat does not exist, is at another revision, is held, has live
        connections. A chat that is to be moved to the trash and is there already stays as it is. A refusal by a hold
        is written to the log.

        Raises:
            MiscountedError: several chats together do not have as many messages as their documents say.
            DuplicateKeyError: a chat has a receipt already, from before the database was restored.
        """
        leases = self._presence.count_each(tx, tenant_id, [removal.chat_id for removal in removals])
        verdicts = _refused_for_connections(tx, tenant_id, removals, leases)
        verdicts |= _remove(tx, tenant_id, [removal for removal in removals if removal not in verdicts])
        removed = {removal: chat for removal, chat in verdicts.items() if isinstance(chat, dict)}
        leased = [removal.chat_id for removal in removed if any(leases[removal.chat_id])]
        if leased:
            # In this transaction, so that a concurrent renewal conflicts with it or finds no lease.
            self._presence.clear(tx, tenant_id, leased)
        outcomes = {removal: verdict for removal, verdict in verdicts.items() if not isinstance(verdict, dict)}
        to_trash = {removal: chat for removal, chat in removed.items() if removal.stay is not None}
        outcomes |= _put_in_trash(tx, tenant_id, to_trash)
        to_destroy = {removal: chat for removal, chat in removed.items() if removal.stay is None}
        outcomes |= self._destroy(tx, tenant_id, to_destroy)
        requests = [(removal.chat_id, removal.requested_by, outcome) for removal, outcome in outcomes.items()]
        log_refusals(tx, tenant_id, requests)
        return outcomes

    def _destroy(self, tx: UnitOfWork, tenant_id: str, removed: Mapping[Removal, Chat]) -> dict[Removal, Outcome]:
        """Remove the messages of chats whose documents were just removed; write and return the receipts."""
        if not removed:
            return {}
        limit = self._inline_limit if len(removed) == 1 else min(self._inline_limit, SHARED_INLINE_LIMIT)
        inline = [chat for chat in removed.values() if chat["message_count"] <= limit and not chat.get("open_purges")]
        if inline:
            remove_inline(tx, inline)
        receipts = {
            removal: _inline_receipt(tx, chat, removal) if chat in inline else self._stage(tx, tenant_id, chat, removal)
            for removal, chat in removed.items()
        }
        documents = [to_document(tenant_id, receipt, removal.operation) for removal, receipt in receipts.items()]
        try:
            tx.command({"insert": "deletions", "documents": documents})
        except BulkWriteError as error:
            if all(failure["code"] == _DUPLICATE for failure in error.details["writeErrors"]):
                raise DuplicateKeyError("A chat lies beside its receipt.") from error
            raise
        # Chats that were deleted in grace: their messages are removed later than `deleted_at` says.
        completed_later = [
            receipt for receipt in receipts.values() if receipt.completed_at not in {None, receipt.deleted_at}
        ]
        if completed_later:
            self._purges.complete(tx, tenant_id, completed_later)
        return {**receipts}

    def _stage(self, tx: UnitOfWork, tenant_id: str, chat: Chat, removal: Removal) -> Deletion:
        """Open a purge of the chat's messages, and return the receipt."""
        # Messages that an emptying of the chat has left on the disk are still there: count them, and remove them too.
        emptied = self._purges.take_over(tx, tenant_id, removal.chat_id) if chat.get("open_purges") else []
        first = min(chat["first_seq"], *(purge["_id"]["seq"] for purge in emptied), MAX_SEQ)
        count = chat["message_count"] + sum(purge["messages"] for purge in emptied)
        purged = sum(purge["purged"] for purge in emptied)
        self._purges.open(tx, tenant_id, removal.chat_id, (first, MAX_SEQ), count, of_deletion=True, purged=purged)
        return _receipt(tx, chat, removal, count, purged, None)

    def delete_again(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> None:
        """Delete a chat that exists beside its receipt, because a restore of the database has brought it back.

        A held chat stays until its hold is released. The receipt stays as it is. The completion will also count the
        messages that are removed now.
        """
        key = {"_id": chat_key(tenant_id, chat_id)}
        receipt = tx.deletions.find_one(key)
        if receipt is None:
            return
        trashed = tx.trash.find_one(key)
        chat = tx.chats.find_one(key) or (trashed and trashed["chat"])
        if chat is None or refusal(tx, tenant_id, chat_id, chat):
            return
        tx.chats.delete_one(key)
        tx.trash.delete_one(key)
        self._presence.clear(tx, tenant_id, [chat_id])
        earlier = self._purges.take_over(tx, tenant_id, chat_id)
        count = chat["message_count"] + sum(purge["messages"] - purge["purged"] for purge in earlier)
        purged = receipt["message_count"]
        everything = (0, MAX_SEQ)
        self._purges.open(tx, tenant_id, chat_id, everything, purged + count, of_deletion=True, purged=purged)


def restore(  # noqa: PLR0913 - which chats, and who asks
    tx: UnitOfWork, tenant_id: str, chat_ids: Sequence[str], requested_by: str, operation: str, *, governs: bool
) -> dict[str, Chat | NotInTrashError]:
    """Make trashed chats live again; return the document of each, or NotInTrashError if it was not in the trash.

    The chat is as it was, except for its revision: that has grown, so that no earlier ETag matches any more. The
    document keeps `operation`, the id of this run.
    """
    keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
    documents = tx.read("trash", {"_id": {"$in": keys}, "purge_at": {"$gt": tx.now}, **visible(governs=governs)}, {})
    restoration = {"operation": operation, "at": tx.now}
    chats = {
        trashed["_id"]["chat_id"]: {**chat_from_trash(trashed), "restoration": restoration} for trashed in documents
    }
    if chats:
        tx.trash.delete_many({"_id": {"$in": [chat["_id"] for chat in chats.values()]}})
        tx.chats.insert_many(list(chats.values()))
        tx.log(tenant_id, *(_restored_event(chat, requested_by) for chat in chats.values()))
    return {chat_id: chats.get(chat_id) or NotInTrashError() for chat_id in chat_ids}


def visible(*, governs: bool) -> dict[str, Any]:
    """Return the condition of the trashed chats that a caller may see: deleted in grace only if it `governs`."""
    return {} if governs else {"in_grace": {"$ne": True}}


def chat_from_trash(trashed: Chat) -> Chat:
    """Return the live chat of a document in the trash; it keeps the facts of the trashing for a repeated request."""
    trashing = {name: trashed[name] for name in ("operation", "trashed_at", "purge_at")}
    revision = trashed["chat"]["revision"] + 1
    return {**trashed["chat"], "_id": trashed["_id"], "revision": revision, "last_trashing": trashing}


def _restored_event(chat: Chat, requested_by: str) -> Event:
    facts = {"message_count": chat["message_count"]}
    return Event(Kind.CHAT_RESTORED, chat["_id"]["chat_id"], requested_by, facts, chat["revision"])


def _refused_for_connections(
    tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal], leases: Mapping[str, LeaseCount]
) -> dict[Removal, Verdict]:
    """Return the errors of the removals whose chats have live connections."""
    connected = [
        removal for removal in removals if leases[removal.chat_id].live and not removal.evict and not removal.of_trash
    ]
    chats = _read(tx, "chats", tenant_id, connected, {"revision": True, "expires_at": True, "holds": True})
    unexpired_chats = {
        removal: chats[removal.chat_id]
        for removal in connected
        if removal.chat_id in chats and not has_expired(chats[removal.chat_id], tx.now)
    }
    refused: dict[Removal, Verdict] = {
        removal: ActiveConnectionsError(leases[removal.chat_id].live) for removal in unexpired_chats
    }
    return {**refused, **_unmet(tx, tenant_id, unexpired_chats)}


def _unmet(tx: UnitOfWork, tenant_id: str, chats: Mapping[Removal, Chat]) -> dict[Removal, Verdict]:
    """Return the errors of the removals whose chats are at another revision, or held."""
    destroyed = {removal.chat_id: chat for removal, chat in chats.items() if removal.destroys}
    held = refusals(tx, tenant_id, destroyed)
    refused: dict[Removal, Verdict] = {
        removal: held[removal.chat_id] for removal in chats if removal.destroys and removal.chat_id in held
    }
    changed = [removal for removal, chat in chats.items() if not _is_at_revision(chat, removal)]
    return {**refused, **{removal: PreconditionFailedError() for removal in changed}}


def _remove(tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Verdict]:
    """Remove the documents of the chats; return each document, or why it was not removed."""
    may_be_live = [removal for removal in removals if not removal.of_trash]
    if len(removals) == 1 and may_be_live and not (may_be_live[0].destroys and on_everything(tx, tenant_id)):
        # A single chat costs one command less this way.
        removal = may_be_live[0]
        expiry = {"expires_at": {"$lte": tx.now}} if removal.is_due else unexpired(tx.now)
        condition = {"_id": chat_key(tenant_id, removal.chat_id), **expiry, **at_revision(removal.revisions)}
        condition |= UNHELD if removal.destroys else {}
        chat = tx.chats.find_one_and_delete(condition, projection=CHAT_FIELDS if removal.stay is None else None)
        if chat is not None:
            return {removal: chat}
        if removal.revisions is None and not removal.destroys:
            may_be_live = []  # otherwise the chat may still be there, at another revision or held
    live = _read(tx, "chats", tenant_id, may_be_live, {})
    trashed = _read(tx, "trash", tenant_id, [removal for removal in removals if removal.chat_id not in live], {})
    verdicts = {
        removal: _find(tx, removal, live.get(removal.chat_id), trashed.get(removal.chat_id)) for removal in removals
    }
    found = {removal: chat for removal, chat in verdicts.items() if isinstance(chat, dict)}
    verdicts |= _unmet(tx, tenant_id, found)
    removed = [removal.chat_id for removal, verdict in verdicts.items() if isinstance(verdict, dict)]
    for collection, chats in (tx.chats, live), (tx.trash, trashed):
        if keys := [chats[chat_id]["_id"] for chat_id in removed if chat_id in chats]:
            collection.delete_many({"_id": {"$in": keys}})
    return verdicts


def _find(tx: UnitOfWork, removal: Removal, live: Chat | None, trashed: Chat | None) -> Verdict:
    """Return the removal's chat, out of its live or its trashed document; or the outcome, if there is none for it."""
    chat = live
    if live is not None and removal.is_due != has_expired(live, tx.now):
        return ChatNotFoundError()
    if live is None:
        if trashed is None or removal.is_due == (trashed["purge_at"] > tx.now) or _is_hidden(trashed, removal):
            return ChatNotFoundError()
        if removal.keep is not None:
            return trash_outcome(trashed, removal)
        chat = {**trashed["chat"], "_id": trashed["_id"], **_answered_in_grace(trashed)}
    assert chat is not None  # noqa: S101 - it is one of the two
    return chat


def _is_hidden(trashed: Chat, removal: Removal) -> bool:
    """Return whether a chat in the trash must look deleted to the removal's caller."""
    may_see = removal.is_due or (removal.governs and removal.of_trash)
    return "in_grace" in trashed and not may_see


def _answered_in_grace(trashed: Chat) -> Chat:
    """Return what the answer to a delete in grace said, so that the receipt says the same."""
    if "in_grace" not in trashed:
        return {}
    return {"gone_since": trashed["trashed_at"], "export_sha256": trashed.get("export_sha256")}


def _is_at_revision(chat: Chat, removal: Removal) -> bool:
    return removal.revisions is None or chat["revision"] in removal.revisions


def _read(
    tx: UnitOfWork, collection: str, tenant_id: str, removals: Sequence[Removal], fields: dict[str, bool]
) -> dict[str, Chat]:
    """Return the chats' documents in the collection, by chat id. One command; none without removals."""
    if not removals:
        return {}
    keys = [chat_key(tenant_id, removal.chat_id) for removal in removals]
    documents = tx.read(collection, {"_id": {"$in": keys}}, fields)
    return {document["_id"]["chat_id"]: document for document in documents}


def _put_in_trash(tx: UnitOfWork, tenant_id: str, removed: Mapping[Removal, Chat]) -> dict[Removal, Outcome]:
    """Write chats whose documents were just removed into the trash; return the outcomes."""
    if not removed:
        return {}
    documents = {
        removal: trash_document(
            chat, tx.now, _purge_at(tx, chat, removal), removal.requested_by, removal.operation, _grace_facts(removal)
        )
        for removal, chat in removed.items()
    }
    tx.command({"insert": "trash", "documents": list(documents.values())})
    tx.log(tenant_id, *(_trashed_event(document, removal) for removal, document in documents.items()))
    return {removal: trash_outcome(document, removal) for removal, document in documents.items()}


def trash_document(  # noqa: PLR0913, PLR0917 - all that the trash knows of a chat
    chat: Chat,
    trashed_at: datetime,
    purge_at: datetime,
    trashed_by: str,
    operation: str,
    grace_facts: Mapping[str, Any],
) -> Chat:
    """Return the document of a chat in the trash; `grace_facts` is what a delete in grace adds, for the receipt."""
    return {
        "_id": chat["_id"],
        "chat": {name: value for name, value in chat.items() if name != "_id"},
        "trashed_at": trashed_at,
        "purge_at": purge_at,
        "trashed_by": trashed_by,
        "operation": operation,
        **grace_facts,
    }


def _grace_facts(removal: Removal) -> dict[str, Any]:
    facts = {"in_grace": removal.grace is not None or None, "export_sha256": removal.export_sha256}
    return {name: value for name, value in facts.items() if value is not None}


def _trashed_event(trashed: Chat, removal: Removal) -> Event:
    chat = trashed["chat"]
    facts = {"message_count": chat["message_count"], "purge_at": trashed["purge_at"], **_grace_facts(removal)}
    return Event(Kind.CHAT_TRASHED, removal.chat_id, removal.requested_by, facts, chat["revision"])


def _purge_at(tx: UnitOfWork, chat: Chat, removal: Removal) -> datetime:
    """Return the end of the chat's stay in the trash: never later than the chat's own `expires_at`."""
    until: datetime = tx.now + (removal.stay or timedelta())
    return min(until, chat.get("expires_at") or until)


def trash_outcome(trashed: Chat, removal: Removal) -> Deletion | Trashing:
    """Return the outcome of a removal that has found its chat in the trash, or has put it there."""
    if removal.keep is None:
        return receipt_in_grace({**trashed, "_id": chat_key("", removal.chat_id), "trashed_by": removal.requested_by})
    return Trashing(removal.chat_id, trashed["trashed_at"], trashed["purge_at"])


def _inline_receipt(tx: UnitOfWork, chat: Chat, removal: Removal) -> Deletion:
    """Return the receipt of a chat whose messages were removed inline."""
    return _receipt(tx, chat, removal, chat["message_count"], chat["message_count"], tx.now)


def _receipt(  # noqa: PLR0913, PLR0917 - a deleted chat, and how far its messages are removed
    tx: UnitOfWork, chat: Chat, removal: Removal, count: int, purged: int, completed_at: datetime | None
) -> Deletion:
    return Deletion(
        chat_id=removal.chat_id,
        deleted_at=chat.get("gone_since", tx.now),
        message_count=count,
        requested_by=removal.requested_by,
        purged=purged,
        remaining=count - purged,
        completed_at=completed_at,
        export_sha256=removal.export_sha256 or chat.get("export_sha256"),
    )
