"""The life of a chat id within a tenant, and the one gate before everything that takes a chat away.

    absent ──create, import──▶ live ──trash──▶ trashed ──restore──▶ live
                                 │                │
                                 └──── delete ────┴──▶ deleted: the receipt is its tombstone, for ever

Each arrow is a part of its caller's transaction, for several chats at once. Trash is the chat document, moved: every
way to a message asks for its chat, so no query has a filter to forget, and a chat of any size is hidden by one write.

What this module keeps, in every interleaving with posts, connections, creates, deletes and restores:

1. A 200 to a delete means gone. From that commit on neither the chat nor any message of it can be read, and none
   appears again.
2. Any other outcome means that nothing changed, also after a crash at any point.
3. Of any number of concurrent deletes, trashings and restores of a chat exactly one succeeds: its document can be
   removed once from where it is.
4. Posting and connecting write the chat document in their own transaction. A transaction that only *read* it could
   commit beside a delete (write skew under snapshot isolation) and leave orphans.
5. A deleted id never comes back: the receipt is written in the delete's own transaction, and creating a chat under its
   id is refused. So it is under the id of a chat in the trash.
6. What is held is not destroyed: a hold is a field of the chat's document, so placing one and taking the document away
   conflict. It may be moved to the trash and back; the hold goes with it.
7. Above the inline limit the messages stay for a purge, which the same transaction opens. So a delete costs the same
   for ten messages and for ten million, and trashing and restoring always do.
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
from chat_service.repository.receipts import in_grace, to_document
from chat_service.repository.unit_of_work import UnitOfWork

SHARED_INLINE_LIMIT = 100
"""Messages up to which a chat's own are removed with it in a shared transaction, which never holds more than 800."""

_DUPLICATE = 11000

CHAT_FIELDS = dict.fromkeys(("_id", "message_count", "first_seq", "open_purges", "revision"), True)
"""What deleting a chat needs of it."""

Chat = dict[str, Any]
Verdict = Chat | Deletion | Trashing | ChatServiceError
"""The document of a chat that was removed, or what became of it otherwise."""

Outcome = Deletion | Trashing | ChatServiceError


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """What one caller asks for: to take a chat away, for good or into the trash, on these conditions."""

    chat_id: str
    requested_by: str
    keep: timedelta | None = None
    """How long it stays in the trash; None deletes it, also out of the trash."""
    revisions: Collection[int] | None = None
    """At which the chat has to be."""
    key: IdempotencyKey | None = None
    evict: bool = False
    """Live connections do not refuse it: their leases go with the chat, and whoever holds the sockets closes them."""
    operation: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Names the run in what it leaves, so that it knows its own again when its answer was lost."""
    is_repeated: bool = False
    """What an earlier run of the same operation has done counts as done, with the time of that."""
    of_trash: bool = False
    """Only a chat that is in the trash is meant."""
    export_sha256: str | None = None
    """What the receipt says of the export that was taken before."""
    grace: timedelta | None = None
    """How long it stays in the trash, behind the answer of a delete: only who governs is told that it is there."""
    governs: bool = False
    """What was deleted in grace is found too."""
    is_due: bool = False
    """Only one whose time is over, its own or that in the trash: nobody but the expiry finds it any more."""

    @property
    def stay(self) -> timedelta | None:
        """How long it stays in the trash, whatever is said of that; None: not at all."""
        return self.keep or self.grace

    @property
    def destroys(self) -> bool:
        """Whether it is told to be gone, so that a hold refuses it: also of what is kept meanwhile, in grace."""
        return self.keep is None


class Lifecycle:
    """Moves chats from one state to the next."""

    def __init__(self, presence: Presence, purges: Purges, inline_limit: int) -> None:
        self._presence = presence
        self._purges = purges
        self._inline_limit = inline_limit

    def take_away(self, tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Outcome]:
        """Delete chats, or move them to the trash; return what became of each. No chat is in `removals` twice.

        Refused in this order: not there, at another revision, held, with live connections. What is to be moved to the
        trash and is there already stays there as it is. That a hold refused it is told to the log.

        Raises:
            MiscountedError: several chats together do not have as many messages as they say.
            DuplicateKeyError: one of them has a receipt, from before the database was restored.
        """
        leases = self._presence.count_each(tx, tenant_id, [removal.chat_id for removal in removals])
        verdicts = _refused(tx, tenant_id, removals, leases)
        verdicts |= _remove(tx, tenant_id, [removal for removal in removals if removal not in verdicts])
        removed = {removal: chat for removal, chat in verdicts.items() if isinstance(chat, dict)}
        held = [removal.chat_id for removal in removed if any(leases[removal.chat_id])]
        if held:
            # Taken along, so that a renewal that is under way conflicts with this or finds nothing.
            self._presence.clear(tx, tenant_id, held)
        outcomes = {removal: verdict for removal, verdict in verdicts.items() if not isinstance(verdict, dict)}
        outcomes |= _put_in_trash(tx, tenant_id, {one: chat for one, chat in removed.items() if one.stay is not None})
        outcomes |= self._destroy(tx, tenant_id, {one: chat for one, chat in removed.items() if one.stay is None})
        log_refusals(tx, tenant_id, [(one.chat_id, one.requested_by, outcomes[one]) for one in outcomes])
        return outcomes

    def _destroy(self, tx: UnitOfWork, tenant_id: str, removed: Mapping[Removal, Chat]) -> dict[Removal, Outcome]:
        """Take the messages of chats whose documents were just removed, write the receipts, and return them."""
        if not removed:
            return {}
        limit = self._inline_limit if len(removed) == 1 else min(self._inline_limit, SHARED_INLINE_LIMIT)
        at_once = [chat for chat in removed.values() if chat["message_count"] <= limit and not chat.get("open_purges")]
        if at_once:
            remove_inline(tx, at_once)
        receipts = {
            removal: _at_once(tx, chat, removal) if chat in at_once else self._staged(tx, tenant_id, chat, removal)
            for removal, chat in removed.items()
        }
        documents = [to_document(tenant_id, receipt, removal.operation) for removal, receipt in receipts.items()]
        try:
            tx.command({"insert": "deletions", "documents": documents})
        except BulkWriteError as error:
            if all(failure["code"] == _DUPLICATE for failure in error.details["writeErrors"]):
                raise DuplicateKeyError("A chat lies beside its receipt.") from error
            raise
        late = [receipt for receipt in receipts.values() if receipt.completed_at not in {None, receipt.deleted_at}]
        if late:
            self._purges.complete(tx, tenant_id, late)
        return {**receipts}

    def _staged(self, tx: UnitOfWork, tenant_id: str, chat: Chat, removal: Removal) -> Deletion:
        """Open a purge of the chat's messages, and return the receipt."""
        # What emptying the chat has left on the disk is still there: it is counted, and goes on being removed.
        emptied = self._purges.take_over(tx, tenant_id, removal.chat_id) if chat.get("open_purges") else []
        first = min(chat["first_seq"], *(purge["_id"]["seq"] for purge in emptied), MAX_SEQ)
        count = chat["message_count"] + sum(purge["messages"] for purge in emptied)
        purged = sum(purge["purged"] for purge in emptied)
        self._purges.open(tx, tenant_id, removal.chat_id, (first, MAX_SEQ), count, of_deletion=True, purged=purged)
        return _receipt(tx, chat, removal, count, purged, None)

    def delete_again(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> None:
        """Delete what a restore of the database has brought back beside its receipt: it was deleted, and that stands.

        What is held stays until it is released.
        The receipt stays as it is; the completion counts what is removed now too.
        """
        key = {"_id": chat_key(tenant_id, chat_id)}
        receipt = tx.deletions.find_one(key)
        if receipt is None:
            return
        kept = tx.trash.find_one(key)
        chat = tx.chats.find_one(key) or (kept and kept["chat"])
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
    """Make chats of the trash live again; return the document of each, or that it was not there.

    It is as it was but for its revision, which has grown, so that no ETag from before fits any more; `operation` names
    the run in it.
    """
    keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
    kept = tx.read("trash", {"_id": {"$in": keys}, "purge_at": {"$gt": tx.now}, **visible(governs=governs)}, {})
    restoration = {"operation": operation, "at": tx.now}
    chats = {one["_id"]["chat_id"]: {**revived(one), "restoration": restoration} for one in kept}
    if chats:
        tx.trash.delete_many({"_id": {"$in": [chat["_id"] for chat in chats.values()]}})
        tx.chats.insert_many(list(chats.values()))
        tx.log(tenant_id, *(_restored(chat, requested_by) for chat in chats.values()))
    return {chat_id: chats.get(chat_id) or NotInTrashError() for chat_id in chat_ids}


def visible(*, governs: bool) -> dict[str, Any]:
    """Return the condition that a chat in the trash is told of: what was deleted in grace, only to who governs."""
    return {} if governs else {"in_grace": {"$ne": True}}


def revived(kept: Chat) -> Chat:
    """Return the chat of a document in the trash; the trashing stays with it for those who repeat it."""
    trashing = {name: kept[name] for name in ("operation", "trashed_at", "purge_at")}
    revision = kept["chat"]["revision"] + 1
    return {**kept["chat"], "_id": kept["_id"], "revision": revision, "last_trashing": trashing}


def _restored(chat: Chat, requested_by: str) -> Event:
    facts = {"message_count": chat["message_count"]}
    return Event(Kind.CHAT_RESTORED, chat["_id"]["chat_id"], requested_by, facts, chat["revision"])


def _refused(
    tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal], leases: Mapping[str, LeaseCount]
) -> dict[Removal, Verdict]:
    """Return why those cannot be removed that have live connections."""
    occupied = [one for one in removals if leases[one.chat_id].live and not one.evict and not one.of_trash]
    chats = _read(tx, "chats", tenant_id, occupied, {"revision": True, "expires_at": True, "holds": True})
    there = {
        removal: chats[removal.chat_id]
        for removal in occupied
        if removal.chat_id in chats and not has_expired(chats[removal.chat_id], tx.now)
    }
    refused: dict[Removal, Verdict] = {
        removal: ActiveConnectionsError(leases[removal.chat_id].live) for removal in there
    }
    return {**refused, **_unmet(tx, tenant_id, there)}


def _unmet(tx: UnitOfWork, tenant_id: str, chats: Mapping[Removal, Chat]) -> dict[Removal, Verdict]:
    """Return why those of the chats cannot be removed that are not as they have to be, or held."""
    destroyed = {removal.chat_id: chat for removal, chat in chats.items() if removal.destroys}
    held = refusals(tx, tenant_id, destroyed)
    refused: dict[Removal, Verdict] = {one: held[one.chat_id] for one in chats if one.destroys and one.chat_id in held}
    return {**refused, **{one: PreconditionFailedError() for one in chats if not _is_at_revision(chats[one], one)}}


def _remove(tx: UnitOfWork, tenant_id: str, removals: Sequence[Removal]) -> dict[Removal, Verdict]:
    """Remove the documents of the chats, and return each, or why it cannot be removed."""
    alive = [removal for removal in removals if not removal.of_trash]
    if len(removals) == 1 and alive and not (alive[0].destroys and on_everything(tx, tenant_id)):
        # A single one with one command less.
        removal = alive[0]
        time = {"expires_at": {"$lte": tx.now}} if removal.is_due else unexpired(tx.now)
        seen = {"_id": chat_key(tenant_id, removal.chat_id), **time, **at_revision(removal.revisions)}
        seen |= UNHELD if removal.destroys else {}
        chat = tx.chats.find_one_and_delete(seen, projection=CHAT_FIELDS if removal.stay is None else None)
        if chat is not None:
            return {removal: chat}
        if removal.revisions is None and not removal.destroys:
            alive = []  # otherwise it may be there, at another revision or held
    live = _read(tx, "chats", tenant_id, alive, {})
    kept = _read(tx, "trash", tenant_id, [removal for removal in removals if removal.chat_id not in live], {})
    verdicts = {one: _verdict(tx, one, live.get(one.chat_id), kept.get(one.chat_id)) for one in removals}
    verdicts |= _unmet(tx, tenant_id, {one: chat for one, chat in verdicts.items() if isinstance(chat, dict)})
    removed = [removal.chat_id for removal, verdict in verdicts.items() if isinstance(verdict, dict)]
    for collection, chats in (tx.chats, live), (tx.trash, kept):
        if keys := [chats[chat_id]["_id"] for chat_id in removed if chat_id in chats]:
            collection.delete_many({"_id": {"$in": keys}})
    return verdicts


def _verdict(tx: UnitOfWork, removal: Removal, live: Chat | None, kept: Chat | None) -> Verdict:
    """Return the chat as it is where it is, or why it is not there for the removal."""
    chat = live
    if live is not None and removal.is_due != has_expired(live, tx.now):
        return ChatNotFoundError()
    if live is None:
        if kept is None or removal.is_due == (kept["purge_at"] > tx.now) or _is_hidden(kept, removal):
            return ChatNotFoundError()
        if removal.keep is not None:
            return told(kept, removal)
        chat = {**kept["chat"], "_id": kept["_id"], **_told_in_grace(kept)}
    assert chat is not None  # noqa: S101 - it is one of the two
    return chat


def _is_hidden(kept: Chat, removal: Removal) -> bool:
    """Tell whether a chat in the trash is as good as deleted to whoever wants it removed."""
    sees = removal.is_due or (removal.governs and removal.of_trash)
    return "in_grace" in kept and not sees


def _told_in_grace(kept: Chat) -> Chat:
    """Return what was told of a chat that was deleted in grace, for its receipt to say the same."""
    if "in_grace" not in kept:
        return {}
    return {"gone_since": kept["trashed_at"], "export_sha256": kept.get("export_sha256")}


def _is_at_revision(chat: Chat, removal: Removal) -> bool:
    return removal.revisions is None or chat["revision"] in removal.revisions


def _read(
    tx: UnitOfWork, collection: str, tenant_id: str, removals: Sequence[Removal], fields: dict[str, bool]
) -> dict[str, Chat]:
    """Return what is in the collection of the chats, by their ids; no command if there are none."""
    if not removals:
        return {}
    keys = [chat_key(tenant_id, removal.chat_id) for removal in removals]
    return {found["_id"]["chat_id"]: found for found in tx.read(collection, {"_id": {"$in": keys}}, fields)}


def _put_in_trash(tx: UnitOfWork, tenant_id: str, removed: Mapping[Removal, Chat]) -> dict[Removal, Outcome]:
    """Write chats whose documents were just removed into the trash, and return until when they are there."""
    if not removed:
        return {}
    documents = {
        removal: in_trash(
            chat, tx.now, _kept_until(tx, chat, removal), removal.requested_by, removal.operation, _told_of(removal)
        )
        for removal, chat in removed.items()
    }
    tx.command({"insert": "trash", "documents": list(documents.values())})
    tx.log(tenant_id, *(_trashed(document, removal) for removal, document in documents.items()))
    return {removal: told(document, removal) for removal, document in documents.items()}


def in_trash(  # noqa: PLR0913, PLR0917 - all that the trash knows of a chat
    chat: Chat, trashed_at: datetime, purge_at: datetime, trashed_by: str, operation: str, told: Mapping[str, Any]
) -> Chat:
    """Return the document of a chat in the trash; `told` is what was answered that its receipt will have to say."""
    return {
        "_id": chat["_id"],
        "chat": {name: value for name, value in chat.items() if name != "_id"},
        "trashed_at": trashed_at,
        "purge_at": purge_at,
        "trashed_by": trashed_by,
        "operation": operation,
        **told,
    }


def _told_of(removal: Removal) -> dict[str, Any]:
    told = {"in_grace": removal.grace is not None or None, "export_sha256": removal.export_sha256}
    return {name: value for name, value in told.items() if value is not None}


def _trashed(kept: Chat, removal: Removal) -> Event:
    facts = {"message_count": kept["chat"]["message_count"], "purge_at": kept["purge_at"], **_told_of(removal)}
    return Event(Kind.CHAT_TRASHED, removal.chat_id, removal.requested_by, facts, kept["chat"]["revision"])


def _kept_until(tx: UnitOfWork, chat: Chat, removal: Removal) -> datetime:
    """Return until when a chat is in the trash: one that has an end of its own, not beyond that."""
    until: datetime = tx.now + (removal.stay or timedelta())
    return min(until, chat.get("expires_at") or until)


def told(kept: Chat, removal: Removal) -> Deletion | Trashing:
    """Return what is told of a chat that the removal has found in the trash, or put there."""
    if removal.keep is None:
        return in_grace({**kept, "_id": chat_key("", removal.chat_id), "trashed_by": removal.requested_by})
    return Trashing(removal.chat_id, kept["trashed_at"], kept["purge_at"])


def _at_once(tx: UnitOfWork, chat: Chat, removal: Removal) -> Deletion:
    """Return the receipt of a chat whose messages are gone."""
    return _receipt(tx, chat, removal, chat["message_count"], chat["message_count"], tx.now)


def _receipt(  # noqa: PLR0913, PLR0917 - a chat that goes, and how far it has gone
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
