"""The log of a tenant, against what is stored and what was answered: whole, without gaps, each chat's life in order."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

import requests

from chat_service.repository.database import Database
from tests.client import TenantAccess
from tests.soak.record import Record, by_operation

ARROWS = {
    ("live", "chat.emptied"): "live",
    ("live", "message.edited"): "live",
    ("live", "message.deleted"): "live",
    ("live", "sender.erased"): "live",
    ("trashed", "sender.erased"): "trashed",
    ("live", "deletion.refused"): "live",
    ("trashed", "deletion.refused"): "trashed",
    ("live", "chat.trashed"): "trashed",
    ("trashed", "chat.restored"): "live",
    ("live", "chat.deleted"): "deleted",
    ("trashed", "chat.deleted"): "deleted",
    ("deleted", "chat.purged"): "purged",
}
"""What may be told of a chat in a state, and the state that it is in then."""


OF_NO_CHAT = ("hold.", "retention.")
"""What the kinds begin with that tell of no chat."""


class Line(NamedTuple):
    """An entry."""

    seq: int
    kind: str
    chat_id: str


class Book(NamedTuple):
    """A tenant's log."""

    lines: Sequence[Line]
    head: int


def read_log(database: Database, tenant_id: str) -> Book:
    """Read the whole log."""
    found = database.log_entries.find({"_id.tenant_id": tenant_id}, sort=[("_id", 1)])
    head = database.log_heads.find_one({"_id": tenant_id}) or {"seq": 0}
    return Book([Line(one["_id"]["seq"], one["kind"], one["chat_id"]) for one in found], head["seq"])


def check_log(book: Book, told: Mapping[str, Sequence[Record]], states: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Give the chat and what is wrong; `states` are those of all chats that are stored, when all purges have ended."""
    if [line.seq for line in book.lines] != list(range(1, book.head + 1)):
        yield "", f"the log has {len(book.lines)} entries, not 1 to {book.head}"
    lives: dict[str, list[str]] = {}
    for line in (line for line in book.lines if line.chat_id and not line.kind.startswith(OF_NO_CHAT)):
        lives.setdefault(line.chat_id, []).append(line.kind)
    for chat_id in {*lives, *states}:
        kinds = lives.get(chat_id, [])
        state = "live"
        for kind in kinds:
            if (state, kind) not in ARROWS:
                yield chat_id, f"the log has {kind} of a chat that is {state}"
                break
            state = ARROWS[state, kind]
        else:
            if state != states.get(chat_id):
                yield chat_id, f"by the log it is {state}, and it is {states.get(chat_id)}"
        for kind, (least, most) in _expected(told.get(chat_id)).items():
            if not least <= kinds.count(kind) <= most:
                yield chat_id, f"{kinds.count(kind)} times {kind} in the log, of {least} to {most}"


def _expected(told: Sequence[Record] | None) -> dict[str, tuple[int, int]]:
    """Return how often something was done at least and at most, by its kind in the log; nothing where nobody tells."""
    if told is None:
        return {}
    restores = by_operation(record for record in told if record.kind == "restore").values()
    clears = [record for record in told if record.kind == "clear"]
    return {
        "chat.restored": (
            sum(any(record.succeeded for record in of) for of in restores),
            sum(any(record.may_have_happened for record in of) for of in restores),
        ),
        "chat.emptied": (
            sum(record.succeeded for record in clears),
            sum(record.may_have_happened for record in clears),
        ),
    }


class Follower:
    """Somebody who keeps the last seq it has seen, and asks for more: whatever breaks, it misses nothing."""

    def __init__(self, url: str, access: TenantAccess) -> None:
        self._address, self._headers = f"{url}/log", access.headers
        self.seqs: list[int] = []
        self._after = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.is_set():
            with suppress(requests.RequestException):
                query = {"after": self._after, "wait": 1, "limit": 1_000}
                answer = requests.get(self._address, query, headers=self._headers, timeout=40)
                if answer.ok:
                    self.seqs += [entry["seq"] for entry in answer.json()["items"]]
                    self._after = answer.json()["next_after"]
                    continue
            self._over.wait(0.2)

    def require_everything_once(self) -> None:
        """See that what was told is a log without gaps, as far as it has come."""
        assert self.seqs == list(range(1, self._after + 1))
        assert self.seqs, "nothing was told at all"
