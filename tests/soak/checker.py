"""Compares the answers with what is stored: every promise, chat by chat.

`read_stored` reads what is stored, and `check` compares. `check` is a pure function, so that test_checker.py can give
it each kind of violation.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.presence import LEASE
from chat_service.repository.receipts import from_document
from tests.soak.connections import BY_SERVER
from tests.soak.exports import check_export
from tests.soak.log import TenantLog, check_log, read_log
from tests.soak.record import CUT, HUNG_UP, Receipt, Record, by_chat, by_operation, label
from tests.soak.trash import check_trash, may_be_hidden

UNAVAILABLE, UNKNOWN = (503, "database_unavailable"), (503, "outcome_unknown")
GONE = (404, "chat_not_found")

EXPECTED = {
    "create": {(201, ""), (409, "chat_exists"), (409, "chat_in_trash"), (409, "chat_id_retired"), UNAVAILABLE, UNKNOWN},
    "post": {(201, ""), GONE, UNAVAILABLE, UNKNOWN},
    "read": {(200, ""), GONE, UNAVAILABLE},
    "receipt": {(200, ""), (404, "not_found"), UNAVAILABLE},
    "connect": {(101, ""), GONE, UNAVAILABLE, UNKNOWN},
    "disconnect": {(200, ""), (200, BY_SERVER), UNKNOWN},
    "delete": {(200, ""), GONE, (409, "active_connections"), UNAVAILABLE, UNKNOWN},
    "bulk": {
        (200, ""),
        GONE,
        (409, "active_connections"),
        UNAVAILABLE,
        UNKNOWN,
        (409, "request_in_progress"),
        (None, HUNG_UP),
    },
    "trash": {(200, ""), GONE, (409, "active_connections"), UNAVAILABLE, UNKNOWN},
    "restore": {(200, ""), GONE, (404, "not_in_trash"), UNAVAILABLE, UNKNOWN},
    "clear": {(200, ""), GONE, UNAVAILABLE, UNKNOWN},
    "export": {(200, ""), (200, CUT), GONE, UNAVAILABLE},
}
"""Status and code of all answers that are allowed, by kind of request."""

DELETES = {"delete", "bulk"}
REMOVALS = {*DELETES, "trash"}

NEVER = float("inf")

LEASE_SECONDS = LEASE.total_seconds()
LEEWAY_SECONDS = 1.0
"""Allowed for the difference between the callers' clock and that of the leases, and for releasing a lease."""

AFTER_FAULT_SECONDS = 10.0
"""The next renewal releases a lease that a fault kept from being released: it runs every 5 s, and may need a retry."""


class Violation(NamedTuple):
    kind: str
    chat_id: str
    detail: str


class StoredReceipt(NamedTuple):
    """The stored receipt of a deleted chat, after all purges have ended."""

    message_count: int
    deleted_at: str = ""
    run: str = ""
    """The id that all receipts of one run of a delete share."""
    state: str = "complete"
    deleted: int | None = None
    """Messages removed; None: as many as `message_count`."""


class Stored(NamedTuple):
    """What the database holds of one tenant."""

    titles: dict[str, str | None]
    """By chat id, of each chat that is live or in the trash."""
    messages: dict[str, dict[int, str]]
    """By chat id, of each chat that has messages, deleted or not: seq -> label of the content."""
    receipts: dict[str, StoredReceipt]
    """By chat id, of each deleted chat."""
    findings: list[str]
    """What `flask check` finds."""
    trashed: frozenset[str] = frozenset()
    """The chats in the trash."""
    log: TenantLog | None = None
    """None: the log was not read."""

    @property
    def states(self) -> dict[str, str]:
        """By chat id, the state in which the chat's log must end."""
        existing = {chat_id: "trashed" if chat_id in self.trashed else "live" for chat_id in self.titles}
        return {**existing, **dict.fromkeys(self.receipts, "purged")}


Problems = Iterator[tuple[str, str]]
"""Kind and detail of each violation."""


def read_stored(database: Database, tenant_id: str) -> Stored:
    """Read what is stored."""
    query = {"_id.tenant_id": tenant_id}
    messages: dict[str, dict[int, str]] = {}
    for document in database.messages.find(query, {"content": True}):
        messages.setdefault(document["_id"]["chat_id"], {})[document["_id"]["seq"]] = label(document["content"])
    completions = {document["_id"]["chat_id"]: document for document in database.completions.find(query)}
    trashed = {document["_id"]["chat_id"]: document["chat"]["title"] for document in database.trash.find(query)}
    return Stored(
        titles={document["_id"]["chat_id"]: document["title"] for document in database.chats.find(query)} | trashed,
        messages=messages,
        receipts={
            document["_id"]["chat_id"]: _stored_receipt(document, completions)
            for document in database.deletions.find(query)
        },
        findings=[f"{finding.kind} {finding.chat_id}: {finding.detail}" for finding in Checks(database).run()],
        trashed=frozenset(trashed),
        log=read_log(database, tenant_id),
    )


def _stored_receipt(document: dict[str, Any], completions: dict[str, dict[str, Any]]) -> StoredReceipt:
    receipt = from_document(document, None, completions.get(document["_id"]["chat_id"]))
    state = "running" if receipt.completed_at is None else "complete"
    deleted_at = receipt.deleted_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return StoredReceipt(receipt.message_count, deleted_at, document["operation"], state, receipt.purged)


def check(
    records: Sequence[Record], stored: Stored, bound_seconds: float, faults: Sequence[tuple[float, float]] = ()
) -> list[Violation]:
    """Return every broken promise; a request that took longer than the bound is one.

    `faults` are the spans in which the database could not be written to, in order, on the clock of the records.
    """
    violations = [Violation("inconsistent", "", finding) for finding in stored.findings]
    for record in records:
        violations += [Violation(kind, record.chat_id, detail) for kind, detail in _answer(record, bound_seconds)]
    violations += [Violation(kind, "", detail) for kind, detail in _creations(records, stored)]
    violations += [Violation(kind, chat_id, detail) for chat_id, kind, detail in _runs(records, stored)]
    chats = by_chat(records)
    if stored.log is not None:
        violations += [
            Violation("log", chat_id, detail) for chat_id, detail in check_log(stored.log, chats, stored.states)
        ]
    for chat_id in {*chats, *stored.titles, *stored.messages, *stored.receipts} - {""}:
        chat_records = chats.get(chat_id, [])
        for check_chat in (_life, _deletes, _receipts, _posts, _order, _trash):
            violations += [
                Violation(kind, chat_id, detail) for kind, detail in check_chat(chat_id, chat_records, stored)
            ]
        for check_with_faults in (_connections, _exports):
            violations += [Violation(kind, chat_id, detail) for kind, detail in check_with_faults(chat_records, faults)]
    return violations


def _answer(record: Record, bound_seconds: float) -> Problems:
    if record.status is None and record.code != HUNG_UP:
        yield "no answer", f"{record.operation} was cut off"
    elif (record.status, record.code) not in EXPECTED[record.kind]:
        yield "unexpected answer", f"{record.operation}: {record.status} {record.code}"
    if record.took > bound_seconds:
        yield "too slow", f"{record.operation} took {record.took:.1f} s"


def _creations(records: Sequence[Record], stored: Stored) -> Problems:
    """A chat whose creation was refused does not exist, and no chat was created twice."""
    titles = Counter(stored.titles.values())
    for operation, attempts in by_operation(record for record in records if record.kind == "create").items():
        if titles[operation] > 1:
            yield "created twice", operation
        if titles[operation] and not any(record.succeeded or record.is_unknown for record in attempts):
            yield "dishonest", f"{operation} was refused and is there"


def _life(chat_id: str, records: Sequence[Record], stored: Stored) -> Problems:
    """Each chat that was created either exists or has a receipt; a chat that nobody created has neither."""
    lives, deleted = chat_id in stored.titles, chat_id in stored.receipts
    creates = [record for record in records if record.kind == "create"]
    if lives and deleted:
        yield "partial delete", "the chat lives and has a receipt"
    if any(record.succeeded for record in creates) and not (lives or deleted):
        yield "lost create", "the chat is neither there nor deleted"
    if (lives or deleted) and not any(record.succeeded or record.is_unknown for record in creates):
        yield "from nowhere", "nobody has made this chat, or all were refused"
    if not lives and chat_id in stored.messages:
        yield "partial delete", f"{len(stored.messages[chat_id])} messages of a chat that is gone"


def _deletes(chat_id: str, records: Sequence[Record], stored: Stored) -> Problems:
    """At most one delete of a chat gets a 200, and this answer is true; no other answer hides a delete."""
    operations = by_operation(record for record in records if record.kind in DELETES)
    winners = {name: attempts for name, attempts in operations.items() if any(record.succeeded for record in attempts)}
    deleted = chat_id in stored.receipts
    if len(winners) > 1:
        yield "two 200s", " and ".join(winners)
    if winners and not deleted:
        yield "lost delete", f"{', '.join(winners)} had a 200, and there is no receipt"
    if deleted and not winners and not any(attempts[-1].is_unknown for attempts in operations.values()):
        yield "dishonest", "the chat was deleted, and every delete was refused"
    known_from = _known_from(records)
    for name, attempts in winners.items():
        first = next(record for record in attempts if record.succeeded)
        others = [record for record in attempts if record.status in {200, 404, 409} and not record.is_unknown]
        if any(_contradicts(record, first, known_from) for record in others):
            yield "another answer", f"{name} was answered differently when it was repeated"
        deleted_at = _deleted_at(first)
        if deleted and deleted_at and stored.receipts[chat_id].deleted_at not in {"", deleted_at}:
            yield "another answer", f"{name} says {deleted_at}, and the receipt {stored.receipts[chat_id].deleted_at}"


def _contradicts(record: Record, first: Record, known_from: float) -> bool:
    """Whether an answer to an operation contradicts the first answer that said "deleted"."""
    if record.succeeded:
        return record.answer != first.answer
    if record.status == 404:
        # The chat existed, and no other operation deleted it.
        return record.began > known_from
    return record.began > first.ended


def _deleted_at(record: Record) -> str:
    if record.kind == "bulk":
        return record.answer.decode()
    try:
        return str(json.loads(record.answer)["deleted_at"])
    except (ValueError, KeyError, TypeError):
        return ""


def _runs(records: Sequence[Record], stored: Stored) -> Iterator[tuple[str, str, str]]:
    """If a run of a bulk delete deleted a chat, at least one answer to the bulk delete says so."""
    for name, attempts in by_operation(record for record in records if record.kind == "bulk").items():
        runs = {
            stored.receipts[record.chat_id].run
            for record in attempts
            if record.succeeded and record.chat_id in stored.receipts
        }
        for chat_id, chat_records in by_chat(attempts).items():
            receipt = stored.receipts.get(chat_id)
            if receipt is None or not receipt.run or receipt.run not in runs or chat_records[-1].is_unknown:
                continue
            if not any(record.succeeded for record in chat_records):
                answers = {(record.status, record.code) for record in chat_records}
                yield chat_id, "dishonest", f"{name} deleted the chat, and answered {answers}"


def _receipts(chat_id: str, records: Sequence[Record], stored: Stored) -> Problems:
    """Whenever a receipt is read as complete, no message is left; and it counts the messages that were removed."""
    receipt = stored.receipts.get(chat_id)
    cleared = any(record.kind == "clear" and record.may_have_happened for record in records)
    if receipt is not None:
        if receipt.state != "complete":
            yield "unfinished", "no purge is left, and the receipt is not complete"
        elif chat_id in stored.messages:
            yield "false receipt", f"complete, with {len(stored.messages[chat_id])} messages on the disk"
        if receipt.deleted not in {None, receipt.message_count} and not cleared:
            yield "wrong receipt", f"{receipt.deleted} of {receipt.message_count} messages were removed"
    for record in (record for record in records if record.kind == "receipt"):
        if record.status != 503 and record.succeeded != (receipt is not None):
            yield "dishonest", f"{record.operation}: {record.status}"
        elif record.seen is not None and receipt is not None:
            yield from _reading(record, receipt, cleared=cleared)


def _reading(record: Record, receipt: StoredReceipt, *, cleared: bool) -> Problems:
    """Check a receipt that was read while the load ran."""
    seen: Receipt = record.seen
    if seen.state == "complete" and seen.on_disk:
        yield "false receipt", f"{record.operation}: complete, with {seen.on_disk} messages on the disk"
    if receipt.deleted_at not in {"", seen.deleted_at}:
        yield "receipt changed", f"{record.operation}: {seen.deleted_at}, and now {receipt.deleted_at}"
    if seen.message_count != receipt.message_count and not cleared:
        yield "receipt changed", f"{record.operation}: {seen.message_count}, and now {receipt.message_count}"


def _posts(chat_id: str, records: Sequence[Record], stored: Stored) -> Problems:
    """A chat has each acknowledged message once, under its own seq, and none that was refused or cleared."""
    operations = by_operation(record for record in records if record.kind == "post")
    clears = [record for record in records if record.kind == "clear" and record.may_have_happened]
    acked = {name for name, attempts in operations.items() if any(record.succeeded for record in attempts)}
    unknown = {name for name, attempts in operations.items() if name not in acked and attempts[-1].is_unknown}
    cleared = {
        name for name, attempts in operations.items() if any(clear.settled > attempts[0].began for clear in clears)
    }
    if chat_id in stored.receipts:
        least = sum(len(operations[name][0].parts) for name in acked - cleared)
        most = sum(len(operations[name][0].parts) for name in acked | unknown)
        if not least <= stored.receipts[chat_id].message_count <= most:
            yield "wrong receipt", f"{stored.receipts[chat_id].message_count} messages, of {least} to {most}"
    if chat_id not in stored.titles:
        return
    messages = stored.messages.get(chat_id, {})
    present = Counter(messages.values())
    if sorted(messages) != list(range(min(messages, default=1), max(messages, default=0) + 1)):
        yield "gap", "the numbers of the messages do not run on"
    elif messages and min(messages) != 1 and not clears:
        yield "gap", "the numbers of the messages do not run from 1 on"
    for name, attempts in operations.items():
        count = sum(present.pop(part, 0) for part in attempts[0].parts)
        yield from _post(name, attempts, count, acked=name in acked, unknown=name in unknown, cleared=name in cleared)
        if count and any(clear.succeeded and clear.began > _acked_at(attempts) for clear in clears):
            yield "not cleared", f"{name} was there when the chat was emptied, and still is"
        if count and name in acked and not _is_in_place(attempts, messages):
            yield "lost post", f"{name} was acknowledged under other numbers"
    if present:
        yield "from nowhere", f"messages that nobody posted: {list(present)[:3]}"


def _acked_at(attempts: Sequence[Record]) -> float:
    return min((record.ended for record in attempts if record.succeeded), default=NEVER)


def _post(name: str, attempts: Sequence[Record], count: int, *, acked: bool, unknown: bool, cleared: bool) -> Problems:
    expected = len(attempts[0].parts)
    if count > expected:
        yield "posted twice", name
    elif count not in {0, expected} and (unknown or cleared):
        yield "half a post", f"{count} of {expected} messages of {name}"
    elif acked and count < expected and not cleared:
        yield "lost post", f"{name} was acknowledged, and {expected - count} of its messages are not there"
    elif not acked and not unknown and count:
        yield "dishonest", f"{name} was refused and is there"


def _is_in_place(attempts: Sequence[Record], messages: dict[int, str]) -> bool:
    answers = [json.loads(record.answer)["messages"] for record in attempts if record.succeeded]
    return all(messages.get(message["seq"]) == label(message["content"]) for answer in answers for message in answer)


def _known_from(records: Sequence[Record]) -> float:
    """Return when the creation of the chat was answered: a 404 to a request that began earlier may be right."""
    return min((record.ended for record in records if record.kind == "create" and record.succeeded), default=NEVER)


def _order(chat_id: str, records: Sequence[Record], stored: Stored) -> Problems:
    """After one answer said that the chat is gone, no later request is answered otherwise, and the chat is gone."""
    operations = by_operation(record for record in records if record.kind != "disconnect")
    # A retry of anything but a delete may repeat the answer from before the chat was gone.
    first = [
        record
        for attempts in operations.values()
        for record in (attempts if attempts[0].kind in DELETES else attempts[:1])
    ]
    deleted = [record.ended for record in first if record.kind in DELETES and record.succeeded]
    known_from = _known_from(records)
    hidden_spans = may_be_hidden(records)
    not_found = [
        record
        for record in first
        if (record.status, record.code) == GONE
        and record.began > known_from
        and not any(span.touches(record) for span in hidden_spans)
    ]
    if not_found and chat_id in stored.titles:
        yield "false 404", "the chat lives"
    gone_at = min([*deleted, *(record.ended for record in not_found)], default=NEVER)
    for record in first:
        if record.succeeded and record.kind not in {*DELETES, "receipt"} and record.began > gone_at:
            yield "resurrection", f"{record.operation} succeeded {record.began - gone_at:.2f} s after the chat was gone"
    for attempts in (
        attempts
        for attempts in operations.values()
        if attempts[0].kind in DELETES and any(attempt.succeeded for attempt in attempts)
    ):
        others = [record for record in not_found if record.operation != attempts[0].operation]
        if any(record.ended < min(attempt.began for attempt in attempts) for record in others):
            yield "resurrection", f"{attempts[0].operation} deleted the chat after it was gone"


def _trash(chat_id: str, records: Sequence[Record], stored: Stored) -> Problems:
    """A chat in the trash is hidden; at the end each chat is where the answers said, in the trash or not."""
    yield from check_trash(records, lives=chat_id in stored.titles, is_trashed=chat_id in stored.trashed)


def _connections(records: Sequence[Record], faults: Sequence[tuple[float, float]]) -> Problems:
    """A delete gets a 409 only if there is a connection, and no chat is deleted while there is one."""
    disconnects = {record.operation: record for record in records if record.kind == "disconnect"}
    connects = [record for record in records if record.kind == "connect" and (record.succeeded or record.is_unknown)]
    deletes = by_operation(record for record in records if record.kind in REMOVALS)
    for delete in (record for attempts in deletes.values() for record in attempts if record.status == 409):
        if not any(_may_be_open(connect, disconnects.get(connect.operation), delete, faults) for connect in connects):
            yield "dishonest", f"{delete.operation}: 409 without a connection"
    for delete in (attempts[0] for attempts in deletes.values()):
        if delete.succeeded and any(
            _outlives(connect, disconnects.get(connect.operation), delete) for connect in connects
        ):
            yield "deleted under a connection", delete.operation


def _may_be_open(
    connect: Record, disconnect: Record | None, delete: Record, faults: Sequence[tuple[float, float]]
) -> bool:
    last = connect if connect.is_unknown else disconnect
    return connect.began < delete.ended and (last is None or _released_at(last, faults) > delete.began)


def _released_at(last: Record, faults: Sequence[tuple[float, float]]) -> float:
    """Return by when the lease of a connection that ended with `last` is released: soon, or soon after a fault."""
    end = last.ended + LEEWAY_SECONDS
    for began, ended in faults:
        if began < end and ended > last.began:
            end = max(end, ended + AFTER_FAULT_SECONDS)
    return min(end, last.ended + LEASE_SECONDS + LEEWAY_SECONDS)


def _outlives(connect: Record, disconnect: Record | None, delete: Record) -> bool:
    """Whether the connection was still open when the delete had succeeded, whichever of the two began first.

    For a trashing, only a connection that was open before it counts: a later one may follow a restore.
    """
    if disconnect is not None and disconnect.code == BY_SERVER:
        return False
    if delete.kind == "trash" and connect.ended > delete.began:
        return False
    end = disconnect.began if disconnect is not None else connect.began + LEASE_SECONDS - LEEWAY_SECONDS
    return connect.succeeded and end > delete.ended


def _exports(records: Sequence[Record], faults: Sequence[tuple[float, float]]) -> Problems:
    """An export shows the chat at one moment, or was visibly cut for a reason."""
    posts = by_operation(record for record in records if record.kind == "post")
    clears = [record for record in records if record.kind == "clear"]
    removals = [record for record in records if record.kind in REMOVALS]
    deletes = [record for record in removals if record.kind in DELETES]
    won_deletes = [
        next(record for record in attempts if record.succeeded)
        for attempts in by_operation(deletes).values()
        if _won(attempts)
    ]
    for export in (record for record in records if record.kind == "export" and record.seen is not None):
        broken = any(
            fault_began < export.ended and fault_ended + AFTER_FAULT_SECONDS > export.began
            for fault_began, fault_ended in faults
        )
        deleted = any(removal.may_have_happened and removal.began < export.ended for removal in removals)
        yield from check_export(export, posts, clears, won_deletes, is_excused=broken or deleted)


def _won(attempts: Sequence[Record]) -> bool:
    return any(record.succeeded for record in attempts)
