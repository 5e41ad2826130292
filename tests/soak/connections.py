"""How the load connects to a chat. The one place to change when sockets are to do it."""

import uuid
from typing import Protocol

from chat_service.errors import ChatNotFoundError, DatabaseUnavailableError, OutcomeUnknownError
from chat_service.repository.database import Database
from chat_service.repository.presence import Presence


class Connections(Protocol):
    """Opens and closes live connections to chats."""

    def open(self, chat_id: str) -> tuple[int, str, str]:
        """Connect, and return status (101, 404, 503), code, and what names the connection."""

    def close(self, connection: str) -> tuple[int, str]:
        """Close a connection, and return status (200, 503) and code."""


class Leases:
    """Connections as the database sees them: a lease for each, and no socket."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._presence = Presence(database)
        self._tenant_id = tenant_id

    def open(self, chat_id: str) -> tuple[int, str, str]:
        connection = uuid.uuid4().hex
        try:
            self._presence.open(self._tenant_id, chat_id, connection, "soak")
        except ChatNotFoundError:
            return 404, "chat_not_found", connection
        except DatabaseUnavailableError:
            return 503, "database_unavailable", connection
        except OutcomeUnknownError:
            return 503, "outcome_unknown", connection
        return 101, "", connection

    def close(self, connection: str) -> tuple[int, str]:
        try:
            self._presence.close(self._tenant_id, connection)
        except (DatabaseUnavailableError, OutcomeUnknownError):
            return 503, "outcome_unknown"
        return 200, ""
