"""Why a connection is closed: the close codes of the API contract, each with the reason that is sent along."""

from typing import NamedTuple


class Close(NamedTuple):
    """A close code (RFC 6455, section 7.4) and its reason: a word for programs, like the `code` of a problem."""

    code: int
    reason: str


class ClosedError(Exception):
    """The connection has to end with `close`."""

    def __init__(self, close: Close) -> None:
        super().__init__(close)
        self.close = close


ABNORMAL = 1006
"""Never sent. It stands for a connection that ended without a close frame."""

INTERNAL = Close(1011, "internal_error")
LEFT = Close(ABNORMAL, "client")

GOING_AWAY = Close(1001, "server_shutdown")
RECONNECT = Close(1012, "reconnect")
"""This process lost the lease or the feed. A client that reconnects with `?after=` misses nothing."""
TOO_SLOW = Close(1013, "too_slow")
TOO_MANY = Close(1013, "too_many_connections")
RATE_LIMITED = Close(1013, "rate_limited")
UNAVAILABLE = Close(1013, "database_unavailable")
BAD_FRAME = Close(4400, "bad_frame")
INVALID_CHAT_ID = Close(4400, "invalid_chat_id")
INVALID_QUERY = Close(4400, "validation_error")
NO_KEY = Close(4401, "invalid_api_key")
NO_SCOPE = Close(4403, "insufficient_scope")
NO_CHAT = Close(4404, "chat_not_found")
DELETED = Close(4410, "chat_deleted")
