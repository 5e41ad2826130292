"""The collections, and whether they are what the service rests on: there, no views, clustered, with their indexes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

HELD, HELD_IN_TRASH = {"holds": {"$exists": True}}, {"chat.holds": {"$exists": True}}
"""Chats that a hold was ever placed on, which are few."""

COLLECTIONS: dict[str, list[IndexModel]] = {
    "tenants": [],
    "holds": [
        IndexModel([("_id.tenant_id", ASCENDING), ("placed_at", DESCENDING), ("_id.hold_id", ASCENDING)]),
        # Of those that were released, and that chats still name.
        IndexModel([("is_lifting", ASCENDING)], partialFilterExpression={"is_lifting": True}),
    ],
    "api_keys": [IndexModel([("tenant_id", ASCENDING), ("created_at", ASCENDING)])],
    "webhooks": [IndexModel([("_id.tenant_id", ASCENDING), ("created_at", DESCENDING), ("_id.webhook_id", ASCENDING)])],
    "deliveries": [
        IndexModel(
            [
                ("_id.tenant_id", ASCENDING),
                ("_id.webhook_id", ASCENDING),
                ("created_at", DESCENDING),
                ("_id.delivery_id", ASCENDING),
            ]
        ),
        IndexModel([("due_at", ASCENDING)], partialFilterExpression={"state": "pending"}),
        IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
    ],
    "erasures": [
        IndexModel([("_id.tenant_id", ASCENDING), ("requested_at", DESCENDING), ("_id.erasure_id", ASCENDING)]),
        # Of those that are under way: a complete one has no lease.
        IndexModel([("lease_until", ASCENDING)], partialFilterExpression={"lease_until": {"$exists": True}}),
    ],
    "retention_days": [IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0)],
    "chats": [
        IndexModel([("_id.tenant_id", ASCENDING), ("updated_at", DESCENDING), ("_id.chat_id", ASCENDING)]),
        # Of those that have an end, which are few.
        IndexModel([("expires_at", ASCENDING)], partialFilterExpression={"expires_at": {"$type": "date"}}),
        IndexModel([("_id.tenant_id", ASCENDING), ("holds", ASCENDING)], partialFilterExpression=HELD),
    ],
    "messages": [],
    "presence": [
        IndexModel([("tenant_id", ASCENDING), ("chat_id", ASCENDING), ("expires_at", ASCENDING)]),
        IndexModel([("worker_id", ASCENDING), ("_id", ASCENDING)]),
        # Readers ignore expired leases by themselves; this only sweeps them up.
        IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
    ],
    "deletions": [IndexModel([("_id.tenant_id", ASCENDING), ("deleted_at", DESCENDING), ("_id.chat_id", ASCENDING)])],
    "purges": [IndexModel([("_id.tenant_id", ASCENDING), ("lease_until", ASCENDING)])],
    "completions": [],
    "trash": [
        IndexModel([("_id.tenant_id", ASCENDING), ("trashed_at", DESCENDING), ("_id.chat_id", ASCENDING)]),
        IndexModel([("purge_at", ASCENDING)]),
        IndexModel([("_id.tenant_id", ASCENDING), ("chat.holds", ASCENDING)], partialFilterExpression=HELD_IN_TRASH),
    ],
    "outbox": [],
    "log_entries": [IndexModel([("chat_id", ASCENDING), ("_id.tenant_id", ASCENDING), ("_id.seq", ASCENDING)])],
    "log_heads": [],
    "log_position": [],
    "tickets": [IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0)],
    "idempotency": [IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0)],
    "rate_limits": [IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0)],
}

CLUSTERED = {"clusteredIndex": {"key": {"_id": 1}, "unique": True}}
"""The primary key is the layout on disk: a chat's messages lie, and go, together, and so do the entries of a log."""

OPTIONS: Mapping[str, dict[str, Any]] = {"messages": CLUSTERED, "log_entries": CLUSTERED}

_NAMES_OF_ITS_OWN = {"v", "name", "ns"}
"""What the server adds to an index."""


def shortcomings(database: Any) -> Iterator[str]:
    """Give what is not as it must be, each in a sentence that says what to do."""
    found = {one["name"]: one for one in database.list_collections()}
    for name, indexes in COLLECTIONS.items():
        if name not in found:
            yield f"The collection {name} is missing; `flask --app wsgi db init` makes it."
        elif found[name]["type"] != "collection":
            yield f"{name} is a {found[name]['type']} and must be a collection; name another database in MONGODB_URI."
        else:
            if name in OPTIONS and "clusteredIndex" not in found[name]["options"]:
                yield f"{name} is not clustered; dump it, drop it, run `flask --app wsgi db init`, and restore it."
            yield from _missing(name, indexes, list(database[name].list_indexes()) if indexes else [])


def _missing(name: str, indexes: Sequence[IndexModel], found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    present = {one["name"]: _plain(one) for one in found}
    for index in indexes:
        wanted = index.document
        if wanted["name"] not in present:
            yield f"The index {wanted['name']} of {name} is missing; `flask --app wsgi db init` makes it."
        elif present[wanted["name"]] != _plain(wanted):
            yield f"The index {wanted['name']} of {name} has other options; drop it, and run `flask … db init`."


def _plain(index: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in index.items() if name not in _NAMES_OF_ITS_OWN}
    return {**plain, "key": list(plain["key"].items())}
