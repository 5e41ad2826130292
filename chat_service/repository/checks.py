"""Finds inconsistencies: messages, leases, counts and receipts that do not agree with each other.

The check reads while the service runs, in windows of the key space. A chat may be deleted or posted to between two
reads. So each chat that looks wrong is read again in a single snapshot, and only what is wrong there is a finding.
A repair reads the chat once more, in the transaction that repairs it.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pymongo import ASCENDING

from chat_service.models import MAX_SEQ
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.keys import chat_key, message_range
from chat_service.repository.presence import Presence
from chat_service.repository.purges import Purges
from chat_service.repository.receipts import from_document
from chat_service.repository.unit_of_work import UnitOfWork

WINDOW_CHATS = 500
"""Chats that are compared together: a few commands for each window instead of for each chat."""

STALLED = timedelta(hours=1)
"""A purge counts as stalled when its lease ended so long ago: workers renew their lease with every batch."""

Owner = tuple[str, str]
"""A tenant's id and a chat's id."""


class Finding(NamedTuple):
    """An inconsistency of one chat, which may be live, in the trash or deleted."""

    kind: str
    tenant_id: str
    chat_id: str
    detail: str


class _State(NamedTuple):
    """What the database has of one chat, in one snapshot or transaction."""

    chat: dict[str, Any] | None
    """The chat's own fields, whether it is live or in the trash."""
    is_trashed: bool
    receipt: dict[str, Any] | None
    is_complete: bool
    """Whether no message is left to purge: there is no receipt, or it or its completion says so."""
    purges: list[dict[str, Any]]
    reachable: int
    unreachable: int
    leases: int


class Checks:
    """Compares the collections with each other."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._presence = Presence(database)
        self._purges = Purges(database)
        self._deletions = Deletions(database)

    def run(self, *, repair: bool = False) -> Iterator[Finding]:
        """Yield each finding; with `repair`, after repairing what can be repaired without a person."""
        for tenant_id, chat_id in set(self._suspects()):
            with self._database.snapshot() as tx:
                findings = _findings(tenant_id, chat_id, self._look(tx, tenant_id, chat_id), tx.now)
            if repair and any(finding.kind == "chat_and_receipt" for finding in findings):
                self._deletions.delete_again(tenant_id, chat_id)
            elif repair and findings:
                self._repair(tenant_id, chat_id)
            yield from findings

    def _suspects(self) -> Iterator[Owner]:
        for window in self._windows():
            yield from self._miscounted(*window)
        yield from self._without_chat(self._database.presence.find({}, {"tenant_id": True, "chat_id": True}))
        yield from self._incomplete()
        for purge in self._database.purges.find({}, {"_id": True}):
            yield _owner(purge["_id"])

    def _incomplete(self) -> Iterator[Owner]:
        """Yield the chats whose receipts say that the delete was staged, and that have no completion."""
        staged = [{"$match": {"staged": {"$ne": False}}}, {"$project": {"_id": True}}]
        completion = {"from": "completions", "localField": "_id", "foreignField": "_id", "as": "completion"}
        without_completion: dict[str, Any] = {"$match": {"completion": []}}
        for receipt in self._database.deletions.aggregate([*staged, {"$lookup": completion}, without_completion]):
            yield _owner(receipt["_id"])

    def _windows(self) -> Iterator[tuple[dict[Owner, int], dict[str, Any]]]:
        """Yield the chats, live and trashed, in windows (owner -> message_count), each with its range of messages."""
        start: dict[str, Any] = {}
        while True:
            bounds = {"_id": {"$gt": start}} if start else {}
            chats = list(
                self._database.chats.find(
                    bounds, {"message_count": True}, sort=[("_id", ASCENDING)], limit=WINDOW_CHATS
                )
            )
            message_ids, trash_ids = {"$gt": {**start, "seq": MAX_SEQ}} if start else {"$gt": {}}, {"$gt": start}
            if len(chats) == WINDOW_CHATS:
                start = trash_ids["$lte"] = chats[-1]["_id"]
                message_ids["$lte"] = {**start, "seq": MAX_SEQ}
            counts = {_owner(chat["_id"]): chat["message_count"] for chat in chats}
            trash = self._database.trash.find({"_id": trash_ids}, {"chat.message_count": True})
            yield counts | {_owner(row["_id"]): row["chat"]["message_count"] for row in trash}, message_ids
            if len(chats) < WINDOW_CHATS:
                return

    def _miscounted(self, counts: dict[Owner, int], message_ids: dict[str, Any]) -> Iterator[Owner]:
        """Yield the chats of a window whose number of messages is not what they say, and those that have a receipt."""
        owner_key = {"tenant_id": "$_id.tenant_id", "chat_id": "$_id.chat_id"}
        groups = self._database.messages.aggregate(
            [{"$match": {"_id": message_ids}}, {"$group": {"_id": owner_key, "messages": {"$sum": 1}}}],
            allowDiskUse=True,
        )
        stored = {_owner(group["_id"]): group["messages"] for group in groups}
        yield from (owner for owner in {**counts, **stored} if counts.get(owner) != stored.get(owner, 0))
        keys = [chat_key(*owner) for owner in counts]
        for receipt in self._database.deletions.find({"_id": {"$in": keys}}, {"_id": True}):
            yield _owner(receipt["_id"])

    def _without_chat(self, leases: Iterable[dict[str, Any]]) -> Iterator[Owner]:
        for owner in {_owner(lease) for lease in leases}:
            if self._database.chats.find_one({"_id": chat_key(*owner)}, {"_id": True}) is None:
                yield owner

    def _look(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> _State:
        key = {"_id": chat_key(tenant_id, chat_id)}
        trashed = tx.trash.find_one(key)
        chat = tx.chats.find_one(key) or (trashed and trashed["chat"])
        first = chat["first_seq"] if chat else MAX_SEQ
        all_messages, own_messages = message_range(tenant_id, chat_id), message_range(tenant_id, chat_id, first)
        reachable = tx.messages.count_documents({"_id": own_messages}) if chat else 0
        receipt = tx.deletions.find_one(key)
        return _State(
            chat=chat,
            is_trashed=trashed is not None,
            receipt=receipt,
            is_complete=receipt is None
            or from_document(receipt, None, tx.completions.find_one(key)).completed_at is not None,
            purges=list(tx.purges.find({"_id": all_messages})),
            reachable=reachable,
            unreachable=tx.messages.count_documents({"_id": all_messages}) - reachable,
            leases=tx.presence.count_documents({"tenant_id": tenant_id, "chat_id": chat_id}),
        )

    def _repair(self, tenant_id: str, chat_id: str) -> None:
        def work(tx: UnitOfWork) -> None:
            state = self._look(tx, tenant_id, chat_id)
            key = {"_id": chat_key(tenant_id, chat_id)}
            for finding in _findings(tenant_id, chat_id, state, tx.now):
                if finding.kind == "wrong_count":
                    collection, prefix = (tx.trash, "chat.") if state.is_trashed else (tx.chats, "")
                    change = {"$set": {f"{prefix}message_count": state.reachable}, "$inc": {f"{prefix}revision": 1}}
                    collection.update_one(key, change)
                elif finding.kind == "orphaned_presence":
                    self._presence.clear(tx, tenant_id, [chat_id])
                elif finding.kind in {"orphaned_messages", "endless_receipt"}:
                    # The purge workers remove and count the messages, and complete the receipt.
                    last = state.chat["first_seq"] - 1 if state.chat else MAX_SEQ
                    of_deletion = not state.is_complete
                    self._purges.open(tx, tenant_id, chat_id, (0, last), state.unreachable, of_deletion=of_deletion)
                    return

        self._database.transaction(work)


def _findings(tenant_id: str, chat_id: str, state: _State, now: datetime) -> list[Finding]:
    problems: list[tuple[str, str]] = []
    if state.chat and state.chat["message_count"] != state.reachable:
        problems.append(
            ("wrong_count", f"Its count says {state.chat['message_count']} messages, and it has {state.reachable}.")
        )
    if state.leases and (state.is_trashed or not state.chat):
        problems.append(("orphaned_presence", f"{state.leases} leases of a chat that is deleted or in the trash."))
    if state.unreachable and not state.purges:
        problems.append(
            ("orphaned_messages", f"{state.unreachable} messages that nobody can read, and no purge removes them.")
        )
    if not state.is_complete and not any(purge["of_deletion"] for purge in state.purges):
        problems.append(("endless_receipt", "Its receipt says that a purge is running, and there is none."))
    if state.chat and state.receipt:
        problems.append(("chat_and_receipt", "It was deleted and exists again, as after a restore of the database."))
    if any(now - purge["lease_until"] > STALLED for purge in state.purges):
        problems.append(("stalled_purge", "No worker has touched its purge for an hour; is `jobs run` running?"))
    return [Finding(kind, tenant_id, chat_id, detail) for kind, detail in problems]


def _owner(document: dict[str, Any]) -> Owner:
    return document["tenant_id"], document["chat_id"]
