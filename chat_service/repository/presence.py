"""Leases of live WebSocket connections.

A connection is live until its lease expires. The transaction that opens a lease also writes the chat document, so that
it conflicts with a delete of the chat, and exactly one of the two happens.
"""

import itertools
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from cachetools import TTLCache
from pymongo import DESCENDING, ReturnDocument

from chat_service.errors import ChatNotFoundError, ChatServiceError, TooManyConnectionsError
from chat_service.models import Lease, ListPosition
from chat_service.repository.database import Database
from chat_service.repository.keys import living
from chat_service.repository.unit_of_work import UnitOfWork

LEASE = timedelta(seconds=25)
"""How long the connections of a dead worker can prevent a chat's deletion, at most. The promise is 30 s. A living
worker closes its own connections after three failed renewals, in good time before their leases end."""

TENANT_COUNT_SECONDS = 1.0
"""How old the count of a tenant's connections may be when one more is opened: not every open counts thousands."""


class LeaseCount(NamedTuple):
    """The leases of one chat at one moment."""

    live: int
    expired: int


class Opened(NamedTuple):
    """A new lease, and what its connection needs to know of the chat."""

    lease: Lease
    last_seq: int
    """The seq of the chat's last message."""
    expires_at: datetime | None
    """When the chat expires."""


class ConnectionCaps(NamedTuple):
    """How many live connections a chat and a tenant may have."""

    chat: int = sys.maxsize
    tenant: int = sys.maxsize


class Presence:
    """The presence collection."""

    def __init__(self, database: Database, caps: ConnectionCaps | None = None) -> None:
        self._database = database
        self._caps = caps or ConnectionCaps()
        self._tenant_counts: TTLCache[str, Iterator[int]] = TTLCache(maxsize=10_000, ttl=TENANT_COUNT_SECONDS)
        self._lock = threading.Lock()

    def open(
        self, tenant_id: str, chat_id: str, connection_id: str, worker_id: str, name: str | None = None
    ) -> "Opened":
        """Open a lease for a new connection to the chat; return it, with what the connection needs to know of the chat.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            TooManyConnectionsError: the chat or the tenant has reached its cap; nothing was opened.
        """
        if self._count_tenant(tenant_id) >= self._caps.tenant:
            raise TooManyConnectionsError

        def work(tx: UnitOfWork) -> Opened | ChatServiceError:
            if self.count(tx, tenant_id, chat_id).live >= self._caps.chat:
                return TooManyConnectionsError()
            # $inc: a write that changes nothing would not conflict with a delete.
            chat = tx.chats.find_one_and_update(
                living(tenant_id, chat_id, tx.now),
                {"$inc": {"connections_opened": 1}},
                projection={"next_seq": True, "expires_at": True},
                return_document=ReturnDocument.BEFORE,
            )
            if chat is None:
                return ChatNotFoundError()
            lease = Lease(connection_id, chat_id, worker_id, tx.now, tx.now + LEASE, name)
            tx.presence.insert_one(_to_document(tenant_id, lease))
            return Opened(lease, chat["next_seq"] - 1, chat.get("expires_at"))

        return self._database.transaction(work)

    def _count_tenant(self, tenant_id: str) -> int:
        """Return how many connections the tenant has. Between two counts in the database, each call adds one."""
        with self._lock:
            counter = self._tenant_counts.get(tenant_id)
        if counter is None:
            live = {"tenant_id": tenant_id, "expires_at": {"$gt": self._database.now()}}
            with self._database.operation():
                counter = itertools.count(self._database.presence.count_documents(live))
            with self._lock:
                self._tenant_counts[tenant_id] = counter
        return next(counter)

    def renew(self, worker_id: str, first: str = "", end: str = "g") -> set[str]:
        """Renew a worker's leases, from id `first` to before `end`, with one write; return the ids of those still live.

        An expired lease is never renewed: a delete may have ignored it already. The worker closes every socket whose
        id is not returned. There is no tenant, as a worker has connections of many tenants.
        """
        now = self._database.now()
        with self._database.operation(writes=True):
            live = {"worker_id": worker_id, "_id": {"$gte": first, "$lt": end}, "expires_at": {"$gt": now}}
            self._database.presence.update_many(live, {"$set": {"expires_at": now + LEASE}})
            return {lease["_id"] for lease in self._database.presence.find(live, {"_id": True})}

    def close(self, worker_id: str, connection_ids: Iterable[str]) -> None:
        """Remove leases of a worker; leases that are already gone are ignored."""
        with self._database.operation(writes=True):
            self._database.presence.delete_many({"_id": {"$in": list(connection_ids)}, "worker_id": worker_id})

    def close_worker(self, worker_id: str) -> int:
        """Remove all leases of a worker that shuts down; return how many there were."""
        with self._database.operation(writes=True):
            return int(self._database.presence.delete_many({"worker_id": worker_id}).deleted_count)

    def count(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> LeaseCount:
        """Return how many leases of the chat are live now, and how many have expired but are not removed yet."""
        return self.count_each(tx, tenant_id, [chat_id])[chat_id]

    def count_each(self, tx: UnitOfWork, tenant_id: str, chat_ids: Sequence[str]) -> dict[str, LeaseCount]:
        """Return the counts of each chat's leases. One command."""
        # A delete needs both counts.
        leases = tx.read(
            "presence",
            {"tenant_id": tenant_id, "chat_id": {"$in": list(chat_ids)}},
            {"_id": False, "chat_id": True, "expires_at": True},
        )
        counts = Counter((lease["chat_id"], lease["expires_at"] > tx.now) for lease in leases)
        return {chat_id: LeaseCount(live=counts[chat_id, True], expired=counts[chat_id, False]) for chat_id in chat_ids}

    def page(self, tenant_id: str, chat_id: str, limit: int, after: ListPosition | None) -> list[Lease]:
        """Return up to `limit` live connections of the chat after a position in the list, latest first.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
        """
        condition: dict[str, Any] = {
            "tenant_id": tenant_id,
            "chat_id": chat_id,
            "expires_at": {"$gt": self._database.now()},
        }
        if after is not None:
            condition["$or"] = [
                {"connected_at": {"$lt": after.at}},
                {"connected_at": after.at, "_id": {"$lt": after.id}},
            ]
        order = [("connected_at", DESCENDING), ("_id", DESCENDING)]
        with self._database.operation():
            documents = list(self._database.presence.find(condition, sort=order, limit=limit, batch_size=limit + 1))
            if self._database.chats.find_one(living(tenant_id, chat_id, self._database.now()), {"_id": True}) is None:
                raise ChatNotFoundError
        return [_from_document(document) for document in documents]

    def since_restored(self, tenant_id: str, chat_id: str) -> set[str] | None:
        """Return the ids of the leases of a chat that was restored, or None if the chat does not exist (any more)."""
        with self._database.operation():
            if self._database.chats.find_one(living(tenant_id, chat_id, self._database.now()), {"_id": True}) is None:
                return None
            of_chat = {"tenant_id": tenant_id, "chat_id": chat_id}
            return {lease["_id"] for lease in self._database.presence.find(of_chat, {"_id": True})}

    def clear(self, tx: UnitOfWork, tenant_id: str, chat_ids: list[str]) -> None:
        """Remove all leases of the chats, as part of their delete."""
        tx.presence.delete_many({"tenant_id": tenant_id, "chat_id": {"$in": chat_ids}})


def _to_document(tenant_id: str, lease: Lease) -> dict[str, Any]:
    return {
        "_id": lease.connection_id,
        "tenant_id": tenant_id,
        "chat_id": lease.chat_id,
        "worker_id": lease.worker_id,
        "connected_at": lease.connected_at,
        "expires_at": lease.expires_at,
        "name": lease.name,
    }


def _from_document(document: dict[str, Any]) -> Lease:
    return Lease(
        connection_id=document["_id"],
        chat_id=document["chat_id"],
        worker_id=document["worker_id"],
        connected_at=document["connected_at"],
        expires_at=document["expires_at"],
        name=document.get("name"),
    )
