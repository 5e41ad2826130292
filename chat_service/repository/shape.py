"""The collections and indexes that the service needs, and the check that the database has them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

HELD, HELD_IN_TRASH = {"holds": {"$exists": True}}, {"chat.holds": {"$exists": True}}
"""The condition of chats that a hold was ever placed on, which are few."""

COLLECTIONS: dict[str, list[IndexModel]] = {
    "tenants": [],
    "holds": [
        IndexModel([("_id.tenant_id", ASCENDING), ("placed_at", DESCENDING), ("_id.hold_id", ASCENDING)]),
        # Only released holds whose marks some chats still have.
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
        # Only unfinished erasures: a complete one has no lease.
        IndexModel([("lease_until", ASCENDING)], partialFilterExpression={"lease_until": {"$exists": True}}),
    ],
    "retention_days": [IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0)],
    "chats": [
        IndexModel([("_id.tenant_id", ASCENDING), ("updated_at", DESCENDING), ("_id.chat_id", ASCENDING)]),
        # Only chats that expire, which are few.
        IndexModel([("expires_at", ASCENDING)], partialFilterExpression={"expires_at": {"$type": "date"}}),
        IndexModel([("_id.tenant_id", ASCENDING), ("holds", ASCENDING)], partialFilterExpression=HELD),
    ],
    "messages": [],
    "presence": [
        # Without expires_at: each renewal would remove a key, and for five minutes every reader would step over it.
        IndexModel([("tenant_id", ASCENDING), ("chat_id", ASCENDING)]),
        IndexModel([("worker_id", ASCENDING), ("_id", ASCENDING)]),
        # This only removes expired leases: readers ignore them anyway.
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

OLD_INDEXES: Mapping[str, Sequence[str]] = {"presence": ["tenant_id_1_chat_id_1_expires_at_1"]}
"""Indexes of the version before, by collection. That version is not ready without them, so `db init` drops them only
on request."""

CLUSTERED = {"clusteredIndex": {"key": {"_id": 1}, "unique": True}}
"""Documents are stored in the order of the primary key: so a chat's messages are read and removed together, and the
entries of a log too."""

OPTIONS: Mapping[str, dict[str, Any]] = {"messages": CLUSTERED, "log_entries": CLUSTERED}

_SERVER_FIELDS = {"v", "name", "ns"}
"""The fields that the server adds to an index."""


def shortcomings(database: Any) -> Iterator[str]:
    """Yield what is wrong with the collections, each in a sentence that says what to do."""
    present = {collection["name"]: collection for collection in database.list_collections()}
    for name, indexes in COLLECTIONS.items():
        if name not in present:
            yield f"The collection {name} is missing; `flask --app wsgi db init` makes it."
        elif present[name]["type"] != "collection":
            yield f"{name} is a {present[name]['type']} and must be a collection; name another database in MONGODB_URI."
        else:
            if name in OPTIONS and "clusteredIndex" not in present[name]["options"]:
                yield f"{name} is not clustered; dump it, drop it, run `flask --app wsgi db init`, and restore it."
            yield from _wrong_indexes(name, indexes, list(database[name].list_indexes()) if indexes else [])


def old_indexes(database: Any) -> Iterator[tuple[str, str]]:
    """Yield the collection and the name of each index in OLD_INDEXES that is still there."""
    for collection, names in OLD_INDEXES.items():
        for index in names:
            if index in database[collection].index_information():
                yield collection, index


def _wrong_indexes(name: str, indexes: Sequence[IndexModel], existing: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    present = {index["name"]: _comparable(index) for index in existing}
    for index in indexes:
        expected = index.document
        if expected["name"] not in present:
            yield f"The index {expected['name']} of {name} is missing; `flask --app wsgi db init` makes it."
        elif present[expected["name"]] != _comparable(expected):
            yield f"The index {expected['name']} of {name} has other options; drop it, and run `flask … db init`."


def _comparable(index: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in index.items() if name not in _SERVER_FIELDS}
    return {**fields, "key": list(fields["key"].items())}
