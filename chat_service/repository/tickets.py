"""Tickets: what a browser sends instead of a key, because it cannot send a header when it opens a WebSocket.

A ticket opens one connection to one chat, or to the log, once, within 30 s, with the scopes of the key that it was
issued to. Like a key, it is stored only as a digest.
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
"""From issuing a ticket to the handshake: a page uses its ticket at once (the contract says 30 s)."""


class Tickets:
    """The tickets collection."""

    def __init__(self, database: Database, keys: ApiKeys) -> None:
        self._database = database
        self._keys = keys

    def issue(self, caller: Caller, chat_id: str | None = None) -> Ticket:
        """Issue a ticket for the chat, or without `chat_id` for the log; return it, which is possible only now.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
        """
        ticket = Ticket(secrets.token_urlsafe(32), self._database.now() + LIFE)
        with self._database.operation(writes=True):
            if chat_id is not None and not self._is_live(caller.tenant_id, chat_id):
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

    def _is_live(self, tenant_id: str, chat_id: str) -> bool:
        chat = living(tenant_id, chat_id, self._database.now())
        return self._database.chats.find_one(chat, {"_id": True}) is not None

    def redeem(self, ticket: str, chat_id: str | None = None) -> Caller:
        """Consume the ticket for the chat, or for the log, and return the caller that it was issued to.

        Raises:
            InvalidApiKeyError: it is unknown, used, expired, for something else, or older than the chat's restore.
        """
        valid = {"_id": digest(ticket), "chat_id": chat_id, "expires_at": {"$gt": self._database.now()}}
        with self._database.operation(writes=True):
            document = self._database.tickets.find_one_and_delete(valid)
            if document is None or (chat_id is not None and self._is_older_than_restore(document)):
                raise InvalidApiKeyError
        scopes = frozenset(Scope(scope) for scope in document["scopes"])
        return self._keys.current(Caller(document["tenant_id"], document["key_id"], scopes))

    def _is_older_than_restore(self, ticket: dict[str, Any]) -> bool:
        """Return whether the chat was restored since the ticket was issued: its trashing had ended the ticket."""
        chat = {"_id": chat_key(ticket["tenant_id"], ticket["chat_id"])}
        since = {"restoration.at": {"$gte": ticket["expires_at"] - LIFE}}
        return self._database.chats.find_one({**chat, **since}, {"_id": True}) is not None
