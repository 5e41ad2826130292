"""Opaque cursors: where the next page of a list begins. They carry a position, never a permission."""

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
_POSSIBLE_TIMES = range((_FIRST - _EPOCH) // _MILLISECOND, (_LAST - _EPOCH) // _MILLISECOND + 1)
"""All times that an import can contain, in milliseconds since 1970."""


def requested_span(query: dict[str, Any], tenant_id: str, chat_id: str) -> Span:
    """Return the span of messages that a query asks for, by its cursor or by its bounds.

    Raises:
        InvalidCursorError: the cursor was not issued for this chat.
        ValidationFailedError: a cursor is combined with a parameter that it already carries.
    """
    bounds = [name for name in ("after", "before", "order") if query[name] is not None]
    if query["cursor"] is not None:
        if bounds:
            raise ValidationFailedError({name: ["The cursor already contains this. Leave it out."] for name in bounds})
        return _read_span(query["cursor"], tenant_id, chat_id)
    return Span(
        after=query["after"] or 0,
        before=MAX_SEQ if query["before"] is None else query["before"],
        newest_first=query["order"] == "desc",
    )


def next_cursor(span: Span, last_seq: int, tenant_id: str, chat_id: str) -> str:
    """Return the cursor of the page after the one of `span` that ended with `last_seq`."""
    rest = replace(span, before=last_seq) if span.newest_first else replace(span, after=last_seq)
    return _encode(_SPAN.pack(rest.newest_first, rest.after, rest.before, _list_mark(tenant_id, chat_id)))


def read_position(cursor: str | None, *owners: str) -> ListPosition | None:
    """Return the position from which a list of chats, receipts or connections continues, or None for its beginning.

    Raises:
        InvalidCursorError: the cursor was not issued for the list of these owners.
    """
    if cursor is None:
        return None
    milliseconds, id_bytes, mark = _decode(_POSITION, cursor)
    if mark != _list_mark(*owners) or milliseconds not in _POSSIBLE_TIMES:
        raise InvalidCursorError
    return ListPosition(_EPOCH + milliseconds * _MILLISECOND, str(uuid.UUID(bytes=id_bytes)))


def write_position(last: ListPosition, *owners: str) -> str:
    """Return the cursor of the page after the one that ended with `last`."""
    milliseconds = (last.at - _EPOCH) // _MILLISECOND
    return _encode(_POSITION.pack(milliseconds, uuid.UUID(last.id).bytes, _list_mark(*owners)))


def _read_span(cursor: str, tenant_id: str, chat_id: str) -> Span:
    newest_first, after, before, mark = _decode(_SPAN, cursor)
    if mark != _list_mark(tenant_id, chat_id) or not 0 <= after < MAX_SEQ or before < 0:
        raise InvalidCursorError
    return Span(after, before, newest_first)


def _encode(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _decode(layout: struct.Struct, text: str) -> tuple[Any, ...]:
    try:
        return layout.unpack(base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError, struct.error):
        raise InvalidCursorError from None


def _list_mark(*owners: str) -> bytes:
    """Return what ties a cursor to its list: another list's cursor is an error, rather than the wrong page."""
    return hashlib.sha256("/".join(owners).encode()).digest()[:8]
