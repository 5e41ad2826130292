"""What the callers asked and were told. The checker knows nothing else of the load."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

UNKNOWN = {None, "outcome_unknown", "request_in_progress"}
"""No answer at all, or the answer that it is not known."""

HUNG_UP = "hung_up"
"""The code where no answer came because the caller did not wait for one."""

CUT = "cut"
"""The code of a download that ended before its end line."""


class Export(NamedTuple):
    """An ndjson export as it arrived."""

    rows: tuple[tuple[int, str], ...]
    """seq and label of each message."""
    stated: tuple[int, str] | None
    """The number of messages and the SHA-256 that the end line states; None: no end line came."""
    counted: tuple[int, str]
    """The same, of what arrived before it."""
    ended_cleanly: bool
    """Whether the HTTP answer ended as a complete one does."""
    arrivals: tuple[tuple[float, int], ...] = ()
    """From time to time: when, and how many bytes had arrived."""


class Receipt(NamedTuple):
    """A receipt as it was read, and the messages of its chat that lay on the disk after that."""

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
    """What the caller wants; a request and its repetitions share it."""
    began: float
    ended: float
    status: int | None
    """None: no answer came."""
    code: str | None = ""
    """Of an error; None if no answer came."""
    key: str | None = None
    parts: tuple[str, ...] = ()
    """Of a post: its messages, each unlike any other. Of a bulk delete: its chats."""
    answer: bytes = b""
    """The body of a success; of one chat in a bulk delete: its `deleted_at`."""
    seen: Any = None
    """What needs more than its bytes to be judged: an Export or a Receipt."""

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
        """When it had happened, if it did: what is unknown may happen at any time later."""
        return float("inf") if self.is_unknown else self.ended


def label(content: str) -> str:
    """Return what tells a message from all others: its text without the padding behind a space."""
    return content.partition(" ")[0]


def by_chat(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each chat, in the order in which they ended."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.ended):
        found.setdefault(record.chat_id, []).append(record)
    return found


def by_operation(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each operation, in the order in which they ended."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.ended):
        found.setdefault(record.operation, []).append(record)
    return found
