"""Creates, finds, lists and changes chats. Deleting them is in deletions.py."""

import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument

from chat_service.errors import (
    ChatExistsError,
    ChatIdRetiredError,
    ChatInTrashError,
    ChatNotFoundError,
    ChatServiceError,
    PreconditionFailedError,
)
from chat_service.models import Chat, IdempotencyKey, ListPosition
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key, has_expired, living, unexpired
from chat_service.repository.lists import latest_first
from chat_service.repository.presence import Presence
from chat_service.repository.unit_of_work import UnitOfWork


class Chats:
    """The chats collection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._presence = Presence(database)

    def create(  # noqa: PLR0913, PLR0917 - a chat, and how it is requested
        self,
        tenant_id: str,
        title: str | None,
        metadata: dict[str, Any],
        chat_id: str | None = None,
        key: IdempotencyKey | None = None,
        expires_at: datetime | None = None,
    ) -> Chat:
        """Create a chat, with the id `chat_id` if that is given, and return it. It expires at `expires_at`.

        Raises:
            ChatExistsError: the tenant has a chat with this id.
            ChatInTrashError: the tenant has a chat with this id in the trash.
            ChatIdRetiredError: the tenant had a chat with this id, and deleted it.
            IdempotencyKeyReusedError: `key` came with another request before.
        """
        # Random ids do not collide, so only an id that the caller chose has to be looked up.
        is_chosen = chat_id is not None

        def build(facts: dict[str, Any]) -> Chat:
            created_at = facts["at"]
            times = {
                "created_at": created_at,
                "updated_at": created_at,
                "last_message_at": None,
                "expires_at": expires_at,
            }
            taken_at = self._taken_at(tenant_id, {"updated_at": created_at, "expires_at": expires_at})
            return Chat(facts["id"], title, metadata, 0, 0, revision=1, **times, taken_at=taken_at)

        chat = build({"id": chat_id or str(uuid.uuid4()), "at": self._database.now()})

        def work(tx: UnitOfWork) -> Chat | ChatServiceError:
            conflict = self._id_conflict(tx, tenant_id, chat.id) if is_chosen else None
            if conflict is not None:
                return conflict
            tx.chats.insert_one(to_document(tenant_id, chat))
            return chat

        facts = {"id": chat.id, "at": chat.created_at}
        work_once = once(key, work, lambda _: facts, build)
        return self._database.transaction(work_once)

    def _id_conflict(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> ChatServiceError | None:
        """Return why the id cannot be used for a new chat, or None if it can."""
        key = {"_id": chat_key(tenant_id, chat_id)}
        if tx.deletions.find_one(key, {"_id": True}):
            return ChatIdRetiredError()
        if trashed := tx.trash.find_one(key, {"in_grace": True}):
            return ChatIdRetiredError() if "in_grace" in trashed else ChatInTrashError()
        if (chat := tx.chats.find_one(key, {"expires_at": True})) is None:
            return None
        # An expired chat counts as deleted for everybody, whether or not the expiry job has deleted it yet.
        return ChatIdRetiredError() if has_expired(chat, tx.now) else ChatExistsError()

    def get(self, tenant_id: str, chat_id: str) -> Chat:
        """Return the chat, with the number of its live connections.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
        """
        with self._database.operation():
            connections = self._presence.count(self._database.unbound(), tenant_id, chat_id).live
            document = self._database.chats.find_one(living(tenant_id, chat_id, self._database.now()))
        if document is None:
            raise ChatNotFoundError
        return self.to_chat(document, connections)

    def page(self, tenant_id: str, limit: int, after: ListPosition | None) -> list[Chat]:
        """Return up to `limit` chats of the tenant that come after a position in the list, latest activity first."""
        condition: dict[str, Any] = {"_id.tenant_id": tenant_id, **unexpired(self._database.now())}
        with self._database.operation():
            documents = latest_first(self._database.chats, condition, "updated_at", limit, after)
            ids = [document["_id"]["chat_id"] for document in documents]
            leases = self._presence.count_each(self._database.unbound(), tenant_id, ids)
        return [self.to_chat(document, leases[document["_id"]["chat_id"]].live) for document in documents]

    def update(
        self, tenant_id: str, chat_id: str, changes: dict[str, Any], revisions: Collection[int] | None = None
    ) -> Chat:
        """Change the title, metadata or expiry, and return the chat; with `revisions`, only if it is at one of them.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            PreconditionFailedError: the chat is at another revision; nothing was changed.
        """
        now = self._database.now()
        key = living(tenant_id, chat_id, now)
        expected = at_revision(revisions)
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
            return self.to_chat(document, self._presence.count(self._database.unbound(), tenant_id, chat_id).live)

    def to_chat(self, document: dict[str, Any], connections: int) -> Chat:
        """Return the chat that is stored in the document, with the time when the tenant's retention takes it."""
        taken_at = self._taken_at(document["_id"]["tenant_id"], document)
        return from_document(document, connections, taken_at)

    def _taken_at(self, tenant_id: str, document: dict[str, Any]) -> datetime | None:
        """Return when the tenant's retention takes the chat, or None if it never does."""
        retention = self._database.rules.learn(tenant_id).retention
        if retention is None or document.get("expires_at") is not None:
            return None
        restored_at = document.get("restoration", {}).get("at", document["updated_at"])
        return retention.takes_at(max(document["updated_at"], restored_at))


def at_revision(revisions: Collection[int] | None) -> dict[str, Any]:
    """Return the condition that a chat is at one of the revisions; None allows any."""
    return {} if revisions is None else {"revision": {"$in": list(revisions)}}


def to_document(tenant_id: str, chat: Chat) -> dict[str, Any]:
    """Return the document that stores `chat`."""
    return {
        "_id": chat_key(tenant_id, chat.id),
        "title": chat.title,
        "metadata": chat.metadata,
        "first_seq": 1,
        "next_seq": 1,
        "message_count": chat.message_count,
        "connections_opened": 0,
        "revision": chat.revision,
        "created_at": chat.created_at,
        "updated_at": chat.updated_at,
        "last_message_at": chat.last_message_at,
        **({} if chat.expires_at is None else {"expires_at": chat.expires_at}),
    }


def from_document(document: dict[str, Any], active_connections: int, taken_at: datetime | None = None) -> Chat:
    """Return the chat that is stored in `document`; `taken_at` is when the tenant's retention takes it."""
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
        expires_at=document.get("expires_at"),
        taken_at=taken_at,
    )
