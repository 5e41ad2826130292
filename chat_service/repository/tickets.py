"""Tickets: what a browser shows in place of a key, because it cannot send a header when it opens a WebSocket.

A ticket opens one connection to one chat, or to the log, once, within 30 s, with the scopes of the key that it was made
with. Like a key it is stored as its digest.
"""

import secrets
from datetime import timedelta
from typing import Any

from chat_service.errors import ChatNotFoundError, InvalidApiKeyError
from chat_service.models import Caller, Scope, Ticket
from chat_service.repository.api_keys import ApiKeys, digest
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_key, living

LIFE = timedelta(seconds=30)
"""From the answer to the handshake: a page uses its ticket at once (the contract says 30 s)."""


class Tickets:
    """The tickets collection."""

    def __init__(self, database: Database, keys: ApiKeys) -> None:
        self._database = database
        self._keys = keys

    def issue(self, caller: Caller, chat_id: str | None = None) -> Ticket:
        """Make a ticket for the chat, or without one for the log, and return it: the only time it is seen.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
        """
        ticket = Ticket(secrets.token_urlsafe(32), self._database.now() + LIFE)
        with self._database.operation(writes=True):
            if chat_id is not None and not self._is_there(caller.tenant_id, chat_id):
                raise ChatNotFoundError
            self._database.tickets.insert_one(
                {
                    "_id": digest(ticket.ticket),
                    "tenant_id": caller.tenant_id,
                    "chat_id": chat_id,
                    "key_id": caller.key_id,
                    "scopes": sorted(scope.value for scope in caller.scopes),
                    "expires_at": ticket.expires_at,
                }
            )
        return ticket

    def _is_there(self, tenant_id: str, chat_id: str) -> bool:
        chat = living(tenant_id, chat_id, self._database.now())
        return self._database.chats.find_one(chat, {"_id": True}) is not None

    def redeem(self, ticket: str, chat_id: str | None = None) -> Caller:
        """Use the ticket for the chat, or for the log, up, and return who it was made for.

        Raises:
            InvalidApiKeyError: unknown, used, expired, made for something else, or before the chat was in the trash.
        """
        wanted = {"_id": digest(ticket), "chat_id": chat_id, "expires_at": {"$gt": self._database.now()}}
        with self._database.operation(writes=True):
            found = self._database.tickets.find_one_and_delete(wanted)
            if found is None or (chat_id is not None and self._is_from_before(found)):
                raise InvalidApiKeyError
        scopes = frozenset(Scope(scope) for scope in found["scopes"])
        return self._keys.current(Caller(found["tenant_id"], found["key_id"], scopes))

    def _is_from_before(self, ticket: dict[str, Any]) -> bool:
        """Tell whether the chat was restored since the ticket was issued: that gives back nothing that had ended."""
        chat = {"_id": chat_key(ticket["tenant_id"], ticket["chat_id"])}
        since = {"restoration.at": {"$gte": ticket["expires_at"] - LIFE}}
        return self._database.chats.find_one({**chat, **since}, {"_id": True}) is not None
