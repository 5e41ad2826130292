"""Erases a person: all messages of one sender in a tenant's chats, live or in the trash.

The messages of a tenant are one range of the primary key. A worker reads the range a slice at a time, and erases the
sender's messages of some chats in each transaction. The invariants of this module:

- Each transaction adds what it erases to the counts in the record, so they are exact wherever a worker was killed.
- One worker at a time holds an erasure, by a lease that each transaction renews under the worker's name.
- The transaction writes the chats whose messages it erases, and reads their holds. So a hold that is placed at the same
  time either conflicts with it, or is seen by it.
- An erasure ends only after a round over all messages of the tenant has found none of the sender. Messages that are
  kept by a hold are looked for again later, and messages that wait for a purge after the purge.
- The record then forgets the sender. The log never contains the sender.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from pymongo import ASCENDING, ReturnDocument

from chat_service.errors import ClaimLostError, ErasureNotFoundError, LegalHoldError
from chat_service.models import MAX_SEQ, Erasure, ErasureMode, Event, IdempotencyKey, Kind, ListPosition
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key, erasure_key
from chat_service.repository.lists import latest_first, next_in_turn
from chat_service.repository.protection import REST, lets_jobs_delete, log_refusals, refusals
from chat_service.repository.traffic import Traffic
from chat_service.repository.unit_of_work import UnitOfWork

LEASE = timedelta(seconds=10)
"""How long a killed worker still holds an erasure. A slice takes less than a second, and renews the lease."""

SLICE_MESSAGES = 10_000
"""Messages that one command reads: about 60 ms."""

GROUP_CHATS, GROUP_MESSAGES = 8, 1_000
"""The most chats and messages that share a transaction."""

POLITE_SLICE, POLITE_CHATS, POLITE_MESSAGES = 1_000, 2, 50
"""The same limits while others use the database, so that their requests wait no longer behind an erasure."""

LOOK_AGAIN = timedelta(minutes=10)
"""The wait for the next round after a round that passed held chats over."""

PURGE_REST = timedelta(seconds=10)
"""The wait for the next round after a round that found messages which a purge is about to remove."""

REDACTED = "[redacted]"
"""The content of a redacted message: not empty, because an export with an empty message could not be imported."""

Document = dict[str, Any]


class Claim(NamedTuple):
    """A worker's right to an erasure."""

    tenant_id: str
    erasure_id: str
    worker_id: str
    sender_id: str
    mode: ErasureMode
    requested_by: str
    position: Document | None
    """The key of the last message that was read in this round; None at its start."""


class Erasures:
    """The erasures collection: a queue of open erasures, and the records of all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._traffic = Traffic(database)

    def request(
        self, tenant_id: str, sender_id: str, mode: ErasureMode, requested_by: str, key: IdempotencyKey | None = None
    ) -> Erasure:
        """Queue the erasure of all messages of the sender, and return its record.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before.
        """
        erasure_id = str(uuid.uuid4())

        def work(tx: UnitOfWork) -> Erasure:
            document = {
                "_id": erasure_key(tenant_id, erasure_id),
                "sender_id": sender_id,
                "mode": mode.value,
                "requested_at": tx.now,
                "requested_by": requested_by,
                "chats": 0,
                "messages": 0,
                "deferred": 0,
                "is_deferred": False,
                "completed_at": None,
                "round": _new_round(),
                "worker_id": None,
                "lease_until": tx.now,
            }
            tx.erasures.insert_one(document)
            return _from_document(document)

        def recall(facts: Document) -> Erasure:
            return self.get(tenant_id, facts["id"])

        work_once = once(key, work, lambda erasure: {"id": erasure.id}, recall)
        return self._database.transaction(work_once)

    def get(self, tenant_id: str, erasure_id: str) -> Erasure:
        """Return the record of an erasure.

        Raises:
            ErasureNotFoundError: the tenant has no such erasure.
        """
        with self._database.operation():
            document = self._database.erasures.find_one({"_id": erasure_key(tenant_id, erasure_id)})
        if document is None:
            raise ErasureNotFoundError
        return _from_document(document)

    def page(self, tenant_id: str, limit: int, after: ListPosition | None) -> list[Erasure]:
        """Return up to `limit` erasures that come after a position in the list, latest first."""
        own = {"_id.tenant_id": tenant_id}
        with self._database.operation():
            documents = latest_first(
                self._database.erasures, own, "requested_at", limit, after, id_field="_id.erasure_id"
            )
            return [_from_document(document) for document in documents]

    def claim(self, worker_id: str, after_tenant: str = "") -> Claim | None:
        """Claim the erasure that has waited longest, of the tenant whose turn it is; return None if none is due.

        Tenants take turns in the order of their ids; the next turn is that of the first one after `after_tenant`.
        """
        now = self._database.now()
        free = {"completed_at": None, "lease_until": {"$lte": now}}
        with self._database.operation(writes=True):
            waiting = sorted(self._database.erasures.distinct("_id.tenant_id", free))
            if not waiting:
                return None
            tenant_id = next_in_turn(waiting, after_tenant)
            claimed = self._database.erasures.find_one_and_update(
                {"_id.tenant_id": tenant_id, **free},
                {"$set": {"worker_id": worker_id, "lease_until": now + LEASE}},
                sort=[("lease_until", ASCENDING)],
                return_document=ReturnDocument.AFTER,
            )
        return None if claimed is None else _to_claim(claimed, worker_id)

    def work_on(self, claim: Claim) -> int:
        """Read the next slice of the tenant's messages, erase those of the sender, and return how many there were.

        Raises:
            ClaimLostError: another worker holds the erasure now; nothing more was erased.
        """
        if not lets_jobs_delete(self._database.rules.learn(claim.tenant_id), self._database.now()):
            self._release(claim, {"is_deferred": True}, LOOK_AGAIN)
            return 0
        began, is_shared = time.monotonic(), self._traffic.is_shared
        last_key, keys = self._look(claim, POLITE_SLICE if is_shared else SLICE_MESSAGES)
        self._traffic.step_aside(began, 0)
        if last_key is None:
            self._end_round(claim)
            return 0
        erased = 0
        for group in _groups(keys, *((POLITE_CHATS, POLITE_MESSAGES) if is_shared else (GROUP_CHATS, GROUP_MESSAGES))):
            began = time.monotonic()
            erased += self._database.transaction(partial(self._erase, claim, group))
            self._traffic.step_aside(began, 1 + len({key["chat_id"] for key in group}))
        self._release(claim, {"round.position": last_key})
        return erased

    def _look(self, claim: Claim, size: int) -> tuple[Document | None, list[Document]]:
        """Return the last key of the next slice, or None at the end, and the keys of the sender's messages in it."""
        bounds = {"$lte": _end_of(claim.tenant_id)}
        bounds |= {"$gte": {"tenant_id": claim.tenant_id}} if claim.position is None else {"$gt": claim.position}
        # The sender is compared here: a database logs its slow queries, and the sender must not be in that log.
        with self._database.operation():
            cursor = self._database.messages.find(
                {"_id": bounds}, _SENDER, sort=[("_id", ASCENDING)], limit=size, batch_size=size + 1
            )
            messages = list(cursor)
        own = [message["_id"] for message in messages if message.get("sender_id") == claim.sender_id]
        return (messages[-1]["_id"] if messages else None), own

    def _erase(self, claim: Claim, group: Sequence[Document], tx: UnitOfWork) -> int:
        """Erase the sender's messages among those of the group, and return how many were erased."""
        chats = _chats_of(tx, claim.tenant_id, sorted({key["chat_id"] for key in group}))
        refused = refusals(tx, claim.tenant_id, chats)
        held = {*refused, *(chat_id for chat_id, chat in chats.items() if not _has_rested(tx, chat))}
        free = {chat_id: chat for chat_id, chat in chats.items() if chat_id not in held}
        keys = {(key["chat_id"], key["seq"]) for key in group if _is_of(key, free)}
        in_range = {"_id": {"$gte": group[0], "$lte": group[-1]}}
        messages = [
            message
            for message in tx.messages.find(in_range, _SENDER, batch_size=SLICE_MESSAGES + 1)
            if (message["_id"]["chat_id"], message["_id"]["seq"]) in keys
        ]
        erased = [message["_id"] for message in messages if message.get("sender_id") == claim.sender_id]
        seqs: dict[str, list[int]] = {}
        for key in erased:
            seqs.setdefault(key["chat_id"], []).append(key["seq"])
        if erased:
            erase_messages(tx, erased, claim.mode)
        _write_chats(tx, claim, free, seqs)
        _note_refused(tx, claim, chats, refused)
        new_chats = sum(claim.erasure_id not in free[chat_id].get("erasures", ()) for chat_id in seqs)
        round_counts = {"round.found": len(group), "round.left": len(group) - len(erased)}
        self._count(tx, claim, {"chats": new_chats, "messages": len(erased), **round_counts}, held)
        return len(erased)

    @staticmethod
    def _count(tx: UnitOfWork, claim: Claim, counts: Mapping[str, int], held: set[str]) -> None:
        """Add to the record what was erased, and to its round what was found and what has to be looked for again."""
        change: Document = {
            "$inc": counts,
            "$set": {"lease_until": tx.now + LEASE},
            "$addToSet": {"round.held": {"$each": sorted(held)}},
        }
        if not tx.erasures.update_one(_held_by(claim), change).matched_count:
            # Raised, not returned: the transaction must not be committed.
            raise ClaimLostError

    def _end_round(self, claim: Claim) -> None:
        """Complete the erasure if its round over all messages has found nothing; otherwise begin another round."""

        def work(tx: UnitOfWork) -> None:
            erasure = tx.erasures.find_one(_held_by(claim))
            if erasure is None:
                raise ClaimLostError
            ended_round, held = erasure["round"], len(erasure["round"]["held"])
            deferral = {"deferred": held, "is_deferred": held > 0}
            rest = LOOK_AGAIN if held else PURGE_REST if ended_round["left"] else timedelta()
            next_round = {"round": _new_round(), "worker_id": None, "lease_until": tx.now + rest}
            change: Document = {"$set": {**deferral, **next_round}}
            if not ended_round["found"]:
                tx.log(claim.tenant_id, _completed(claim, erasure))
                change = {"$set": {**deferral, "completed_at": tx.now}, "$unset": dict.fromkeys(UNFINISHED, "")}
            tx.erasures.update_one(_held_by(claim), change)

        self._database.transaction(work)

    def _release(self, claim: Claim, facts: Document, rest: timedelta = timedelta()) -> None:
        """Release the erasure; it can be claimed again after `rest`.

        Raises:
            ClaimLostError: another worker holds it now.
        """
        released = {"worker_id": None, "lease_until": self._database.now() + rest, **facts}
        with self._database.operation(writes=True):
            if not self._database.erasures.update_one(_held_by(claim), {"$set": released}).matched_count:
                raise ClaimLostError

    def are_done(self) -> bool:
        """Tell whether all erasures are complete, except those that wait for the release of a hold."""
        with self._database.operation():
            return self._database.erasures.find_one({"completed_at": None, "is_deferred": False}, {"_id": True}) is None


_SENDER = {"_id": True, "sender_id": True}

REDACTION: Document = {"content": REDACTED, "sender_id": None, "metadata": {}}
"""The fields that replace the content and the sender of a redacted message."""

UNFINISHED = ("sender_id", "round", "worker_id", "lease_until")
"""The fields that a record has only until it is complete."""


def _new_round() -> Document:
    return {"position": None, "found": 0, "left": 0, "held": []}


def _end_of(tenant_id: str) -> Document:
    return {"tenant_id": tenant_id, "chat_id": "g", "seq": MAX_SEQ}


def _groups(keys: Sequence[Document], most_chats: int, most_messages: int) -> list[list[Document]]:
    """Return the messages in groups, each of which shares a transaction."""
    groups: list[list[Document]] = []
    chats = set[str]()
    for key in keys:
        is_full = groups and (len(groups[-1]) >= most_messages or len(chats | {key["chat_id"]}) > most_chats)
        if is_full or not groups:
            groups.append([])
            chats = set()
        groups[-1].append(key)
        chats.add(key["chat_id"])
    return groups


def _is_of(key: Document, chats: Mapping[str, Document]) -> bool:
    """Tell whether a message belongs to one of these chats, and does not wait for a purge."""
    chat = chats.get(key["chat_id"])
    return chat is not None and key["seq"] >= chat["first_seq"]


def _chats_of(tx: UnitOfWork, tenant_id: str, chat_ids: Sequence[str]) -> dict[str, Document]:
    """Return the chats that exist, by id; `place` in each is the collection that it is in."""
    condition = {"_id": {"$in": [chat_key(tenant_id, chat_id) for chat_id in chat_ids]}}
    live = {row["_id"]["chat_id"]: {**row, "place": "chats"} for row in tx.read("chats", condition, {})}
    trashed = {row["_id"]["chat_id"]: {**row["chat"], "place": "trash"} for row in tx.read("trash", condition, {})}
    return {**trashed, **live}


def _has_rested(tx: UnitOfWork, chat: Document) -> bool:
    """Tell whether the chat has not been held lately; a mark that a released hold has left on it counts as lately."""
    return not chat.get("holds") and bool(chat.get("hold_released_at", tx.now - REST) <= tx.now - REST)


def _note_refused(
    tx: UnitOfWork, claim: Claim, chats: Mapping[str, Document], refused: Mapping[str, LegalHoldError]
) -> None:
    """Log the held chats that are passed over, each of them once."""
    new = [chat_id for chat_id in refused if "deferred_at" not in chats[chat_id]]
    log_refusals(tx, claim.tenant_id, [(chat_id, claim.requested_by, refused[chat_id]) for chat_id in new])
    _write(tx, claim.tenant_id, chats, {chat_id: {"$set": {"deferred_at": tx.now}} for chat_id in new})


def _write(
    tx: UnitOfWork, tenant_id: str, chats: Mapping[str, Document], changes: Mapping[str, Mapping[str, Document]]
) -> None:
    """Apply its own change to each chat, live or in the trash: one command for each of the two collections."""
    for collection, prefix in ("chats", ""), ("trash", "chat."):
        updates = [
            {
                "q": {"_id": chat_key(tenant_id, chat_id)},
                "u": {
                    operator: {f"{prefix}{name}": value for name, value in fields.items()}
                    for operator, fields in change.items()
                },
            }
            for chat_id, change in changes.items()
            if chats[chat_id]["place"] == collection
        ]
        if updates:
            tx.command({"update": collection, "updates": updates})


def _write_chats(
    tx: UnitOfWork, claim: Claim, chats: Mapping[str, Document], seqs: Mapping[str, Sequence[int]]
) -> None:
    """Update the chats whose messages are erased, and log which messages of each chat were erased."""
    is_removal = claim.mode is ErasureMode.REMOVE
    changes: dict[str, dict[str, Document]] = {
        chat_id: {
            "$inc": {"revision": 1, "message_count": -len(erased) if is_removal else 0},
            "$addToSet": {"erasures": claim.erasure_id},
        }
        for chat_id, erased in seqs.items()
    }
    _write(tx, claim.tenant_id, chats, changes)
    facts = {"erasure_id": claim.erasure_id, "mode": claim.mode.value}
    events = [
        Event(
            Kind.SENDER_ERASED,
            chat_id,
            claim.requested_by,
            {**facts, "message_count": len(erased), "message_seqs": erased},
            chats[chat_id]["revision"] + 1,
        )
        for chat_id, erased in seqs.items()
    ]
    if events:
        tx.log(claim.tenant_id, *events)


def erase_messages(tx: UnitOfWork, keys: Sequence[Document], mode: ErasureMode) -> None:
    """Remove or redact these messages, with one command. There must be at least one."""
    # One statement for each key: for an `$in`, a clustered collection is scanned from end to end.
    if mode is ErasureMode.REMOVE:
        tx.command({"delete": "messages", "deletes": [{"q": {"_id": key}, "limit": 1} for key in keys]})
    else:
        tx.command({"update": "messages", "updates": [{"q": {"_id": key}, "u": {"$set": REDACTION}} for key in keys]})


def _completed(claim: Claim, erasure: Document) -> Event:
    """Return the event that ends an erasure: the only event of an erasure that concerns no chat."""
    facts = {
        "erasure_id": claim.erasure_id,
        "mode": claim.mode.value,
        "requested_at": erasure["requested_at"],
        "chat_count": erasure["chats"],
        "message_count": erasure["messages"],
    }
    return Event(Kind.SENDER_ERASED, "", claim.requested_by, facts)


def _held_by(claim: Claim) -> Document:
    return {"_id": erasure_key(claim.tenant_id, claim.erasure_id), "worker_id": claim.worker_id, "completed_at": None}


def _to_claim(document: Document, worker_id: str) -> Claim:
    return Claim(
        document["_id"]["tenant_id"],
        document["_id"]["erasure_id"],
        worker_id,
        document["sender_id"],
        ErasureMode(document["mode"]),
        document["requested_by"],
        document["round"]["position"],
    )


def _from_document(document: Document) -> Erasure:
    return Erasure(
        id=document["_id"]["erasure_id"],
        mode=ErasureMode(document["mode"]),
        requested_at=document["requested_at"],
        requested_by=document["requested_by"],
        chats=document["chats"],
        messages=document["messages"],
        deferred=document["deferred"],
        is_deferred=document["is_deferred"],
        completed_at=document["completed_at"],
    )
