"""Compares a tenant's log with the database and the answers: complete, without gaps, each chat's entries in order."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

import requests

from chat_service.repository.database import Database
from tests.client import TenantAccess
from tests.soak.record import Record, by_operation

TRANSITIONS = {
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
"""State of a chat and kind of an entry that may follow -> the chat's state after the entry."""


NO_CHAT_PREFIXES = ("hold.", "retention.")
"""Prefixes of the kinds of entries that concern no chat."""


class LogEntry(NamedTuple):
    """An entry of the log."""

    seq: int
    kind: str
    chat_id: str


class TenantLog(NamedTuple):
    """A tenant's log: its entries, and the seq of its head."""

    entries: Sequence[LogEntry]
    head: int


def read_log(database: Database, tenant_id: str) -> TenantLog:
    """Read the whole log."""
    documents = database.log_entries.find({"_id.tenant_id": tenant_id}, sort=[("_id", 1)])
    head = database.log_heads.find_one({"_id": tenant_id}) or {"seq": 0}
    return TenantLog(
        [LogEntry(document["_id"]["seq"], document["kind"], document["chat_id"]) for document in documents], head["seq"]
    )


def check_log(
    log: TenantLog, records: Mapping[str, Sequence[Record]], states: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Give chat and detail of each violation; `states` are those of all stored chats, after all purges have ended."""
    if [entry.seq for entry in log.entries] != list(range(1, log.head + 1)):
        yield "", f"the log has {len(log.entries)} entries, not 1 to {log.head}"
    kinds_by_chat: dict[str, list[str]] = {}
    for entry in (entry for entry in log.entries if entry.chat_id and not entry.kind.startswith(NO_CHAT_PREFIXES)):
        kinds_by_chat.setdefault(entry.chat_id, []).append(entry.kind)
    for chat_id in {*kinds_by_chat, *states}:
        kinds = kinds_by_chat.get(chat_id, [])
        state = "live"
        for kind in kinds:
            if (state, kind) not in TRANSITIONS:
                yield chat_id, f"the log has {kind} of a chat that is {state}"
                break
            state = TRANSITIONS[state, kind]
        else:
            if state != states.get(chat_id):
                yield chat_id, f"by the log it is {state}, and it is {states.get(chat_id)}"
        for kind, (least, most) in _expected(records.get(chat_id)).items():
            if not least <= kinds.count(kind) <= most:
                yield chat_id, f"{kinds.count(kind)} times {kind} in the log, of {least} to {most}"


def _expected(records: Sequence[Record] | None) -> dict[str, tuple[int, int]]:
    """Return by kind of entry how often a chat must and may have it in the log; empty without records of the chat."""
    if records is None:
        return {}
    restores = by_operation(record for record in records if record.kind == "restore").values()
    clears = [record for record in records if record.kind == "clear"]
    return {
        "chat.restored": (
            sum(any(record.succeeded for record in attempts) for attempts in restores),
            sum(any(record.may_have_happened for record in attempts) for attempts in restores),
        ),
        "chat.emptied": (
            sum(record.succeeded for record in clears),
            sum(record.may_have_happened for record in clears),
        ),
    }


class Follower:
    """A client that keeps the last seq it has seen, and polls for later entries: whatever fails, it misses nothing."""

    def __init__(self, url: str, access: TenantAccess) -> None:
        self._address, self._headers = f"{url}/log", access.headers
        self.seqs: list[int] = []
        self._after = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            with suppress(requests.RequestException):
                query = {"after": self._after, "wait": 1, "limit": 1_000}
                answer = requests.get(self._address, query, headers=self._headers, timeout=40)
                if answer.ok:
                    self.seqs += [entry["seq"] for entry in answer.json()["items"]]
                    self._after = answer.json()["next_after"]
                    continue
            self._stopping.wait(0.2)

    def require_everything_once(self) -> None:
        """Require that each entry up to the last seq was received exactly once, and at least one."""
        assert self.seqs == list(range(1, self._after + 1))
        assert self.seqs, "nothing was told at all"
