"""Opaque cursors: where a list goes on. They carry a position, never a permission."""

import base64
import binascii
import hashlib
import struct
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from chat_service.errors import InvalidCursorError, ValidationFailedError
from chat_service.models import MAX_SEQ, ListPosition, Span

_SPAN = struct.Struct(">?qq8s")
_POSITION = struct.Struct(">q16s8s")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
_EVER = range((_FIRST - _EPOCH) // _MILLISECOND, (_LAST - _EPOCH) // _MILLISECOND + 1)
"""The times that an import can bring, in milliseconds."""


def requested_span(page: dict[str, Any], tenant_id: str, chat_id: str) -> Span:
    """Return the messages a request asks for, by its cursor or by its bounds.

    Raises:
        InvalidCursorError: the cursor was not given out for this chat.
        ValidationFailedError: a cursor is mixed with what it already carries.
    """
    given = [name for name in ("after", "before", "order") if page[name] is not None]
    if page["cursor"] is not None:
        if given:
            raise ValidationFailedError({name: ["The cursor carries this already; leave it out."] for name in given})
        return _decode(page["cursor"], tenant_id, chat_id)
    return Span(
        after=page["after"] or 0,
        before=MAX_SEQ if page["before"] is None else page["before"],
        newest_first=page["order"] == "desc",
    )


def next_cursor(span: Span, last_seq: int, tenant_id: str, chat_id: str) -> str:
    """Return the cursor of the page after the one of `span` that ended with `last_seq`."""
    rest = replace(span, before=last_seq) if span.newest_first else replace(span, after=last_seq)
    return _write(_SPAN.pack(rest.newest_first, rest.after, rest.before, _list_mark(tenant_id, chat_id)))


def read_position(cursor: str | None, *owners: str) -> ListPosition | None:
    """Return where a list of chats, receipts or connections goes on, or None for its beginning.

    Raises:
        InvalidCursorError: the cursor was not given out for the list of these owners.
    """
    if cursor is None:
        return None
    milliseconds, chat_id, mark = _read(_POSITION, cursor)
    if mark != _list_mark(*owners) or milliseconds not in _EVER:
        raise InvalidCursorError
    return ListPosition(_EPOCH + milliseconds * _MILLISECOND, str(uuid.UUID(bytes=chat_id)))


def write_position(last: ListPosition, *owners: str) -> str:
    """Return the cursor of the page after the one that ended with `last`."""
    milliseconds = (last.at - _EPOCH) // _MILLISECOND
    return _write(_POSITION.pack(milliseconds, uuid.UUID(last.id).bytes, _list_mark(*owners)))


def _decode(cursor: str, tenant_id: str, chat_id: str) -> Span:
    newest_first, after, before, mark = _read(_SPAN, cursor)
    if mark != _list_mark(tenant_id, chat_id) or not 0 <= after < MAX_SEQ or before < 0:
        raise InvalidCursorError
    return Span(after, before, newest_first)


def _write(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _read(layout: struct.Struct, text: str) -> tuple[Any, ...]:
    try:
        return layout.unpack(base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError, struct.error):
        raise InvalidCursorError from None


def _list_mark(*owners: str) -> bytes:
    """Return what ties a cursor to its list: a mistake is told, rather than answered with the wrong page."""
    return hashlib.sha256("/".join(owners).encode()).digest()[:8]
