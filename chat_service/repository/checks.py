"""Looks for what must never be: messages, leases, counts and receipts that do not agree with each other.

It reads while the service runs, in windows of the key space. What looks wrong there is looked at again in a single
snapshot, because a chat may be deleted or posted to between two reads; only what is wrong at one moment is a finding.
A repair looks once more in the transaction that mends.
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
"""Chats compared at once: some commands for each window rather than for each chat."""

STALLED = timedelta(hours=1)
"""A purge that no worker has touched for so long: workers renew their lease with every batch."""

Owner = tuple[str, str]
"""A tenant's id and a chat's."""


class Finding(NamedTuple):
    """Something that is wrong with one chat, living or deleted."""

    kind: str
    tenant_id: str
    chat_id: str
    detail: str


class _State(NamedTuple):
    """Everything about one chat at one moment."""

    chat: dict[str, Any] | None
    """Living, or in the trash."""
    is_trashed: bool
    receipt: dict[str, Any] | None
    is_complete: bool
    """Whether the receipt says that nothing is left, or its completion does."""
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
        """Give each finding; with `repair` it has been mended as far as that is possible without a person."""
        for tenant_id, chat_id in set(self._suspects()):
            with self._database.snapshot() as tx:
                found = _findings(tenant_id, chat_id, self._look(tx, tenant_id, chat_id), tx.now)
            if repair and any(finding.kind == "chat_and_receipt" for finding in found):
                self._deletions.delete_again(tenant_id, chat_id)
            elif repair and found:
                self._mend(tenant_id, chat_id)
            yield from found

    def _suspects(self) -> Iterator[Owner]:
        for window in self._windows():
            yield from self._miscounted(*window)
        yield from self._without_chat(self._database.presence.find({}, {"tenant_id": True, "chat_id": True}))
        yield from self._incomplete()
        for purge in self._database.purges.find({}, {"_id": True}):
            yield _owner(purge["_id"])

    def _incomplete(self) -> Iterator[Owner]:
        """Give the chats whose receipts say that they were staged, and that have no completion."""
        staged = [{"$match": {"staged": {"$ne": False}}}, {"$project": {"_id": True}}]
        completion = {"from": "completions", "localField": "_id", "foreignField": "_id", "as": "completion"}
        without: dict[str, Any] = {"$match": {"completion": []}}
        for receipt in self._database.deletions.aggregate([*staged, {"$lookup": completion}, without]):
            yield _owner(receipt["_id"])

    def _windows(self) -> Iterator[tuple[dict[Owner, int], dict[str, Any]]]:
        """Give the chats, also of the trash, in windows (owner -> message_count), each with its stretch of messages."""
        start: dict[str, Any] = {}
        while True:
            bounds = {"_id": {"$gt": start}} if start else {}
            chats = list(
                self._database.chats.find(
                    bounds, {"message_count": True}, sort=[("_id", ASCENDING)], limit=WINDOW_CHATS
                )
            )
            stretch, between = {"$gt": {**start, "seq": MAX_SEQ}} if start else {"$gt": {}}, {"$gt": start}
            if len(chats) == WINDOW_CHATS:
                start = between["$lte"] = chats[-1]["_id"]
                stretch["$lte"] = {**start, "seq": MAX_SEQ}
            counts = {_owner(chat["_id"]): chat["message_count"] for chat in chats}
            kept = self._database.trash.find({"_id": between}, {"chat.message_count": True})
            yield counts | {_owner(one["_id"]): one["chat"]["message_count"] for one in kept}, stretch
            if len(chats) < WINDOW_CHATS:
                return

    def _miscounted(self, counts: dict[Owner, int], stretch: dict[str, Any]) -> Iterator[Owner]:
        owner = {"tenant_id": "$_id.tenant_id", "chat_id": "$_id.chat_id"}
        groups = self._database.messages.aggregate(
            [{"$match": {"_id": stretch}}, {"$group": {"_id": owner, "messages": {"$sum": 1}}}], allowDiskUse=True
        )
        stored = {_owner(group["_id"]): group["messages"] for group in groups}
        yield from (one for one in {**counts, **stored} if counts.get(one) != stored.get(one, 0))
        keys = [chat_key(*one) for one in counts]
        for receipt in self._database.deletions.find({"_id": {"$in": keys}}, {"_id": True}):
            yield _owner(receipt["_id"])

    def _without_chat(self, leases: Iterable[dict[str, Any]]) -> Iterator[Owner]:
        for one in {_owner(lease) for lease in leases}:
            if self._database.chats.find_one({"_id": chat_key(*one)}, {"_id": True}) is None:
                yield one

    def _look(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> _State:
        key = {"_id": chat_key(tenant_id, chat_id)}
        kept = tx.trash.find_one(key)
        chat = tx.chats.find_one(key) or (kept and kept["chat"])
        first = chat["first_seq"] if chat else MAX_SEQ
        every, own = message_range(tenant_id, chat_id), message_range(tenant_id, chat_id, first)
        reachable = tx.messages.count_documents({"_id": own}) if chat else 0
        receipt = tx.deletions.find_one(key)
        return _State(
            chat=chat,
            is_trashed=kept is not None,
            receipt=receipt,
            is_complete=receipt is None
            or from_document(receipt, None, tx.completions.find_one(key)).completed_at is not None,
            purges=list(tx.purges.find({"_id": every})),
            reachable=reachable,
            unreachable=tx.messages.count_documents({"_id": every}) - reachable,
            leases=tx.presence.count_documents({"tenant_id": tenant_id, "chat_id": chat_id}),
        )

    def _mend(self, tenant_id: str, chat_id: str) -> None:
        def work(tx: UnitOfWork) -> None:
            state = self._look(tx, tenant_id, chat_id)
            key = {"_id": chat_key(tenant_id, chat_id)}
            for finding in _findings(tenant_id, chat_id, state, tx.now):
                if finding.kind == "wrong_count":
                    place, of = (tx.trash, "chat.") if state.is_trashed else (tx.chats, "")
                    change = {"$set": {f"{of}message_count": state.reachable}, "$inc": {f"{of}revision": 1}}
                    place.update_one(key, change)
                elif finding.kind == "orphaned_presence":
                    self._presence.clear(tx, tenant_id, [chat_id])
                elif finding.kind in {"orphaned_messages", "endless_receipt"}:
                    # The workers remove what there is, count it, and complete the receipt.
                    last = state.chat["first_seq"] - 1 if state.chat else MAX_SEQ
                    of_deletion = not state.is_complete
                    self._purges.open(tx, tenant_id, chat_id, (0, last), state.unreachable, of_deletion=of_deletion)
                    return

        self._database.transaction(work)


def _findings(tenant_id: str, chat_id: str, state: _State, now: datetime) -> list[Finding]:
    found: list[tuple[str, str]] = []
    if state.chat and state.chat["message_count"] != state.reachable:
        found.append(("wrong_count", f"It says {state.chat['message_count']} messages and has {state.reachable}."))
    if state.leases and (state.is_trashed or not state.chat):
        found.append(("orphaned_presence", f"{state.leases} leases of a chat that is not there."))
    if state.unreachable and not state.purges:
        found.append(("orphaned_messages", f"{state.unreachable} messages that nobody can reach, and no purge."))
    if not state.is_complete and not any(purge["of_deletion"] for purge in state.purges):
        found.append(("endless_receipt", "A receipt that is not complete, and no purge."))
    if state.chat and state.receipt:
        found.append(
            ("chat_and_receipt", "A chat that was deleted is there again, as after a restore of the database.")
        )
    if any(now - purge["lease_until"] > STALLED for purge in state.purges):
        found.append(("stalled_purge", "No worker has touched it for an hour; is `jobs run` running?"))
    return [Finding(kind, tenant_id, chat_id, detail) for kind, detail in found]


def _owner(document: dict[str, Any]) -> Owner:
    return document["tenant_id"], document["chat_id"]
