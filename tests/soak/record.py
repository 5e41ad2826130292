"""Records of what the callers requested and were answered. The checker knows nothing else of the load."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

UNKNOWN = {None, "outcome_unknown", "request_in_progress"}
"""Codes of an unknown outcome; None: no answer came."""

HUNG_UP = "hung_up"
"""The code if no answer came because the caller did not wait for one."""

CUT = "cut"
"""The code of a download that ended before its end line."""


class Export(NamedTuple):
    """An ndjson export as it arrived."""

    rows: tuple[tuple[int, str], ...]
    """seq and label of each message."""
    stated: tuple[int, str] | None
    """The number of messages and the SHA-256 that the end line states; None: no end line came."""
    counted: tuple[int, str]
    """The same two, computed from what arrived before the end line."""
    ended_cleanly: bool
    """Whether the HTTP response ended as a complete one does."""
    arrivals: tuple[tuple[float, int], ...] = ()
    """Noted from time to time: when, and how many bytes had arrived by then."""


class Receipt(NamedTuple):
    """A receipt as it was read, and how many messages of its chat were still stored after that."""

    state: str
    message_count: int
    deleted: int
    deleted_at: str = ""
    on_disk: int | None = None
    """None: not counted."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request about one chat; a bulk delete makes one for each chat."""

    kind: str
    chat_id: str
    operation: str
    """Id of what the caller wants; a request and its retries share it."""
    began: float
    ended: float
    status: int | None
    """None: no answer came."""
    code: str | None = ""
    """The code of an error, "" for a success; None if no answer came."""
    key: str | None = None
    parts: tuple[str, ...] = ()
    """Of a post: the labels of its messages, each unique. Of a bulk delete: the ids of its chats."""
    answer: bytes = b""
    """The body of a success; of one chat in a bulk delete: its `deleted_at`."""
    seen: Any = None
    """The answer to an export or to the read of a receipt, parsed: an Export or a Receipt."""

    @property
    def took(self) -> float:
        return self.ended - self.began

    @property
    def succeeded(self) -> bool:
        return self.status in {101, 200, 201}

    @property
    def is_unknown(self) -> bool:
        return self.status is None or self.code in UNKNOWN

    @property
    def may_have_happened(self) -> bool:
        return self.succeeded or self.is_unknown

    @property
    def settled(self) -> float:
        """By when it had happened, if it did; infinite if unknown: it may still happen at any time."""
        return float("inf") if self.is_unknown else self.ended


def label(content: str) -> str:
    """Return what identifies a message: its text without the padding, which follows a space."""
    return content.partition(" ")[0]


def by_chat(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each chat, in the order in which they ended."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.ended):
        groups.setdefault(record.chat_id, []).append(record)
    return groups


def by_operation(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each operation, in the order in which they ended."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.ended):
        groups.setdefault(record.operation, []).append(record)
    return groups
