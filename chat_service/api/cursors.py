"""Opaque cursors: where a list goes on. They carry a position, never a permission."""

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass, replace
from typing import Any, Self

from chat_service.errors import InvalidCursorError, ValidationFailedError

END = 2**63 - 1
"""Past the last seq."""

_LAYOUT = struct.Struct(">?qq8s")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The messages still to come: `after < seq < before`, in one direction."""

    after: int
    before: int
    newest_first: bool

    @classmethod
    def of(cls, page: dict[str, Any], tenant_id: str, chat_id: str) -> Self:
        """Return where the page begins that a request asks for.

        Raises:
            InvalidCursorError: the cursor was not given out for this chat.
            ValidationFailedError: a cursor is mixed with what it already carries.
        """
        if page["cursor"] is None:
            after = page["after"] if page["after"] is not None else 0
            before = page["before"] if page["before"] is not None else END
            return cls(after, before, page["order"] == "desc")
        mixed = [name for name in ("after", "before", "order") if page[name] is not None]
        if mixed:
            raise ValidationFailedError({name: ["The cursor carries this already; leave it out."] for name in mixed})
        return cls.decode(page["cursor"], tenant_id, chat_id)

    def following(self, last_seq: int) -> Self:
        """Return where the page after the one that ended with `last_seq` begins."""
        return replace(self, before=last_seq) if self.newest_first else replace(self, after=last_seq)

    def encode(self, tenant_id: str, chat_id: str) -> str:
        """Return the cursor as text."""
        packed = _LAYOUT.pack(self.newest_first, self.after, self.before, _list_mark(tenant_id, chat_id))
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str, tenant_id: str, chat_id: str) -> Self:
        """Return the cursor behind `text`.

        Raises:
            InvalidCursorError: it was not given out for this chat.
        """
        try:
            packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            newest_first, after, before, mark = _LAYOUT.unpack(packed)
        except (binascii.Error, ValueError, struct.error):
            raise InvalidCursorError from None
        if mark != _list_mark(tenant_id, chat_id) or after < 0 or before < 0:
            raise InvalidCursorError
        return cls(after, before, newest_first)


def _list_mark(tenant_id: str, chat_id: str) -> bytes:
    """Return what ties a cursor to its list: a mistake is told, rather than answered with the wrong page."""
    return hashlib.sha256(f"{tenant_id}/{chat_id}".encode()).digest()[:8]
