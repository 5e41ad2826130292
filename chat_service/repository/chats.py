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
from collections.abc import Collection
from typing import Any

from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.client_session import ClientSession

from chat_service.errors import (
    ActiveConnectionsError,
    ChatExistsError,
    ChatIdRetiredError,
    ChatNotFoundError,
    ChatServiceError,
    PreconditionFailedError,
)
from chat_service.models import Chat, Deletion, ListPosition
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
        chat = Chat(chat_id, title, metadata, 0, 0, created_at=now, updated_at=now, last_message_at=None, revision=1)

        def work(session: ClientSession | None) -> Chat | ChatServiceError:
            taken = self._taken(tenant_id, chat.id, session) if chosen else None
            if taken is not None:
                return taken
            self._database.chats.insert_one(to_document(tenant_id, chat), session=session)
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
        return from_document(document, connections)

    def page(self, tenant_id: str, limit: int, after: ListPosition | None) -> list[Chat]:
        """Return up to `limit` chats of the tenant that come after a place in the list, latest activity first."""
        wanted: dict[str, Any] = {"_id.tenant_id": tenant_id}
        if after is not None:
            # The bound is said twice: the first is what the index can start from.
            wanted["updated_at"] = {"$lte": after.updated_at}
            wanted["$or"] = [{"updated_at": {"$lt": after.updated_at}}, {"_id.chat_id": {"$gt": after.chat_id}}]
        order = [("updated_at", DESCENDING), ("_id.chat_id", ASCENDING)]
        with self._database.operation():
            documents = list(self._database.chats.find(wanted, sort=order, limit=limit, batch_size=limit + 1))
            ids = [document["_id"]["chat_id"] for document in documents]
            live = self._presence.count_each(tenant_id, ids, self._database.now())
        return [from_document(document, live[document["_id"]["chat_id"]]) for document in documents]

    def update(
        self, tenant_id: str, chat_id: str, changes: dict[str, Any], revisions: Collection[int] | None = None
    ) -> Chat:
        """Change the title or the metadata and return the chat; with `revisions`, only if it is at one of them.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            PreconditionFailedError: the chat is at another revision; nothing was changed.
        """
        now = self._database.now()
        key = {"_id": chat_key(tenant_id, chat_id)}
        expected = _at(revisions)
        with self._database.operation(writes=True):
            document = self._database.chats.find_one_and_update(
                {**key, **expected},
                {"$set": {**changes, "updated_at": now}, "$inc": {"revision": 1}},
                return_document=ReturnDocument.AFTER,
            )
            if document is None and expected and self._database.chats.find_one(key, {"_id": True}):
                raise PreconditionFailedError
            if document is None:
                raise ChatNotFoundError
            return from_document(document, self._presence.count(tenant_id, chat_id, now).live)

    def delete(
        self, tenant_id: str, chat_id: str, requested_by: str, revisions: Collection[int] | None = None
    ) -> Deletion:
        """Delete the chat and all its messages in one transaction, if it is at one of `revisions`; return the receipt.

        Five commands: presence, chat, messages, receipt, commit.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            ActiveConnectionsError: the chat has live connections; nothing was deleted.
            PreconditionFailedError: the chat is at another revision; nothing was deleted.
            DatabaseUnavailableError: nothing was deleted.
            OutcomeUnknownError: the chat is either whole or gone; a retry finds out.
        """
        key = chat_key(tenant_id, chat_id)

        def work(session: ClientSession | None) -> Deletion | ChatServiceError:
            now = self._database.now()
            leases = self._presence.count(tenant_id, chat_id, now, session)
            if leases.live:
                return ActiveConnectionsError(leases.live)
            refused = self._remove(key, revisions, session)
            if refused is not None:
                return refused
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

    def _remove(
        self, key: dict[str, Any], revisions: Collection[int] | None, session: ClientSession | None
    ) -> ChatServiceError | None:
        """Remove the chat document, or return why that cannot be."""
        seen = {"_id": key, **_at(revisions)}
        if self._database.chats.find_one_and_delete(seen, projection={"_id": True}, session=session):
            return None
        if revisions is not None and self._database.chats.find_one({"_id": key}, {"_id": True}, session=session):
            return PreconditionFailedError()
        return ChatNotFoundError()


def _at(revisions: Collection[int] | None) -> dict[str, Any]:
    """Return the condition that a chat is at one of the revisions; None allows any."""
    return {} if revisions is None else {"revision": {"$in": list(revisions)}}


def to_document(tenant_id: str, chat: Chat) -> dict[str, Any]:
    """Return the document that keeps `chat`."""
    return {
        "_id": chat_key(tenant_id, chat.id),
        "title": chat.title,
        "metadata": chat.metadata,
        "next_seq": 1,
        "message_count": chat.message_count,
        "connections_opened": 0,
        "revision": chat.revision,
        "created_at": chat.created_at,
        "updated_at": chat.updated_at,
        "last_message_at": chat.last_message_at,
    }


def from_document(document: dict[str, Any], active_connections: int) -> Chat:
    """Return the chat that `document` keeps."""
    return Chat(
        id=document["_id"]["chat_id"],
        title=document["title"],
        metadata=document["metadata"],
        message_count=document["message_count"],
        active_connections=active_connections,
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        last_message_at=document["last_message_at"],
        revision=document["revision"],
    )
