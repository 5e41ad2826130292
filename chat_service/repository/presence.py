"""Leases of live WebSocket connections.

A connection is live while its lease has not expired. Opening one writes the chat document in the same transaction, so
that it and a delete of the chat conflict, and exactly one of them happens.
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
"""How long the connections of a worker that died keep a chat from being deleted, at most. The promise is 30 s. Three
renewals may fail before a living worker closes its own, in good time before the lease ends."""

TENANT_COUNT_SECONDS = 1.0
"""How old the number of a tenant's connections may be when one more is opened: thousands are not counted for each."""


class LeaseCount(NamedTuple):
    """The leases of one chat at one moment."""

    live: int
    expired: int


class Opened(NamedTuple):
    """A new lease, and its chat as it was then."""

    lease: Lease
    last_seq: int
    """Of the chat's last message."""
    expires_at: datetime | None
    """When the chat is gone."""


class ConnectionCaps(NamedTuple):
    """How many live connections there may be."""

    chat: int = sys.maxsize
    tenant: int = sys.maxsize


class Presence:
    """The presence collection."""

    def __init__(self, database: Database, caps: ConnectionCaps | None = None) -> None:
        self._database = database
        self._caps = caps or ConnectionCaps()
        self._of_tenants: TTLCache[str, Iterator[int]] = TTLCache(maxsize=10_000, ttl=TENANT_COUNT_SECONDS)
        self._lock = threading.Lock()

    def open(
        self, tenant_id: str, chat_id: str, connection_id: str, worker_id: str, name: str | None = None
    ) -> "Opened":
        """Open a lease for a new connection to the chat; return it, with what the connection has to know of the chat.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            TooManyConnectionsError: the chat or the tenant has as many as it may have; nothing was opened.
        """
        if self._count_tenant(tenant_id) >= self._caps.tenant:
            raise TooManyConnectionsError

        def work(tx: UnitOfWork) -> Opened | ChatServiceError:
            if self.count(tx, tenant_id, chat_id).live >= self._caps.chat:
                return TooManyConnectionsError()
            # $inc, because a write that changes nothing would not conflict with a delete.
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
        """Return how many connections the tenant has; between two counts each call is taken for one more."""
        with self._lock:
            numbers = self._of_tenants.get(tenant_id)
        if numbers is None:
            live = {"tenant_id": tenant_id, "expires_at": {"$gt": self._database.now()}}
            with self._database.operation():
                numbers = itertools.count(self._database.presence.count_documents(live))
            with self._lock:
                self._of_tenants[tenant_id] = numbers
        return next(numbers)

    def renew(self, worker_id: str, first: str = "", end: str = "g") -> set[str]:
        """Renew the leases of a worker, of ids from `first` to before `end`, with one write; return what is still held.

        An expired lease is never renewed: a delete may have passed it already. The worker closes every socket that is
        not in the answer. It has no tenant, like all that concerns a worker: that holds connections of many.
        """
        now = self._database.now()
        with self._database.operation(writes=True):
            held = {"worker_id": worker_id, "_id": {"$gte": first, "$lt": end}, "expires_at": {"$gt": now}}
            self._database.presence.update_many(held, {"$set": {"expires_at": now + LEASE}})
            return {lease["_id"] for lease in self._database.presence.find(held, {"_id": True})}

    def close(self, worker_id: str, connection_ids: Iterable[str]) -> None:
        """Give up leases of a worker; nothing happens to those that are gone already."""
        with self._database.operation(writes=True):
            self._database.presence.delete_many({"_id": {"$in": list(connection_ids)}, "worker_id": worker_id})

    def close_worker(self, worker_id: str) -> int:
        """Give up all leases of a worker that shuts down; return how many there were."""
        with self._database.operation(writes=True):
            return int(self._database.presence.delete_many({"worker_id": worker_id}).deleted_count)

    def count(self, tx: UnitOfWork, tenant_id: str, chat_id: str) -> LeaseCount:
        """Return how many leases of the chat are live now, and how many have expired but are not swept up yet."""
        return self.count_each(tx, tenant_id, [chat_id])[chat_id]

    def count_each(self, tx: UnitOfWork, tenant_id: str, chat_ids: Sequence[str]) -> dict[str, LeaseCount]:
        """Return the leases of each of the chats, with one command."""
        # One read of the index alone; both numbers come from it, because a delete needs both.
        leases = tx.read(
            "presence",
            {"tenant_id": tenant_id, "chat_id": {"$in": list(chat_ids)}},
            {"_id": False, "chat_id": True, "expires_at": True},
        )
        found = Counter((lease["chat_id"], lease["expires_at"] > tx.now) for lease in leases)
        return {chat_id: LeaseCount(live=found[chat_id, True], expired=found[chat_id, False]) for chat_id in chat_ids}

    def page(self, tenant_id: str, chat_id: str, limit: int, after: ListPosition | None) -> list[Lease]:
        """Return up to `limit` live connections of the chat that come after a place in the list, latest first.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
        """
        wanted: dict[str, Any] = {
            "tenant_id": tenant_id,
            "chat_id": chat_id,
            "expires_at": {"$gt": self._database.now()},
        }
        if after is not None:
            wanted["$or"] = [
                {"connected_at": {"$lt": after.at}},
                {"connected_at": after.at, "_id": {"$lt": after.id}},
            ]
        order = [("connected_at", DESCENDING), ("_id", DESCENDING)]
        with self._database.operation():
            found = list(self._database.presence.find(wanted, sort=order, limit=limit, batch_size=limit + 1))
            if self._database.chats.find_one(living(tenant_id, chat_id, self._database.now()), {"_id": True}) is None:
                raise ChatNotFoundError
        return [_from_document(document) for document in found]

    def since_restored(self, tenant_id: str, chat_id: str) -> set[str] | None:
        """Return the ids of the leases of a chat that had gone and is there again, or None if it has gone."""
        with self._database.operation():
            if self._database.chats.find_one(living(tenant_id, chat_id, self._database.now()), {"_id": True}) is None:
                return None
            mine = {"tenant_id": tenant_id, "chat_id": chat_id}
            return {lease["_id"] for lease in self._database.presence.find(mine, {"_id": True})}

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
