"""Chats that go to the trash and come back: what may be told meanwhile, and what has to be stored in the end."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.soak.record import Record, by_operation

NEVER = float("inf")

SHOWS = {"read", "post", "connect", "export", "clear"}
"""What a chat in the trash must refuse."""


class _Move(NamedTuple):
    """A trashing or a restore that happened, or may have: not before `began`, and by `happened` if anybody was told."""

    began: float
    happened: float


class Span(NamedTuple):
    """A stretch of time."""

    began: float
    ended: float

    def touches(self, record: Record) -> bool:
        """Tell whether the request was under way at any moment of it."""
        return record.ended >= self.began and record.began <= self.ended

    def holds(self, record: Record) -> bool:
        """Tell whether the request was under way in it, and at no other time."""
        return record.began > self.began and record.ended < self.ended


def may_be_hidden(told: Sequence[Record]) -> list[Span]:
    """Return when the chat may have been in the trash: from before the first answer until a later restore is told."""
    restores = [move for move in _moves(told, "restore") if move.happened < NEVER]
    return [
        Span(trashing.began, min((one.happened for one in restores if one.began >= trashing.happened), default=NEVER))
        for trashing in _moves(told, "trash")
    ]


def check_trash(told: Sequence[Record], *, lives: bool, is_trashed: bool) -> Iterator[tuple[str, str]]:
    """Give what is wrong with the trashings and restores of one chat."""
    trashings, restores = _moves(told, "trash"), _moves(told, "restore")
    for trashing in (one for one in trashings if one.happened < NEVER):
        # Any restore that was not over when it began may have come after it.
        others = [one.began for one in restores if one.happened > trashing.began]
        span = Span(trashing.happened, min(others, default=NEVER))
        for record in (record for record in _first(told) if record.kind in SHOWS and record.succeeded):
            if span.holds(record):
                yield "shown from the trash", f"{record.operation} succeeded"
        if not others and lives and not is_trashed:
            yield "lost trash", "it was told to be in the trash, and lives"
    for restore in (one for one in restores if one.happened < NEVER):
        if not any(one.began < restore.happened for one in trashings):
            yield "from nowhere", "it was restored, and never in the trash"
        if is_trashed and all(one.happened < restore.began for one in trashings):
            yield "lost restore", "it was restored, and is in the trash"
    if is_trashed and not trashings:
        yield "from nowhere", "it is in the trash, and nobody has moved it there"


def _moves(told: Sequence[Record], kind: str) -> list[_Move]:
    found = []
    for of in by_operation(record for record in told if record.kind == kind).values():
        done = [record.ended for record in of if record.succeeded]
        if done or any(record.is_unknown for record in of):
            found.append(_Move(min(record.began for record in of), min(done, default=NEVER)))
    return found


def _first(told: Sequence[Record]) -> list[Record]:
    """Return the first request of each operation: a repetition may be answered as it was before."""
    return [of[0] for of in by_operation(told).values()]
