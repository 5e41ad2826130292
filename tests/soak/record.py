"""What the callers asked and were told. The checker knows nothing else of the load."""

from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN = {None, "outcome_unknown"}
"""No answer at all, or the answer that it is not known."""


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
    """The body of a success."""

    @property
    def took(self) -> float:
        return self.ended - self.began

    @property
    def succeeded(self) -> bool:
        return self.status in {101, 200, 201}

    @property
    def is_unknown(self) -> bool:
        return self.status is None or self.code in UNKNOWN


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
