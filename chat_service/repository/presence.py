"""Leases of live WebSocket connections.

A connection is live while its lease has not expired. Opening one writes the chat document in the same transaction, so
that it and a delete of the chat conflict, and exactly one of them happens.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from pymongo.client_session import ClientSession

from chat_service.errors import ChatNotFoundError
from chat_service.models import Lease
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_key

LEASE = timedelta(seconds=30)
"""How long the connections of a worker that died keep a chat from being deleted, at the most."""


class LeaseCount(NamedTuple):
    """The leases of one chat at one moment."""

    live: int
    expired: int


class Presence:
    """The presence collection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, tenant_id: str, chat_id: str, connection_id: str, worker_id: str) -> Lease:
        """Open a lease for a new connection to the chat, and return it.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
        """
        now = self._database.now()
        lease = Lease(connection_id, chat_id, worker_id, connected_at=now, expires_at=now + LEASE)

        def work(session: ClientSession | None) -> Lease | ChatNotFoundError:
            # $inc, because a write that changes nothing would not conflict with a delete.
            touched = self._database.chats.update_one(
                {"_id": chat_key(tenant_id, chat_id)}, {"$inc": {"connections_opened": 1}}, session=session
            )
            if touched.matched_count == 0:
                return ChatNotFoundError()
            self._database.presence.insert_one(
                {
                    "_id": connection_id,
                    "tenant_id": tenant_id,
                    "chat_id": chat_id,
                    "worker_id": worker_id,
                    "connected_at": lease.connected_at,
                    "expires_at": lease.expires_at,
                },
                session=session,
            )
            return lease

        return self._database.transaction(work)

    def renew(self, worker_id: str, connection_ids: Iterable[str]) -> set[str]:
        """Renew the leases of a worker with one write; return the connections that are still held.

        An expired lease is never renewed: a delete may have passed it already. The worker closes every socket that is
        not in the answer. The one function here without a tenant: a worker holds connections of many.
        """
        now = self._database.now()
        with self._database.operation(writes=True):
            held = {"worker_id": worker_id, "expires_at": {"$gt": now}}
            self._database.presence.update_many(held, {"$set": {"expires_at": now + LEASE}})
            leases = self._database.presence.find(held, {"_id": True})
            return {lease["_id"] for lease in leases} & set(connection_ids)

    def close(self, tenant_id: str, connection_id: str) -> None:
        """Give up a lease; nothing happens if it is gone already."""
        with self._database.operation(writes=True):
            self._database.presence.delete_one({"_id": connection_id, "tenant_id": tenant_id})

    def close_worker(self, worker_id: str) -> int:
        """Give up all leases of a worker that shuts down; return how many there were."""
        with self._database.operation(writes=True):
            return int(self._database.presence.delete_many({"worker_id": worker_id}).deleted_count)

    def count(self, tenant_id: str, chat_id: str, now: datetime, session: ClientSession | None = None) -> LeaseCount:
        """Return how many leases of the chat are live at `now`, and how many have expired but are not swept up yet."""
        return self.count_each(tenant_id, [chat_id], now, session)[chat_id]

    def count_each(
        self, tenant_id: str, chat_ids: Sequence[str], now: datetime, session: ClientSession | None = None
    ) -> dict[str, LeaseCount]:
        """Return the leases of each of the chats, with one command."""
        # One read of the index alone; both numbers come from it, because a delete needs both.
        leases = self._database.presence.find(
            {"tenant_id": tenant_id, "chat_id": {"$in": list(chat_ids)}},
            {"_id": False, "chat_id": True, "expires_at": True},
            session=session,
        )
        found = Counter((lease["chat_id"], lease["expires_at"] > now) for lease in leases)
        return {chat_id: LeaseCount(live=found[chat_id, True], expired=found[chat_id, False]) for chat_id in chat_ids}

    def clear(self, tenant_id: str, chat_ids: list[str], session: ClientSession | None) -> None:
        """Remove all leases of the chats, as part of their delete."""
        self._database.presence.delete_many({"tenant_id": tenant_id, "chat_id": {"$in": chat_ids}}, session=session)
