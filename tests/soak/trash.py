"""Checks chats that are trashed and restored: the answers meanwhile, and what is stored at the end."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.soak.record import Record, by_operation

NEVER = float("inf")

REFUSED_IN_TRASH = {"read", "post", "connect", "export", "clear"}
"""Kinds of requests that must not succeed while the chat is in the trash."""


class _Move(NamedTuple):
    """A trashing or a restore that happened or may have: not before `began`, and by `happened`; NEVER if unknown."""

    began: float
    happened: float


class Span(NamedTuple):
    """A span of time."""

    began: float
    ended: float

    def touches(self, record: Record) -> bool:
        """Return whether the request was running at any moment of the span."""
        return record.ended >= self.began and record.began <= self.ended

    def holds(self, record: Record) -> bool:
        """Return whether the request ran within the span, and at no other time."""
        return record.began > self.began and record.ended < self.ended


def may_be_hidden(records: Sequence[Record]) -> list[Span]:
    """Return when the chat may have been in the trash: from the start of a trashing until a later restore is known."""
    restores = [move for move in _moves(records, "restore") if move.happened < NEVER]
    return [
        Span(
            trashing.began,
            min((restore.happened for restore in restores if restore.began >= trashing.happened), default=NEVER),
        )
        for trashing in _moves(records, "trash")
    ]


def check_trash(records: Sequence[Record], *, lives: bool, is_trashed: bool) -> Iterator[tuple[str, str]]:
    """Give kind and detail of each violation in the trashings and restores of one chat."""
    trashings, restores = _moves(records, "trash"), _moves(records, "restore")
    for trashing in (trashing for trashing in trashings if trashing.happened < NEVER):
        # Any restore that had not ended when the trashing began may have come after it.
        later_restores = [restore.began for restore in restores if restore.happened > trashing.began]
        span = Span(trashing.happened, min(later_restores, default=NEVER))
        for record in (record for record in _first(records) if record.kind in REFUSED_IN_TRASH and record.succeeded):
            if span.holds(record):
                yield "shown from the trash", f"{record.operation} succeeded"
        if not later_restores and lives and not is_trashed:
            yield "lost trash", "it was told to be in the trash, and lives"
    for restore in (restore for restore in restores if restore.happened < NEVER):
        if not any(trashing.began < restore.happened for trashing in trashings):
            yield "from nowhere", "it was restored, and never in the trash"
        if is_trashed and all(trashing.happened < restore.began for trashing in trashings):
            yield "lost restore", "it was restored, and is in the trash"
    if is_trashed and not trashings:
        yield "from nowhere", "it is in the trash, and nobody has moved it there"


def _moves(records: Sequence[Record], kind: str) -> list[_Move]:
    moves = []
    for attempts in by_operation(record for record in records if record.kind == kind).values():
        success_times = [record.ended for record in attempts if record.succeeded]
        if success_times or any(record.is_unknown for record in attempts):
            moves.append(_Move(min(record.began for record in attempts), min(success_times, default=NEVER)))
    return moves


def _first(records: Sequence[Record]) -> list[Record]:
    """Return the first request of each operation: a retry may repeat an earlier answer."""
    return [attempts[0] for attempts in by_operation(records).values()]
