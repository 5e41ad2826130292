"""The checker is shown each kind of lie, and sees it; and it believes what is true."""

import json
from dataclasses import replace

import pytest

from tests.soak.checker import Stored, check
from tests.soak.record import Record

CHAT = "c"
GONE = {"status": 404, "code": "chat_not_found"}
REFUSED = {"status": 503, "code": "database_unavailable"}
UNKNOWN = {"status": 503, "code": "outcome_unknown"}
CUT = {"status": None, "code": None}

ALIVE = Stored(titles={CHAT: "create"}, messages={CHAT: {1: "p"}}, receipts={}, findings=[])
DELETED = Stored(titles={}, messages={}, receipts={CHAT: 1}, findings=[])
NOTHING = Stored(titles={}, messages={}, receipts={}, findings=[])

_SUCCESS = {"connect": 101, "create": 201, "post": 201}


def told(kind: str, at: float, operation: str = "", **fields) -> Record:
    """A request from `at` on, that took half a second and succeeded."""
    status = _SUCCESS.get(kind, 200)
    if kind == "post":
        seq = fields.pop("seq", 1)
        answer = json.dumps({"messages": [{"seq": seq, "content": "p"}]}).encode()
        fields = {"parts": ("p",), "answer": answer if "status" not in fields else b"", **fields}
    return Record(kind, CHAT, operation or kind, at, at + 0.5, **{"status": status, **fields})


CREATE, POST, DELETE = told("create", 0), told("post", 1), told("delete", 10)
OTHER_DELETE = told("delete", 10.2, "delete-2")

REFUSED_DELETE = told("delete", 10, status=409, code="active_connections")

TRUE = {
    "a chat that lives": ([CREATE, POST], ALIVE),
    "a chat that was deleted": ([CREATE, POST, DELETE], DELETED),
    "a delete refused": ([CREATE, POST, told("delete", 2, **REFUSED)], ALIVE),
    "an unknown delete that happened": ([CREATE, POST, told("delete", 2, **UNKNOWN)], DELETED),
    "an unknown delete that did not happen": ([CREATE, POST, told("delete", 2, **UNKNOWN)], ALIVE),
    "an unknown delete that a repetition settled": (
        [CREATE, POST, told("delete", 2, key="k", **UNKNOWN), told("delete", 3, key="k")],
        DELETED,
    ),
    "an unknown post that happened": ([CREATE, told("post", 1, **UNKNOWN)], ALIVE),
    "an unknown post that the receipt counts": ([CREATE, told("post", 1, **UNKNOWN), DELETE], DELETED),
    "a 404 after the delete": ([CREATE, POST, DELETE, told("post", 11, "late", **GONE)], DELETED),
    "a 404 before the chat was made": (
        [told("post", 0, "early", parts=("e",), **GONE), told("create", 1), told("post", 2)],
        ALIVE,
    ),
    "a 409 under a connection": (
        [CREATE, POST, told("connect", 2), told("delete", 3, status=409, code="active_connections")],
        ALIVE,
    ),
    "a delete after the connection was closed": (
        [CREATE, POST, told("connect", 2), told("disconnect", 4, "connect"), DELETE],
        DELETED,
    ),
    "a delete after the lease": ([CREATE, POST, told("connect", 2), told("delete", 40)], DELETED),
}

LIES = {
    "two 200s": ([CREATE, POST, DELETE, OTHER_DELETE], DELETED),
    "lost delete": ([CREATE, POST, DELETE], ALIVE),
    "partial delete": ([CREATE, POST, DELETE], DELETED._replace(messages={CHAT: {1: "p"}})),
    "partial delete, chat": ([CREATE, POST, DELETE], ALIVE._replace(receipts={CHAT: 1})),
    "lost create": ([CREATE], NOTHING),
    "from nowhere": ([], ALIVE),
    "from nowhere, refused": ([told("create", 0, **REFUSED), POST], ALIVE._replace(titles={CHAT: "x"})),
    "from nowhere, a message": ([CREATE], ALIVE),
    "created twice": ([CREATE, POST], ALIVE._replace(titles={CHAT: "create", "d": "create"})),
    "dishonest": ([CREATE, POST, told("delete", 2, **REFUSED)], DELETED),
    "dishonest, create": ([told("create", 0, **REFUSED)], ALIVE),
    "dishonest, post": ([CREATE, told("post", 1, **REFUSED)], ALIVE),
    "dishonest, 409": ([CREATE, POST, told("delete", 3, status=409, code="active_connections")], ALIVE),
    "dishonest, 409 after the connection": (
        [CREATE, POST, told("connect", 2), told("disconnect", 4, "connect"), replace(REFUSED_DELETE, began=6)],
        ALIVE,
    ),
    "dishonest, receipt": ([CREATE, POST, told("receipt", 3)], ALIVE),
    "another answer": (
        [CREATE, POST, replace(DELETE, key="k", answer=b"1"), replace(DELETE, key="k", answer=b"2")],
        DELETED,
    ),
    "another answer, 404": (
        [CREATE, POST, replace(DELETE, key="k"), told("delete", 12, key="k", **GONE)],
        DELETED,
    ),
    "lost post": ([CREATE, POST], ALIVE._replace(messages={})),
    "lost post, elsewhere": ([CREATE, told("post", 1, seq=2)], ALIVE),
    "posted twice": ([CREATE, POST], ALIVE._replace(messages={CHAT: {1: "p", 2: "p"}})),
    "half a post": (
        [CREATE, told("post", 1, parts=("p", "q"), **UNKNOWN)],
        ALIVE,
    ),
    "gap": ([CREATE, told("post", 1, seq=2)], ALIVE._replace(messages={CHAT: {2: "p"}})),
    "wrong receipt": ([CREATE, POST, DELETE], DELETED._replace(receipts={CHAT: 0})),
    "resurrection": ([CREATE, POST, DELETE, told("post", 11, "late")], DELETED._replace(receipts={CHAT: 2})),
    "resurrection, connection": ([CREATE, POST, DELETE, told("connect", 11)], DELETED),
    "resurrection, after a 404": (
        [CREATE, POST, told("read", 2, "r1", **GONE), told("read", 4, "r2"), DELETE],
        DELETED,
    ),
    "false 404": ([CREATE, POST, told("read", 2, **GONE)], ALIVE),
    "deleted under a connection": ([CREATE, POST, told("connect", 9), DELETE], DELETED),
    "deleted under a connection, at once": ([CREATE, POST, told("connect", 10.1), DELETE], DELETED),
    "no answer": ([CREATE, POST, told("read", 2, **CUT)], ALIVE),
    "unexpected answer": ([CREATE, POST, told("read", 2, status=500, code="internal_error")], ALIVE),
    "too slow": ([CREATE, POST, replace(told("read", 2), ended=11)], ALIVE),
    "inconsistent": ([CREATE, POST], ALIVE._replace(findings=["wrong_count"])),
}


@pytest.mark.parametrize(("records", "stored"), TRUE.values(), ids=TRUE)
def test_the_truth_is_believed(records, stored) -> None:
    assert check(records, stored, 8.0) == []


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_seen(name) -> None:
    """And called by its name, among whatever else is wrong with it."""
    records, stored = LIES[name]
    assert name.partition(",")[0] in {violation.kind for violation in check(records, stored, 8.0)}


@pytest.mark.parametrize(
    ("fault", "is_true"), [((3, 5), True), ((5.2, 7), True), ((3, 4), False), ((-9, -8), False), ((7, 8), False)]
)
def test_a_lease_that_could_not_be_given_up_is_no_lie(fault, is_true) -> None:
    """A 409 is right until soon after the fault in which the connection ended, and no longer."""
    records = [CREATE, POST, told("connect", 2), told("disconnect", 4, "connect"), replace(REFUSED_DELETE, began=14.5)]
    assert (check(records, ALIVE, 8.0, [fault]) == []) == is_true
