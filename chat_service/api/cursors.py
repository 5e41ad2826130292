"""Opaque cursors: where a list goes on. They carry a position, never a permission."""

import base64
import binascii
import hashlib
import struct
from dataclasses import replace
from typing import Any

from chat_service.errors import InvalidCursorError, ValidationFailedError
from chat_service.models import MAX_SEQ, Span

_LAYOUT = struct.Struct(">?qq8s")


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
    packed = _LAYOUT.pack(rest.newest_first, rest.after, rest.before, _list_mark(tenant_id, chat_id))
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _decode(text: str, tenant_id: str, chat_id: str) -> Span:
    try:
        packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        newest_first, after, before, mark = _LAYOUT.unpack(packed)
    except (binascii.Error, ValueError, struct.error):
        raise InvalidCursorError from None
    if mark != _list_mark(tenant_id, chat_id) or after < 0 or before < 0:
        raise InvalidCursorError
    return Span(after, before, newest_first)


def _list_mark(tenant_id: str, chat_id: str) -> bytes:
    """Return what ties a cursor to its list: a mistake is told, rather than answered with the wrong page."""
    return hashlib.sha256(f"{tenant_id}/{chat_id}".encode()).digest()[:8]
