"""Builds all primary keys, and the query conditions on them.

The tenant is part of every key, so that no query can forget it by accident. BSON compares embedded documents field by
field *in order*: building them only here keeps the order the same everywhere.
"""

from datetime import datetime
from typing import Any

from chat_service.models import MAX_SEQ


def chat_key(tenant_id: str, chat_id: str) -> dict[str, Any]:
    """Return the `_id` of a chat, and of the receipt that replaces it."""
    return {"tenant_id": tenant_id, "chat_id": chat_id}


def living(tenant_id: str, chat_id: str, now: datetime) -> dict[str, Any]:
    """Return the condition of a live chat that has not expired."""
    return {"_id": chat_key(tenant_id, chat_id), **unexpired(now)}


def has_expired(document: dict[str, Any], now: datetime) -> bool:
    """Return whether a chat, or an API key, has expired."""
    return is_over(document.get("expires_at"), now)


def is_over(end: datetime | None, now: datetime) -> bool:
    """Return whether `end` has come; False without one."""
    return end is not None and end <= now


def chat_range(tenant_id: str, after: str = "") -> dict[str, Any]:
    """Return the `_id` condition of everything that belongs to a tenant's chats: one range of the primary key.

    Only chats whose id is greater than `after` are in it.
    """
    return {"$gt": chat_key(tenant_id, after), "$lt": chat_key(tenant_id, "g")}


def unexpired(now: datetime) -> dict[str, Any]:
    """Return the condition of the chats that have not expired."""
    return {"expires_at": {"$not": {"$lte": now}}}


def hold_key(tenant_id: str, hold_id: str) -> dict[str, Any]:
    """Return the `_id` of a hold."""
    return {"tenant_id": tenant_id, "hold_id": hold_id}


def log_key(tenant_id: str, seq: int) -> dict[str, Any]:
    """Return the `_id` of an entry in a tenant's log."""
    return {"tenant_id": tenant_id, "seq": seq}


def webhook_key(tenant_id: str, webhook_id: str) -> dict[str, Any]:
    """Return the `_id` of a webhook."""
    return {"tenant_id": tenant_id, "webhook_id": webhook_id}


def erasure_key(tenant_id: str, erasure_id: str) -> dict[str, Any]:
    """Return the `_id` of an erasure's record."""
    return {"tenant_id": tenant_id, "erasure_id": erasure_id}


def message_key(tenant_id: str, chat_id: str, seq: int) -> dict[str, Any]:
    """Return the `_id` of one message."""
    return {"tenant_id": tenant_id, "chat_id": chat_id, "seq": seq}


def bucket_key(tenant_id: str, key_id: str, scope: str) -> dict[str, Any]:
    """Return the `_id` of the token bucket of an API key for a scope."""
    return {"tenant_id": tenant_id, "key_id": key_id, "scope": scope}


def message_range(tenant_id: str, chat_id: str, first: int = 0, last: int = MAX_SEQ) -> dict[str, Any]:
    """Return the `_id` condition of the messages `first` to `last`, both included: one range of the primary key."""
    return {"$gte": message_key(tenant_id, chat_id, first), "$lte": message_key(tenant_id, chat_id, last)}


def own_messages(chat: dict[str, Any]) -> dict[str, Any]:
    """Return the `_id` condition of the chat's own messages, without those that are left for a purge."""
    return message_range(chat["_id"]["tenant_id"], chat["_id"]["chat_id"], chat["first_seq"])
