"""Decides who may connect to which chat, by the handshake: a server sees nothing else of a WebSocket's client."""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from chat_service.api.context import Repositories
from chat_service.api.parsing import parse_uuid
from chat_service.errors import InvalidApiKeyError
from chat_service.models import Caller, Scope
from chat_service.realtime.closing import INVALID_CHAT_ID, INVALID_QUERY, NO_KEY, NO_SCOPE, RATE_LIMITED, ClosedError

_PATH = re.compile(r"/api/v1/chats/([^/]+)/ws")
_SEQ = re.compile("[0-9]{1,18}", re.ASCII)

MAX_QUERY_FIELDS = 10
"""In a query string; three have a meaning."""

NAME_CHARACTERS = 200
"""The longest name: as long as a sender_id."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client asks for when it connects."""

    chat_id: str
    key: str | None
    query: Mapping[str, str]
    is_repeated: bool
    """Whether a parameter occurs more than once in the query."""

    @property
    def after(self) -> int | None:
        """The last message the client has, if it says so.

        Raises:
            ClosedError: it is not a seq, or the query has an unknown or repeated parameter.
        """
        after = self.query.get("after")
        is_valid = self.query.keys() <= {"after", "name", "ticket"} and not self.is_repeated
        if not is_valid or (after is not None and not _SEQ.fullmatch(after)):
            raise ClosedError(INVALID_QUERY)
        return None if after is None else int(after)

    @property
    def name(self) -> str | None:
        """The name that the client wants to have in the list of connections, if any. Nobody vouches for it.

        Raises:
            ClosedError: it is not a valid name.
        """
        name = self.query.get("name")
        if name is not None and (not 1 <= len(name) <= NAME_CHARACTERS or "\0" in name):
            raise ClosedError(INVALID_QUERY)
        return name


def read(scope: MutableMapping[str, Any]) -> Handshake | None:
    """Return what the handshake asks for, or None if there is no WebSocket at its path."""
    match = _PATH.fullmatch(scope["path"])
    if match is None:
        return None
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError:
        pairs = [("", "")]  # as invalid as any other unknown field
    keys = [value for name, value in scope["headers"] if name == b"x-api-key"]
    return Handshake(
        chat_id=match[1],
        key=keys[0].decode("latin-1") if len(keys) == 1 else None,
        query=dict(pairs),
        is_repeated=len(dict(pairs)) < len(pairs),
    )


def is_allowed_origin(scope: MutableMapping[str, Any], origins: Sequence[str]) -> bool:
    """Return whether the handshake's Origin may connect: our own, one of `origins`, or none, as programs send none.

    A browser lets every page open a WebSocket to any host. Only this check prevents that.
    """
    headers = dict(scope["headers"])
    header: bytes | None = headers.get(b"origin")
    if header is None:
        return True
    origin = header.decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1").lower()
    return origin in origins or (bool(host) and origin.lower() in {f"http://{host}", f"https://{host}"})


def admit(handshake: Handshake, repositories: Repositories) -> tuple[Caller, str]:
    """Return the caller, and the canonical id of the chat. It asks the database.

    Raises:
        ClosedError: no valid key or ticket, no valid chat id, a key that may not read, or one beyond its rate limit.
    """
    chat_id = parse_uuid(handshake.chat_id)
    ticket = handshake.query.get("ticket")
    try:
        if handshake.key is not None:
            caller = repositories.keys.authenticate(handshake.key)
        elif ticket is not None and handshake.key is None and chat_id is not None:
            caller = repositories.tickets.redeem(ticket, chat_id)
        else:
            raise ClosedError(NO_KEY)
    except InvalidApiKeyError:
        raise ClosedError(NO_KEY) from None
    if chat_id is None:
        raise ClosedError(INVALID_CHAT_ID)
    if Scope.READ not in caller.scopes:
        raise ClosedError(NO_SCOPE)
    verdict = repositories.limits.take(caller, Scope.READ)
    if verdict is not None and not verdict.granted:
        raise ClosedError(RATE_LIMITED)
    return caller, chat_id
