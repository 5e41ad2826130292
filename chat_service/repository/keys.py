"""The primary keys, and the conditions that they begin, built in one place.

The tenant is part of every key, so a query that forgets it cannot be written by accident. BSON compares embedded
documents field by field *in order*: these constructors are what keeps the order the same everywhere.
"""

from datetime import datetime
from typing import Any

from chat_service.models import MAX_SEQ


def chat_key(tenant_id: str, chat_id: str) -> dict[str, Any]:
    """Return the `_id` of a chat, and of the receipt that replaces it."""
    return {"tenant_id": tenant_id, "chat_id": chat_id}


def living(tenant_id: str, chat_id: str, now: datetime) -> dict[str, Any]:
    """Return the condition for a chat that is there, and whose time, if it has one, is not over."""
    return {"_id": chat_key(tenant_id, chat_id), **unexpired(now)}


def has_expired(document: dict[str, Any], now: datetime) -> bool:
    """Tell whether the time of a chat, or of an API key, is over."""
    return is_over(document.get("expires_at"), now)


def is_over(end: datetime | None, now: datetime) -> bool:
    """Tell whether an end, if there is one, has come."""
    return end is not None and end <= now


def chat_range(tenant_id: str, after: str = "") -> dict[str, Any]:
    """Return the `_id` condition for all that is of a tenant's chats: one stretch of the primary key.

    `after` is the id of a chat that everything comes after.
    """
    return {"$gt": chat_key(tenant_id, after), "$lt": chat_key(tenant_id, "g")}


def unexpired(now: datetime) -> dict[str, Any]:
    """Return the condition that a chat's time, if it has one, is not over."""
    return {"expires_at": {"$not": {"$lte": now}}}


def hold_key(tenant_id: str, hold_id: str) -> dict[str, Any]:
    """Return the `_id` of a hold."""
    return {"tenant_id": tenant_id, "hold_id": hold_id}


def log_key(tenant_id: str, seq: int) -> dict[str, Any]:
    """Return the `_id` of an entry of a tenant's log."""
    return {"tenant_id": tenant_id, "seq": seq}


def webhook_key(tenant_id: str, webhook_id: str) -> dict[str, Any]:
    """Return the `_id` of a webhook."""
    return {"tenant_id": tenant_id, "webhook_id": webhook_id}


def erasure_key(tenant_id: str, erasure_id: str) -> dict[str, Any]:
    """Return the `_id` of the record of an erasure."""
    return {"tenant_id": tenant_id, "erasure_id": erasure_id}


def message_key(tenant_id: str, chat_id: str, seq: int) -> dict[str, Any]:
    """Return the `_id` of one message."""
    return {"tenant_id": tenant_id, "chat_id": chat_id, "seq": seq}


def bucket_key(tenant_id: str, key_id: str, scope: str) -> dict[str, Any]:
    """Return the `_id` of the token bucket of an API key and a scope."""
    return {"tenant_id": tenant_id, "key_id": key_id, "scope": scope}


def message_range(tenant_id: str, chat_id: str, first: int = 0, last: int = MAX_SEQ) -> dict[str, Any]:
    """Return the `_id` condition for the messages `first` to `last`, both included: one stretch of the primary key."""
    return {"$gte": message_key(tenant_id, chat_id, first), "$lte": message_key(tenant_id, chat_id, last)}


def own_messages(chat: dict[str, Any]) -> dict[str, Any]:
    """Return the condition that a message's `_id` is one of the chat's own, not one that is left for a purge."""
    return message_range(chat["_id"]["tenant_id"], chat["_id"]["chat_id"], chat["first_seq"])
