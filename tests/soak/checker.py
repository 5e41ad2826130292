"""What was answered, against what is stored: every promise, chat by chat.

`look` reads what is stored, and `check` compares; it is a pure function, so that test_checker.py can show it each kind
of lie.
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
from tests.soak.log import Book, check_log, read_log
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
"""What may be answered at all, by kind of request."""

DELETES = {"delete", "bulk"}
REMOVALS = {*DELETES, "trash"}

NEVER = float("inf")

LEASE_SECONDS = LEASE.total_seconds()
LEEWAY_SECONDS = 1.0
"""Between the clock of the callers and that of the leases, and for a lease to be given up."""

AFTER_FAULT_SECONDS = 10.0
"""A lease that could not be given up in a fault is, by the next renewal: one in 5 s, which may have to be repeated."""


class Violation(NamedTuple):
    kind: str
    chat_id: str
    detail: str


class Kept(NamedTuple):
    """The receipt of a deleted chat, when all purges have ended."""

    message_count: int
    deleted_at: str = ""
    run: str = ""
    """What the receipts of one run of a delete share."""
    state: str = "complete"
    deleted: int | None = None
    """Messages removed; None: as many as it had."""


class Stored(NamedTuple):
    """What the database holds of one tenant."""

    titles: dict[str, str | None]
    """Of each chat that lives or is in the trash."""
    messages: dict[str, dict[int, str]]
    """Of each chat that has some, living or not: seq -> content."""
    receipts: dict[str, Kept]
    """Of each deleted chat."""
    findings: list[str]
    """What `flask check` finds."""
    trashed: frozenset[str] = frozenset()
    """The chats in the trash."""
    log: Book | None = None
    """None: not looked at."""

    @property
    def states(self) -> dict[str, str]:
        """Of each chat the state that the log should end with."""
        living = {chat_id: "trashed" if chat_id in self.trashed else "live" for chat_id in self.titles}
        return {**living, **dict.fromkeys(self.receipts, "purged")}


Found = Iterator[tuple[str, str]]
"""Kind and detail of what is wrong with one chat."""


def look(database: Database, tenant_id: str) -> Stored:
    """Read what is stored."""
    mine = {"_id.tenant_id": tenant_id}
    messages: dict[str, dict[int, str]] = {}
    for found in database.messages.find(mine, {"content": True}):
        messages.setdefault(found["_id"]["chat_id"], {})[found["_id"]["seq"]] = label(found["content"])
    completions = {found["_id"]["chat_id"]: found for found in database.completions.find(mine)}
    trashed = {found["_id"]["chat_id"]: found["chat"]["title"] for found in database.trash.find(mine)}
    return Stored(
        titles={found["_id"]["chat_id"]: found["title"] for found in database.chats.find(mine)} | trashed,
        messages=messages,
        receipts={found["_id"]["chat_id"]: _kept(found, completions) for found in database.deletions.find(mine)},
        findings=[f"{finding.kind} {finding.chat_id}: {finding.detail}" for finding in Checks(database).run()],
        trashed=frozenset(trashed),
        log=read_log(database, tenant_id),
    )


def _kept(found: dict[str, Any], completions: dict[str, dict[str, Any]]) -> Kept:
    receipt = from_document(found, None, completions.get(found["_id"]["chat_id"]))
    state = "running" if receipt.completed_at is None else "complete"
    at = receipt.deleted_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Kept(receipt.message_count, at, found["operation"], state, receipt.purged)


def check(
    records: Sequence[Record], stored: Stored, bound_seconds: float, faults: Sequence[tuple[float, float]] = ()
) -> list[Violation]:
    """Return everything that is not as promised; no request may have taken longer than the bound.

    `faults` are when the database could not be written to, in their order, on the clock of the records.
    """
    found = [Violation("inconsistent", "", finding) for finding in stored.findings]
    for record in records:
        found += [Violation(kind, record.chat_id, detail) for kind, detail in _answer(record, bound_seconds)]
    found += [Violation(kind, "", detail) for kind, detail in _creations(records, stored)]
    found += [Violation(kind, chat_id, detail) for chat_id, kind, detail in _runs(records, stored)]
    chats = by_chat(records)
    if stored.log is not None:
        found += [Violation("log", chat_id, wrong) for chat_id, wrong in check_log(stored.log, chats, stored.states)]
    for chat_id in {*chats, *stored.titles, *stored.messages, *stored.receipts} - {""}:
        told = chats.get(chat_id, [])
        for part in (_life, _deletes, _receipts, _posts, _order, _trash):
            found += [Violation(kind, chat_id, detail) for kind, detail in part(chat_id, told, stored)]
        for timed in (_connections, _exports):
            found += [Violation(kind, chat_id, detail) for kind, detail in timed(told, faults)]
    return found


def _answer(record: Record, bound_seconds: float) -> Found:
    if record.status is None and record.code != HUNG_UP:
        yield "no answer", f"{record.operation} was cut off"
    elif (record.status, record.code) not in EXPECTED[record.kind]:
        yield "unexpected answer", f"{record.operation}: {record.status} {record.code}"
    if record.took > bound_seconds:
        yield "too slow", f"{record.operation} took {record.took:.1f} s"


def _creations(records: Sequence[Record], stored: Stored) -> Found:
    """A chat that was refused is not there, and none was made twice."""
    titles = Counter(stored.titles.values())
    for operation, told in by_operation(record for record in records if record.kind == "create").items():
        if titles[operation] > 1:
            yield "created twice", operation
        if titles[operation] and not any(record.succeeded or record.is_unknown for record in told):
            yield "dishonest", f"{operation} was refused and is there"


def _life(chat_id: str, told: Sequence[Record], stored: Stored) -> Found:
    """A chat lives or has a receipt; nothing that nobody made does."""
    lives, deleted = chat_id in stored.titles, chat_id in stored.receipts
    makers = [record for record in told if record.kind == "create"]
    if lives and deleted:
        yield "partial delete", "the chat lives and has a receipt"
    if any(record.succeeded for record in makers) and not (lives or deleted):
        yield "lost create", "the chat is neither there nor deleted"
    if (lives or deleted) and not any(record.succeeded or record.is_unknown for record in makers):
        yield "from nowhere", "nobody has made this chat, or all were refused"
    if not lives and chat_id in stored.messages:
        yield "partial delete", f"{len(stored.messages[chat_id])} messages of a chat that is gone"


def _deletes(chat_id: str, told: Sequence[Record], stored: Stored) -> Found:
    """One 200 for each chat, and it is true; no other answer hides a delete."""
    operations = by_operation(record for record in told if record.kind in DELETES)
    winners = {name: of for name, of in operations.items() if any(record.succeeded for record in of)}
    deleted = chat_id in stored.receipts
    if len(winners) > 1:
        yield "two 200s", " and ".join(winners)
    if winners and not deleted:
        yield "lost delete", f"{', '.join(winners)} had a 200, and there is no receipt"
    if deleted and not winners and not any(of[-1].is_unknown for of in operations.values()):
        yield "dishonest", "the chat was deleted, and every delete was refused"
    there = _there(told)
    for name, of in winners.items():
        first = next(record for record in of if record.succeeded)
        others = [record for record in of if record.status in {200, 404, 409} and not record.is_unknown]
        if any(_contradicts(record, first, there) for record in others):
            yield "another answer", f"{name} was answered differently when it was repeated"
        at = _deleted_at(first)
        if deleted and at and stored.receipts[chat_id].deleted_at not in {"", at}:
            yield "another answer", f"{name} says {at}, and the receipt {stored.receipts[chat_id].deleted_at}"


def _contradicts(record: Record, first: Record, there: float) -> bool:
    """Whether one answer of an operation cannot be true beside the first that said "deleted"."""
    if record.succeeded:
        return record.answer != first.answer
    if record.status == 404:
        # The chat was there, and nobody else has deleted it.
        return record.began > there
    return record.began > first.ended


def _deleted_at(record: Record) -> str:
    if record.kind == "bulk":
        return record.answer.decode()
    try:
        return str(json.loads(record.answer)["deleted_at"])
    except (ValueError, KeyError, TypeError):
        return ""


def _runs(records: Sequence[Record], stored: Stored) -> Iterator[tuple[str, str, str]]:
    """What a run of a bulk delete has deleted is stated by one of its answers, whatever others are answered."""
    for name, of in by_operation(record for record in records if record.kind == "bulk").items():
        runs = {stored.receipts[one.chat_id].run for one in of if one.succeeded and one.chat_id in stored.receipts}
        for chat_id, told in by_chat(of).items():
            kept = stored.receipts.get(chat_id)
            if kept is None or not kept.run or kept.run not in runs or told[-1].is_unknown:
                continue
            if not any(record.succeeded for record in told):
                answers = {(record.status, record.code) for record in told}
                yield chat_id, "dishonest", f"{name} deleted the chat, and answered {answers}"


def _receipts(chat_id: str, told: Sequence[Record], stored: Stored) -> Found:
    """A complete receipt means that nothing is left, whenever it is read; and it counts what was removed."""
    kept = stored.receipts.get(chat_id)
    cleared = any(record.kind == "clear" and record.may_have_happened for record in told)
    if kept is not None:
        if kept.state != "complete":
            yield "unfinished", "no purge is left, and the receipt is not complete"
        elif chat_id in stored.messages:
            yield "false receipt", f"complete, with {len(stored.messages[chat_id])} messages on the disk"
        if kept.deleted not in {None, kept.message_count} and not cleared:
            yield "wrong receipt", f"{kept.deleted} of {kept.message_count} messages were removed"
    for record in (record for record in told if record.kind == "receipt"):
        if record.status != 503 and record.succeeded != (kept is not None):
            yield "dishonest", f"{record.operation}: {record.status}"
        elif record.seen is not None and kept is not None:
            yield from _reading(record, kept, cleared=cleared)


def _reading(record: Record, kept: Kept, *, cleared: bool) -> Found:
    """Judge a receipt that was read while the load ran."""
    seen: Receipt = record.seen
    if seen.state == "complete" and seen.on_disk:
        yield "false receipt", f"{record.operation}: complete, with {seen.on_disk} messages on the disk"
    if kept.deleted_at not in {"", seen.deleted_at}:
        yield "receipt changed", f"{record.operation}: {seen.deleted_at}, and now {kept.deleted_at}"
    if seen.message_count != kept.message_count and not cleared:
        yield "receipt changed", f"{record.operation}: {seen.message_count}, and now {kept.message_count}"


def _posts(chat_id: str, told: Sequence[Record], stored: Stored) -> Found:
    """A living chat has what was acknowledged, once and in its place, and nothing that was refused or cleared."""
    operations = by_operation(record for record in told if record.kind == "post")
    clears = [record for record in told if record.kind == "clear" and record.may_have_happened]
    acked = {name for name, of in operations.items() if any(record.succeeded for record in of)}
    unknown = {name for name, of in operations.items() if name not in acked and of[-1].is_unknown}
    cleared = {name for name, of in operations.items() if any(one.settled > of[0].began for one in clears)}
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
    for name, of in operations.items():
        there = sum(present.pop(part, 0) for part in of[0].parts)
        yield from _post(name, of, there, acked=name in acked, unknown=name in unknown, cleared=name in cleared)
        if there and any(one.succeeded and one.began > _acked_at(of) for one in clears):
            yield "not cleared", f"{name} was there when the chat was emptied, and still is"
        if there and name in acked and not _is_in_place(of, messages):
            yield "lost post", f"{name} was acknowledged under other numbers"
    if present:
        yield "from nowhere", f"messages that nobody posted: {list(present)[:3]}"


def _acked_at(of: Sequence[Record]) -> float:
    return min((record.ended for record in of if record.succeeded), default=NEVER)


def _post(name: str, of: Sequence[Record], there: int, *, acked: bool, unknown: bool, cleared: bool) -> Found:
    wanted = len(of[0].parts)
    if there > wanted:
        yield "posted twice", name
    elif there not in {0, wanted} and (unknown or cleared):
        yield "half a post", f"{there} of {wanted} messages of {name}"
    elif acked and there < wanted and not cleared:
        yield "lost post", f"{name} was acknowledged, and {wanted - there} of its messages are not there"
    elif not acked and not unknown and there:
        yield "dishonest", f"{name} was refused and is there"


def _is_in_place(of: Sequence[Record], messages: dict[int, str]) -> bool:
    answers = [json.loads(record.answer)["messages"] for record in of if record.succeeded]
    return all(messages.get(one["seq"]) == label(one["content"]) for answer in answers for one in answer)


def _there(told: Sequence[Record]) -> float:
    """Return from when on everybody should have known the chat: who was told before that there is none was right."""
    return min((record.ended for record in told if record.kind == "create" and record.succeeded), default=NEVER)


def _order(chat_id: str, told: Sequence[Record], stored: Stored) -> Found:
    """Once anybody was told that the chat is gone, nobody is told otherwise; and it is gone."""
    operations = by_operation(record for record in told if record.kind != "disconnect")
    # A repetition of anything but a delete may be answered as it was before the chat was gone.
    first = [record for of in operations.values() for record in (of if of[0].kind in DELETES else of[:1])]
    deleted = [record.ended for record in first if record.kind in DELETES and record.succeeded]
    there = _there(told)
    hidden = may_be_hidden(told)
    missed = [
        record
        for record in first
        if (record.status, record.code) == GONE
        and record.began > there
        and not any(span.touches(record) for span in hidden)
    ]
    if missed and chat_id in stored.titles:
        yield "false 404", "the chat lives"
    gone = min([*deleted, *(record.ended for record in missed)], default=NEVER)
    for record in first:
        if record.succeeded and record.kind not in {*DELETES, "receipt"} and record.began > gone:
            yield "resurrection", f"{record.operation} succeeded {record.began - gone:.2f} s after the chat was gone"
    for of in (of for of in operations.values() if of[0].kind in DELETES and any(one.succeeded for one in of)):
        others = [record for record in missed if record.operation != of[0].operation]
        if any(record.ended < min(one.began for one in of) for record in others):
            yield "resurrection", f"{of[0].operation} deleted the chat after it was gone"


def _trash(chat_id: str, told: Sequence[Record], stored: Stored) -> Found:
    """In the trash a chat is hidden, and it is where its callers were told."""
    yield from check_trash(told, lives=chat_id in stored.titles, is_trashed=chat_id in stored.trashed)


def _connections(told: Sequence[Record], faults: Sequence[tuple[float, float]]) -> Found:
    """A 409 has a connection behind it, and no chat is deleted under one."""
    closed = {record.operation: record for record in told if record.kind == "disconnect"}
    opened = [record for record in told if record.kind == "connect" and (record.succeeded or record.is_unknown)]
    deletes = by_operation(one for one in told if one.kind in REMOVALS)
    for delete in (record for of in deletes.values() for record in of if record.status == 409):
        if not any(_may_live(one, closed.get(one.operation), delete, faults) for one in opened):
            yield "dishonest", f"{delete.operation}: 409 without a connection"
    for delete in (of[0] for of in deletes.values()):
        if delete.succeeded and any(_outlives(one, closed.get(one.operation), delete) for one in opened):
            yield "deleted under a connection", delete.operation


def _may_live(opened: Record, closed: Record | None, delete: Record, faults: Sequence[tuple[float, float]]) -> bool:
    last = opened if opened.is_unknown else closed
    return opened.began < delete.ended and (last is None or _given_up(last, faults) > delete.began)


def _given_up(last: Record, faults: Sequence[tuple[float, float]]) -> float:
    """Return by when the lease of a connection that ended so is given up: soon, or soon after a fault."""
    end = last.ended + LEEWAY_SECONDS
    for began, ended in faults:
        if began < end and ended > last.began:
            end = max(end, ended + AFTER_FAULT_SECONDS)
    return min(end, last.ended + LEASE_SECONDS + LEEWAY_SECONDS)


def _outlives(opened: Record, closed: Record | None, delete: Record) -> bool:
    """Whichever of the two came first: the connection was still there when the delete had succeeded.

    After a trashing it may have come first only, for the chat may have been restored since.
    """
    if closed is not None and closed.code == BY_SERVER:
        return False
    if delete.kind == "trash" and opened.ended > delete.began:
        return False
    end = closed.began if closed is not None else opened.began + LEASE_SECONDS - LEEWAY_SECONDS
    return opened.succeeded and end > delete.ended


def _exports(told: Sequence[Record], faults: Sequence[tuple[float, float]]) -> Found:
    """What was downloaded is the chat at one moment, or was visibly cut for a reason."""
    posts = by_operation(record for record in told if record.kind == "post")
    clears = [record for record in told if record.kind == "clear"]
    removals = [record for record in told if record.kind in REMOVALS]
    deletes = [record for record in removals if record.kind in DELETES]
    done = [next(of for of in found if of.succeeded) for found in by_operation(deletes).values() if _won(found)]
    for export in (record for record in told if record.kind == "export" and record.seen is not None):
        broken = any(one < export.ended and other + AFTER_FAULT_SECONDS > export.began for one, other in faults)
        deleted = any(one.may_have_happened and one.began < export.ended for one in removals)
        yield from check_export(export, posts, clears, done, is_excused=broken or deleted)


def _won(of: Sequence[Record]) -> bool:
    return any(record.succeeded for record in of)
