"""The checker finds each kind of violation, and finds none where all answers are true."""

import json
from dataclasses import replace

import pytest

from tests.soak.checker import Stored, StoredReceipt, check
from tests.soak.exports import AFTER_DELETE_BYTES
from tests.soak.log import LogEntry, TenantLog
from tests.soak.record import HUNG_UP, Export, Receipt, Record

CHAT = "c"
GONE = {"status": 404, "code": "chat_not_found"}
REFUSED = {"status": 503, "code": "database_unavailable"}
UNKNOWN = {"status": 503, "code": "outcome_unknown"}
CUT = {"status": None, "code": None}
CONNECTED = {"status": 409, "code": "active_connections"}

ALIVE = Stored(titles={CHAT: "create"}, messages={CHAT: {1: "p"}}, receipts={}, findings=[])
DELETED = Stored(titles={}, messages={}, receipts={CHAT: StoredReceipt(1)}, findings=[])
NOTHING = Stored(titles={}, messages={}, receipts={}, findings=[])

TRASHED = ALIVE._replace(trashed=frozenset({CHAT}))

_SUCCESS = {"connect": 101, "create": 201, "post": 201}


def record(kind: str, at: float, operation: str = "", **fields) -> Record:
    """Return the record of a request that began at `at`, took half a second and succeeded, unless `fields` differ."""
    status = _SUCCESS.get(kind, 200)
    if kind == "post":
        seq = fields.pop("seq", 1)
        answer = json.dumps({"messages": [{"seq": seq, "content": "p"}]}).encode()
        fields = {"parts": ("p",), "answer": answer if "status" not in fields else b"", **fields}
    if kind == "bulk":
        fields = {"key": "k", "answer": DELETED_AT if "status" not in fields else b"", **fields}
    return Record(kind, CHAT, operation or kind, at, at + 0.5, **{"status": status, **fields})


def export(at: float, rows: tuple[tuple[int, str], ...] = ((1, "p"),), **fields) -> Record:
    """Return the record of a complete export that took half a second."""
    counted = (len(rows), "sha")
    seen = {"stated": counted, "counted": counted, "ended_cleanly": True, "arrivals": ((at, 0), (at + 0.5, 100))}
    seen |= {name: fields.pop(name) for name in [*fields] if name in Export._fields}
    code = "cut" if seen["stated"] is None else ""
    return record("export", at, code=code, seen=Export(rows, **seen), **fields)


def receipt(at: float, state: str = "complete", on_disk: int = 0, **fields) -> Record:
    """Return the record of the read of a receipt for one message."""
    seen = Receipt(state, **{"message_count": 1, "deleted": 1, "on_disk": on_disk, **fields})
    return record("receipt", at, seen=seen)


DELETED_AT = b"2026-11-26T10:00:00Z"

CREATE, POST, DELETE = record("create", 0), record("post", 1), record("delete", 10)
OTHER_DELETE = record("delete", 10.2, "delete-2")

TRASH, RESTORE = record("trash", 3), record("restore", 6)

REFUSED_DELETE = record("delete", 10, status=409, code="active_connections")

BULK = record("bulk", 10)
BULK_UNDER_A_CONNECTION = record("bulk", 10, **CONNECTED)
CONNECT, DISCONNECT = record("connect", 9), record("disconnect", 10.1, "connect")
BY_BULK = DELETED._replace(receipts={CHAT: StoredReceipt(1, DELETED_AT.decode(), "run")})
"""The chat was deleted, and its receipt is of the run that deleted all chats of that bulk delete."""

OTHER = replace(BULK, chat_id="d")
WITH_OTHER = BY_BULK._replace(receipts={**BY_BULK.receipts, "d": StoredReceipt(0, DELETED_AT.decode(), "run")})
CREATE_OTHER = replace(record("create", 0, "create-2"), chat_id="d")

CLEAR = record("clear", 2)
EMPTY = ALIVE._replace(messages={})
ROW_2 = record("post", 3, "late", parts=("q",), answer=b'{"messages": [{"seq": 2, "content": "q"}]}')
CUT_EXPORT = {"stated": None, "ended_cleanly": False}
LATE = {"arrivals": ((9, 0), (10.5, 100), (12, 101 + AFTER_DELETE_BYTES)), **CUT_EXPORT}

TRUTHS = {
    "a chat that lives": ([CREATE, POST], ALIVE),
    "a chat that was deleted": ([CREATE, POST, DELETE], DELETED),
    "a delete refused": ([CREATE, POST, record("delete", 2, **REFUSED)], ALIVE),
    "an unknown delete that happened": ([CREATE, POST, record("delete", 2, **UNKNOWN)], DELETED),
    "an unknown delete that did not happen": ([CREATE, POST, record("delete", 2, **UNKNOWN)], ALIVE),
    "an unknown delete that a repetition settled": (
        [CREATE, POST, record("delete", 2, key="k", **UNKNOWN), record("delete", 3, key="k")],
        DELETED,
    ),
    "an unknown post that happened": ([CREATE, record("post", 1, **UNKNOWN)], ALIVE),
    "an unknown post that the receipt counts": ([CREATE, record("post", 1, **UNKNOWN), DELETE], DELETED),
    "a 404 after the delete": ([CREATE, POST, DELETE, record("post", 11, "late", **GONE)], DELETED),
    "a 404 before the chat was made": (
        [record("post", 0, "early", parts=("e",), **GONE), record("create", 1), record("post", 2)],
        ALIVE,
    ),
    "a 409 under a connection": (
        [CREATE, POST, record("connect", 2), record("delete", 3, status=409, code="active_connections")],
        ALIVE,
    ),
    "a chat in the trash": ([CREATE, POST, TRASH, record("read", 4, **GONE)], TRASHED),
    "a chat that was restored": ([CREATE, POST, TRASH, record("read", 4, **GONE), RESTORE, record("read", 7)], ALIVE),
    "a chat that was read until it went to the trash": (
        [CREATE, POST, replace(record("read", 2), ended=3.2), TRASH],
        TRASHED,
    ),
    "a chat deleted out of the trash": ([CREATE, POST, TRASH, DELETE], DELETED),
    "an unknown trashing that happened later": (
        [CREATE, POST, record("trash", 3, **UNKNOWN), record("read", 4), record("read", 6, **GONE)],
        TRASHED,
    ),
    "a trashing that was refused under a connection": (
        [CREATE, POST, record("connect", 2), record("trash", 3, **CONNECTED), record("disconnect", 4, "connect")],
        ALIVE,
    ),
    "a connection after a restore": (
        [CREATE, POST, TRASH, RESTORE, record("connect", 7), record("disconnect", 9, "connect")],
        ALIVE,
    ),
    "trashed again after a restore": ([CREATE, POST, TRASH, RESTORE, record("trash", 8, "trash-2")], TRASHED),
    "a delete after the connection was closed": (
        [CREATE, POST, record("connect", 2), record("disconnect", 4, "connect"), DELETE],
        DELETED,
    ),
    "a delete after the lease": ([CREATE, POST, record("connect", 2), record("delete", 40)], DELETED),
    "a bulk delete repeated": ([CREATE, POST, BULK, record("bulk", 11)], BY_BULK),
    "a bulk delete repeated while it runs, refused only while there was a connection": (
        [CREATE, POST, CONNECT, BULK_UNDER_A_CONNECTION, DISCONNECT, record("bulk", 10.3)],
        BY_BULK,
    ),
    "a bulk delete whose caller hung up, and asked again": (
        [CREATE, POST, record("bulk", 10, status=None, code=HUNG_UP), record("bulk", 11)],
        BY_BULK,
    ),
    "a bulk delete whose caller hung up, with its turn after the repetition that was refused": (
        [
            *(CREATE, POST, CONNECT, record("bulk", 9.6, status=None, code=HUNG_UP)),
            *(replace(BULK_UNDER_A_CONNECTION, began=9.9), DISCONNECT, record("bulk", 30)),
        ],
        BY_BULK,
    ),
    "a bulk delete, and another later": ([CREATE, POST, BULK, record("bulk", 11, "bulk-2", **GONE)], BY_BULK),
    "a bulk delete that left a chat to another": (
        [CREATE, CREATE_OTHER, POST, record("bulk", 10, **GONE), OTHER, record("delete", 9)],
        WITH_OTHER._replace(receipts={CHAT: StoredReceipt(1), "d": StoredReceipt(0, DELETED_AT.decode(), "run")}),
    ),
    "a chat that was emptied": ([CREATE, POST, CLEAR], EMPTY),
    "a chat that was emptied and went on": ([CREATE, POST, CLEAR, ROW_2], ALIVE._replace(messages={CHAT: {2: "q"}})),
    "a chat that was perhaps emptied": ([CREATE, POST, record("clear", 2, **UNKNOWN)], ALIVE),
    "a chat emptied and deleted": ([CREATE, POST, CLEAR, DELETE], DELETED),
    "a chat emptied and deleted, with nothing counted": (
        [CREATE, POST, CLEAR, DELETE],
        DELETED._replace(receipts={CHAT: StoredReceipt(0)}),
    ),
    "a receipt while the purge runs": ([CREATE, POST, DELETE, receipt(11, "running", 1, deleted=0)], DELETED),
    "a receipt when it has run": ([CREATE, POST, DELETE, receipt(11)], DELETED),
    "a receipt that could not be had": ([CREATE, POST, DELETE, record("receipt", 11, **REFUSED)], DELETED),
    "an export": ([CREATE, POST, export(2)], ALIVE),
    "an export while one posts": ([CREATE, record("post", 2), export(2.1, rows=())], ALIVE),
    "an export while one empties": ([CREATE, POST, CLEAR, export(2.1)], EMPTY),
    "an export after one emptied": ([CREATE, POST, CLEAR, ROW_2, export(4, rows=((2, "q"),)), DELETE], DELETED),
    "an export that the delete cut": ([CREATE, POST, DELETE, export(9.8, rows=(), **CUT_EXPORT)], DELETED),
    "an export that ends while the chat is deleted": ([CREATE, POST, DELETE, export(9.8)], DELETED),
    "an export of nothing, later": ([CREATE, POST, DELETE, record("export", 11, **GONE)], DELETED),
}

VIOLATIONS = {
    "shown from the trash": ([CREATE, POST, TRASH, record("read", 4), RESTORE], ALIVE),
    "shown from the trash, by a post": (
        [CREATE, POST, TRASH, record("post", 4, "late", parts=("q",), answer=ROW_2.answer), RESTORE],
        ALIVE._replace(messages={CHAT: {1: "p", 2: "q"}}),
    ),
    "lost trash": ([CREATE, POST, TRASH], ALIVE),
    "lost restore": ([CREATE, POST, TRASH, RESTORE], TRASHED),
    "from nowhere, in the trash": ([CREATE, POST, record("trash", 3, **REFUSED)], TRASHED),
    "from nowhere, restored": ([CREATE, POST, RESTORE], ALIVE),
    "false 404, after the restore": ([CREATE, POST, TRASH, RESTORE, record("read", 7, **GONE)], ALIVE),
    "false 404, before the trashing": ([CREATE, POST, record("read", 2, **GONE), TRASH, RESTORE], ALIVE),
    "deleted under a connection, to the trash": (
        [CREATE, POST, record("connect", 2), TRASH, record("disconnect", 5, "connect")],
        TRASHED,
    ),
    "lost create, out of the trash": ([CREATE, POST, TRASH], NOTHING),
    "two 200s": ([CREATE, POST, DELETE, OTHER_DELETE], DELETED),
    "lost delete": ([CREATE, POST, DELETE], ALIVE),
    "partial delete": ([CREATE, POST, DELETE], DELETED._replace(messages={CHAT: {1: "p"}})),
    "partial delete, chat": ([CREATE, POST, DELETE], ALIVE._replace(receipts={CHAT: StoredReceipt(1)})),
    "lost create": ([CREATE], NOTHING),
    "from nowhere": ([], ALIVE),
    "from nowhere, refused": ([record("create", 0, **REFUSED), POST], ALIVE._replace(titles={CHAT: "x"})),
    "from nowhere, a message": ([CREATE], ALIVE),
    "created twice": ([CREATE, POST], ALIVE._replace(titles={CHAT: "create", "d": "create"})),
    "dishonest": ([CREATE, POST, record("delete", 2, **REFUSED)], DELETED),
    "dishonest, create": ([record("create", 0, **REFUSED)], ALIVE),
    "dishonest, post": ([CREATE, record("post", 1, **REFUSED)], ALIVE),
    "dishonest, 409": ([CREATE, POST, record("delete", 3, status=409, code="active_connections")], ALIVE),
    "dishonest, 409 after the connection": (
        [CREATE, POST, record("connect", 2), record("disconnect", 4, "connect"), replace(REFUSED_DELETE, began=6)],
        ALIVE,
    ),
    "dishonest, receipt": ([CREATE, POST, record("receipt", 3)], ALIVE),
    "another answer": (
        [CREATE, POST, replace(DELETE, key="k", answer=b"1"), replace(DELETE, key="k", answer=b"2")],
        DELETED,
    ),
    "another answer, 404": (
        [CREATE, POST, replace(DELETE, key="k"), record("delete", 12, key="k", **GONE)],
        DELETED,
    ),
    "lost post": ([CREATE, POST], ALIVE._replace(messages={})),
    "lost post, elsewhere": ([CREATE, record("post", 1, seq=2)], ALIVE),
    "posted twice": ([CREATE, POST], ALIVE._replace(messages={CHAT: {1: "p", 2: "p"}})),
    "half a post": (
        [CREATE, record("post", 1, parts=("p", "q"), **UNKNOWN)],
        ALIVE,
    ),
    "gap": ([CREATE, record("post", 1, seq=2)], ALIVE._replace(messages={CHAT: {2: "p"}})),
    "wrong receipt": ([CREATE, POST, DELETE], DELETED._replace(receipts={CHAT: StoredReceipt(0)})),
    "resurrection": (
        [CREATE, POST, DELETE, record("post", 11, "late")],
        DELETED._replace(receipts={CHAT: StoredReceipt(2)}),
    ),
    "resurrection, connection": ([CREATE, POST, DELETE, record("connect", 11)], DELETED),
    "resurrection, after a 404": (
        [CREATE, POST, record("read", 2, "r1", **GONE), record("read", 4, "r2"), DELETE],
        DELETED,
    ),
    "false 404": ([CREATE, POST, record("read", 2, **GONE)], ALIVE),
    "deleted under a connection": ([CREATE, POST, record("connect", 9), DELETE], DELETED),
    "deleted under a connection, at once": ([CREATE, POST, record("connect", 10.1), DELETE], DELETED),
    "no answer": ([CREATE, POST, record("read", 2, **CUT)], ALIVE),
    "unexpected answer": ([CREATE, POST, record("read", 2, status=500, code="internal_error")], ALIVE),
    "too slow": ([CREATE, POST, replace(record("read", 2), ended=11)], ALIVE),
    "another answer, a 404 beside the delete": ([CREATE, POST, BULK, record("bulk", 10.1, **GONE)], BY_BULK),
    "another answer, a 409 after the delete": (
        [CREATE, POST, CONNECT, DISCONNECT, BULK, record("bulk", 10.6, **CONNECTED)],
        BY_BULK,
    ),
    "another answer, another time": ([CREATE, POST, BULK, replace(BULK, answer=b"2026-11-26T10:00:01Z")], BY_BULK),
    "another answer, not the receipt's": ([CREATE, POST, replace(BULK, answer=b"2026-11-26T10:00:01Z")], BY_BULK),
    "another answer, not the receipt's, one chat": (
        [CREATE, POST, replace(DELETE, answer=b'{"deleted_at": "2026-11-26T10:00:01Z"}')],
        BY_BULK,
    ),
    "dishonest, deleted and refused to both": (
        [CREATE, POST, CONNECT, BULK_UNDER_A_CONNECTION, DISCONNECT, record("bulk", 10.2, **CONNECTED)],
        BY_BULK,
    ),
    "dishonest, deleted and refused, and another's delete is unknown": (
        [CREATE, CREATE_OTHER, POST, CONNECT, BULK_UNDER_A_CONNECTION, OTHER, record("delete", 11, **UNKNOWN)],
        WITH_OTHER,
    ),
    "dishonest, a 409 repeated after the connection": (
        [CREATE, POST, CONNECT, BULK_UNDER_A_CONNECTION, DISCONNECT, record("bulk", 20, **CONNECTED)],
        ALIVE,
    ),
    "unexpected answer, a chat left out": ([CREATE, POST, record("bulk", 2, status=0, code="left_out")], ALIVE),
    "no answer, of a bulk delete": ([CREATE, POST, record("bulk", 2, **CUT)], ALIVE),
    "resurrection, deleted after it was gone": (
        [CREATE, POST, record("bulk", 8, "bulk-2", **GONE), BULK],
        BY_BULK,
    ),
    "false 404, in a bulk delete": ([CREATE, POST, record("bulk", 2, **UNKNOWN), record("bulk", 3, **GONE)], ALIVE),
    "not cleared": ([CREATE, POST, CLEAR], ALIVE),
    "lost post, before the chat was emptied": (
        [CREATE, record("clear", 1), record("post", 2)],
        ALIVE._replace(messages={}),
    ),
    "gap, in the middle": (
        [CREATE, POST, record("post", 3, "late", parts=("q",), answer=b'{"messages": [{"seq": 3, "content": "q"}]}')],
        ALIVE._replace(messages={CHAT: {1: "p", 3: "q"}}),
    ),
    "gap, without emptying": ([CREATE, POST, ROW_2], ALIVE._replace(messages={CHAT: {2: "q"}})),
    "half a post, emptied": ([CREATE, record("post", 1, parts=("p", "q")), CLEAR], ALIVE),
    "lost post, though emptying was refused": ([CREATE, POST, record("clear", 2, **REFUSED)], EMPTY),
    "wrong receipt, not all was removed": (
        [CREATE, POST, DELETE],
        DELETED._replace(receipts={CHAT: StoredReceipt(1, deleted=0)}),
    ),
    "unfinished": ([CREATE, POST, DELETE], DELETED._replace(receipts={CHAT: StoredReceipt(1, state="running")})),
    "false receipt": ([CREATE, POST, DELETE], DELETED._replace(messages={CHAT: {1: "p"}})),
    "false receipt, for a while": ([CREATE, POST, CLEAR, DELETE, receipt(11, on_disk=1)], DELETED),
    "receipt changed": ([CREATE, POST, DELETE, receipt(11, message_count=2)], DELETED),
    "receipt changed, its time": ([CREATE, POST, BULK, receipt(11, deleted_at="2026-11-26T10:00:01Z")], BY_BULK),
    "dishonest, no receipt": ([CREATE, POST, DELETE, record("receipt", 11, status=404, code="not_found")], DELETED),
    "false end, another number": ([CREATE, POST, export(2, stated=(2, "sha"))], ALIVE),
    "false end, another sum": ([CREATE, POST, export(2, stated=(1, "other"))], ALIVE),
    "false end, cut as if whole": ([CREATE, POST, DELETE, export(10, stated=None)], DELETED),
    "cut without need": ([CREATE, POST, export(2, **CUT_EXPORT)], ALIVE),
    "export with a gap": (
        [CREATE, POST, ROW_2, export(4, rows=((1, "p"), (3, "q")))],
        ALIVE._replace(messages={CHAT: {1: "p", 2: "q"}}),
    ),
    "export with a gap, in front": ([CREATE, record("post", 1, seq=2), export(2, rows=((2, "p"),))], ALIVE),
    "export with a gap, out of order": (
        [CREATE, POST, ROW_2, export(4, rows=((2, "q"), (1, "p")))],
        ALIVE._replace(messages={CHAT: {1: "p", 2: "q"}}),
    ),
    "missing in an export": ([CREATE, POST, export(2, rows=())], ALIVE),
    "half a post in an export": ([CREATE, record("post", 1, parts=("p", "q")), export(2)], ALIVE),
    "export of another moment": ([CREATE, export(1), record("post", 3)], ALIVE),
    "export of another moment, emptied": ([CREATE, POST, CLEAR, export(4)], EMPTY),
    "export from nowhere": ([CREATE, export(2)], ALIVE),
    "dishonest, a refused post exported": ([CREATE, record("post", 1, **REFUSED), export(2)], EMPTY),
    "export after delete": ([CREATE, POST, DELETE, replace(export(9, **LATE), ended=12)], DELETED),
    "resurrection, export": ([CREATE, POST, DELETE, export(11)], DELETED),
    "inconsistent": ([CREATE, POST], ALIVE._replace(findings=["wrong_count"])),
}


LIFE_KINDS = ["chat.trashed", "chat.restored", "chat.emptied", "chat.trashed", "chat.deleted", "chat.purged"]
LIFE_RECORDS = [CREATE, POST, TRASH, RESTORE, record("clear", 7), record("trash", 8, "trash-2"), record("delete", 10)]


def log_of(*kinds: str, first: int = 1, head: int | None = None) -> TenantLog:
    entries = [LogEntry(seq, kind, CHAT) for seq, kind in enumerate(kinds, first)]
    return TenantLog(entries, len(entries) if head is None else head)


LOGS = {
    "right": (log_of(*LIFE_KINDS), ""),
    "a gap": (
        TenantLog([LogEntry(1, LIFE_KINDS[0], CHAT), *log_of(*LIFE_KINDS[1:], first=3).entries], 7),
        "not 1 to 7",
    ),
    "an entry too few": (log_of(*LIFE_KINDS, head=7), "not 1 to 7"),
    "out of order": (log_of(*LIFE_KINDS[:4], LIFE_KINDS[5], LIFE_KINDS[4]), "chat.purged of a chat that is trashed"),
    "twice": (log_of(*LIFE_KINDS, LIFE_KINDS[5]), "chat.purged of a chat that is purged"),
    "no purge": (log_of(*LIFE_KINDS[:5]), "by the log it is deleted"),
    "nothing": (log_of(), "by the log it is live"),
    "a restore that nobody hears of": (log_of(LIFE_KINDS[2], *LIFE_KINDS[3:]), "0 times chat.restored"),
    "an emptying that nobody asked for": (log_of(*LIFE_KINDS[:3], *LIFE_KINDS[2:]), "2 times chat.emptied"),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_held_against_what_was_done(name) -> None:
    log, expected = LOGS[name]
    details = [
        violation.detail for violation in check(LIFE_RECORDS, DELETED._replace(log=log), 5.0) if violation.kind == "log"
    ]
    assert bool(details) == bool(expected), details
    assert not expected or any(expected in detail for detail in details), details


@pytest.mark.parametrize(("records", "stored"), TRUTHS.values(), ids=TRUTHS)
def test_the_truth_is_believed(records, stored) -> None:
    assert check(records, stored, 8.0) == []


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_lie_is_seen(name) -> None:
    """Each violation is found under its kind, whatever else is found."""
    records, stored = VIOLATIONS[name]
    assert name.partition(",")[0] in {violation.kind for violation in check(records, stored, 8.0)}


@pytest.mark.parametrize(
    ("fault", "is_true"), [((3, 5), True), ((5.2, 7), True), ((3, 4), False), ((-9, -8), False), ((7, 8), False)]
)
def test_a_lease_that_could_not_be_given_up_is_no_lie(fault, is_true) -> None:
    """A 409 is allowed until soon after the fault in which the connection ended, and no longer."""
    records = [
        CREATE,
        POST,
        record("connect", 2),
        record("disconnect", 4, "connect"),
        replace(REFUSED_DELETE, began=14.5),
    ]
    assert (check(records, ALIVE, 8.0, [fault]) == []) == is_true
