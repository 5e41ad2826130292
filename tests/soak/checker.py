"""What was answered, against what is stored: every promise, chat by chat.

`look` reads what is stored, and `check` compares; it is a pure function, so that test_checker.py can show it each kind
of lie.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.presence import LEASE
from tests.soak.connections import BY_SERVER
from tests.soak.record import Record, by_chat, by_operation

UNAVAILABLE, UNKNOWN = (503, "database_unavailable"), (503, "outcome_unknown")
GONE = (404, "chat_not_found")

EXPECTED = {
    "create": {(201, ""), (409, "chat_exists"), (409, "chat_id_retired"), UNAVAILABLE, UNKNOWN},
    "post": {(201, ""), GONE, UNAVAILABLE, UNKNOWN},
    "read": {(200, ""), GONE, UNAVAILABLE},
    "receipt": {(200, ""), (404, "not_found")},
    "connect": {(101, ""), GONE, UNAVAILABLE, UNKNOWN},
    "disconnect": {(200, ""), (200, BY_SERVER), UNKNOWN},
    "delete": {(200, ""), GONE, (409, "active_connections"), UNAVAILABLE, UNKNOWN},
    "bulk": {(200, ""), GONE, (409, "active_connections"), UNAVAILABLE, UNKNOWN},
}
"""What may be answered at all, by kind of request."""

DELETES = {"delete", "bulk"}

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


class Stored(NamedTuple):
    """What the database holds of one tenant."""

    titles: dict[str, str | None]
    """Of each living chat."""
    messages: dict[str, dict[int, str]]
    """Of each chat that has some, living or not: seq -> content."""
    receipts: dict[str, int]
    """Of each deleted chat: how many messages it had."""
    findings: list[str]
    """What `flask check` finds."""


Found = Iterator[tuple[str, str]]
"""Kind and detail of what is wrong with one chat."""


def look(database: Database, tenant_id: str) -> Stored:
    """Read what is stored."""
    mine = {"_id.tenant_id": tenant_id}
    messages: dict[str, dict[int, str]] = {}
    for found in database.messages.find(mine, {"content": True}):
        messages.setdefault(found["_id"]["chat_id"], {})[found["_id"]["seq"]] = found["content"]
    return Stored(
        titles={found["_id"]["chat_id"]: found["title"] for found in database.chats.find(mine)},
        messages=messages,
        receipts={found["_id"]["chat_id"]: found["message_count"] for found in database.deletions.find(mine)},
        findings=[f"{finding.kind} {finding.chat_id}: {finding.detail}" for finding in Checks(database).run()],
    )


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
    chats = by_chat(records)
    for chat_id in {*chats, *stored.titles, *stored.messages, *stored.receipts} - {""}:
        told = chats.get(chat_id, [])
        for part in (_life, _deletes, _posts, _order):
            found += [Violation(kind, chat_id, detail) for kind, detail in part(chat_id, told, stored)]
        found += [Violation(kind, chat_id, detail) for kind, detail in _connections(told, faults)]
    return found


def _answer(record: Record, bound_seconds: float) -> Found:
    if record.status is None:
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
    for name, of in winners.items():
        first = next(record for record in of if record.succeeded)
        later = [record for record in of[of.index(first) :] if record.status != 503]
        if any((record.status, record.answer) != (first.status, first.answer) for record in later):
            yield "another answer", f"{name} was answered differently when it was repeated"
    for record in told:
        if record.kind == "receipt" and record.succeeded != deleted:
            yield "dishonest", f"{record.operation}: {record.status}"


def _posts(chat_id: str, told: Sequence[Record], stored: Stored) -> Found:
    """A living chat has what was acknowledged, once and in its place, and nothing that was refused."""
    operations = by_operation(record for record in told if record.kind == "post")
    acked = {name for name, of in operations.items() if any(record.succeeded for record in of)}
    unknown = {name for name, of in operations.items() if name not in acked and of[-1].is_unknown}
    if chat_id in stored.receipts:
        least = sum(len(operations[name][0].parts) for name in acked)
        most = least + sum(len(operations[name][0].parts) for name in unknown)
        if not least <= stored.receipts[chat_id] <= most:
            yield "wrong receipt", f"{stored.receipts[chat_id]} messages, and {least} to {most} were posted"
    if chat_id not in stored.titles:
        return
    messages = stored.messages.get(chat_id, {})
    present = Counter(messages.values())
    if sorted(messages) != list(range(1, len(messages) + 1)):
        yield "gap", "the numbers of the messages do not run from 1 on"
    for name, of in operations.items():
        there = sum(present.pop(part, 0) for part in of[0].parts)
        yield from _post(name, of, there, acked=name in acked, unknown=name in unknown)
        if name in acked and not _is_in_place(of, messages):
            yield "lost post", f"{name} was acknowledged under other numbers"
    if present:
        yield "from nowhere", f"messages that nobody posted: {list(present)[:3]}"


def _post(name: str, of: Sequence[Record], there: int, *, acked: bool, unknown: bool) -> Found:
    wanted = len(of[0].parts)
    if there > wanted:
        yield "posted twice", name
    elif acked and there < wanted:
        yield "lost post", f"{name} was acknowledged, and {wanted - there} of its messages are not there"
    elif unknown and there not in {0, wanted}:
        yield "half a post", f"{there} of {wanted} messages of {name}"
    elif not acked and not unknown and there:
        yield "dishonest", f"{name} was refused and is there"


def _is_in_place(of: Sequence[Record], messages: dict[int, str]) -> bool:
    answers = [json.loads(record.answer)["messages"] for record in of if record.succeeded]
    return all(messages.get(one["seq"]) == one["content"] for answer in answers for one in answer)


def _order(chat_id: str, told: Sequence[Record], stored: Stored) -> Found:
    """Once anybody was told that the chat is gone, nobody is told otherwise; and it is gone."""
    first = [of[0] for of in by_operation(record for record in told if record.kind != "disconnect").values()]
    deleted = [record.ended for record in first if record.kind in DELETES and record.succeeded]
    # Who was told before there was a chat was told the truth.
    there = min((record.ended for record in first if record.kind == "create" and record.succeeded), default=NEVER)
    missed = [record.ended for record in first if (record.status, record.code) == GONE and record.began > there]
    if missed and chat_id in stored.titles:
        yield "false 404", "the chat lives"
    gone = min([*deleted, *missed], default=NEVER)
    for record in first:
        if record.succeeded and record.kind not in {*DELETES, "receipt"} and record.began > gone:
            yield "resurrection", f"{record.operation} succeeded {record.began - gone:.2f} s after the chat was gone"


def _connections(told: Sequence[Record], faults: Sequence[tuple[float, float]]) -> Found:
    """A 409 has a connection behind it, and no chat is deleted under one."""
    closed = {record.operation: record for record in told if record.kind == "disconnect"}
    opened = [record for record in told if record.kind == "connect" and (record.succeeded or record.is_unknown)]
    for delete in (of[0] for of in by_operation(one for one in told if one.kind in DELETES).values()):
        if delete.status == 409 and not any(
            _may_live(one, closed.get(one.operation), delete, faults) for one in opened
        ):
            yield "dishonest", f"{delete.operation}: 409 without a connection"
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
    """Whichever of the two came first: the connection was still there when the delete had succeeded."""
    if closed is not None and closed.code == BY_SERVER:
        return False
    end = closed.began if closed is not None else opened.began + LEASE_SECONDS - LEEWAY_SECONDS
    return opened.succeeded and end > delete.ended
