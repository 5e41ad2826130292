"""Chats, and the operation the service exists for: deleting one.

What this module keeps, in every interleaving with posts, connections, creates and other deletes:

1. A 200 means gone. From that commit on neither the chat nor any message of it can be read, and none appears again.
2. Any other outcome means that nothing changed, also after a crash at any point.
3. Of any number of concurrent deletes exactly one succeeds: the chat document can be removed once.
4. Posting and connecting write the chat document in their own transaction. A transaction that only *read* it could
   commit beside a delete (write skew under snapshot isolation) and leave orphans.
5. A deleted id never comes back: the receipt is its tombstone, written in the delete's own transaction, and creating
   a chat under it is refused.
"""

import uuid
from typing import Any

from pymongo.client_session import ClientSession

from chat_service.errors import (
    ActiveConnectionsError,
    ChatExistsError,
    ChatIdRetiredError,
    ChatNotFoundError,
    ChatServiceError,
)
from chat_service.models import Chat, Deletion
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_key, message_range
from chat_service.repository.presence import Presence


class Chats:
    """The chats collection, and what a delete takes with it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._presence = Presence(database)

    def create(self, tenant_id: str, title: str | None, metadata: dict[str, Any], chat_id: str | None = None) -> Chat:
        """Create a chat, under `chat_id` if it is given, and return it.

        Raises:
            ChatExistsError: the tenant has a chat with this id.
            ChatIdRetiredError: the tenant had one, and deleted it.
        """
        now = self._database.now()
        # Random ids do not meet, so only an id the caller chose has to be looked up.
        chosen, chat_id = chat_id is not None, chat_id or str(uuid.uuid4())
        chat = Chat(chat_id, title, metadata, 0, 0, created_at=now, updated_at=now, last_message_at=None)

        def work(session: ClientSession | None) -> Chat | ChatServiceError:
            taken = self._taken(tenant_id, chat.id, session) if chosen else None
            if taken is not None:
                return taken
            self._database.chats.insert_one(_to_document(tenant_id, chat), session=session)
            return chat

        return self._database.transaction(work)

    def _taken(self, tenant_id: str, chat_id: str, session: ClientSession | None) -> ChatServiceError | None:
        key = {"_id": chat_key(tenant_id, chat_id)}
        if self._database.chats.find_one(key, {"_id": True}, session=session):
            return ChatExistsError()
        if self._database.deletions.find_one(key, {"_id": True}, session=session):
            return ChatIdRetiredError()
        return None

    def get(self, tenant_id: str, chat_id: str) -> Chat:
        """Return the chat with its live connections counted.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
        """
        with self._database.operation():
            connections = self._presence.count(tenant_id, chat_id, self._database.now()).live
            document = self._database.chats.find_one({"_id": chat_key(tenant_id, chat_id)})
        if document is None:
            raise ChatNotFoundError
        return _from_document(document, connections)

    def delete(self, tenant_id: str, chat_id: str, requested_by: str) -> Deletion:
        """Delete the chat and all its messages in one transaction, and return the receipt.

        Five commands: presence, chat, messages, receipt, commit.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            ActiveConnectionsError: the chat has live connections; nothing was deleted.
            DatabaseUnavailableError: nothing was deleted.
            OutcomeUnknownError: the chat is either whole or gone; a retry finds out.
        """
        key = chat_key(tenant_id, chat_id)

        def work(session: ClientSession | None) -> Deletion | ChatServiceError:
            now = self._database.now()
            leases = self._presence.count(tenant_id, chat_id, now, session)
            if leases.live:
                return ActiveConnectionsError(leases.live)
            if (
                self._database.chats.find_one_and_delete({"_id": key}, projection={"_id": True}, session=session)
                is None
            ):
                return ChatNotFoundError()
            if leases.expired:
                # Taken along, so that a renewal that is under way conflicts with this delete or finds nothing.
                self._presence.clear(tenant_id, chat_id, session)
            removed = self._database.messages.delete_many({"_id": message_range(tenant_id, chat_id)}, session=session)
            receipt = Deletion(chat_id, now, removed.deleted_count, requested_by)
            self._database.deletions.insert_one(
                {
                    "_id": key,
                    "deleted_at": receipt.deleted_at,
                    "message_count": receipt.message_count,
                    "requested_by": receipt.requested_by,
                },
                session=session,
            )
            return receipt

        return self._database.transaction(work)


def _to_document(tenant_id: str, chat: Chat) -> dict[str, Any]:
    return {
        "_id": chat_key(tenant_id, chat.id),
        "title": chat.title,
        "metadata": chat.metadata,
        "next_seq": 1,
        "message_count": chat.message_count,
        "connections_opened": 0,
        "created_at": chat.created_at,
        "updated_at": chat.updated_at,
        "last_message_at": chat.last_message_at,
    }


def _from_document(document: dict[str, Any], active_connections: int) -> Chat:
    return Chat(
        id=document["_id"]["chat_id"],
        title=document["title"],
        metadata=document["metadata"],
        message_count=document["message_count"],
        active_connections=active_connections,
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        last_message_at=document["last_message_at"],
    )
