"""Tenants and their API keys. A key is stored as its SHA-256 digest and shown once, when it is made.

A fast digest is right here: the keys carry 256 random bits, so there is nothing for a slow one to protect.
"""

import hashlib
import re
import secrets
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from cachetools import LRUCache, TTLCache

from chat_service.errors import InvalidApiKeyError
from chat_service.models import ApiKey, Caller, Limits, RateLimit, Scope, Tenant
from chat_service.repository.database import Database
from chat_service.repository.tenant_rules import CACHE_SECONDS, SLOW_LOOKUP_SECONDS, grace_of

KEY_PREFIX = "chat_"
"""Lets people and secret scanners recognise a key."""

SHOWN_CHARACTERS = 10
"""How much of a key is kept to tell keys apart in a list: the prefix and 30 of its 256 bits."""

KEY_ID_CHARACTERS = 12
"""How much of the digest names a key in a command or a receipt."""

CACHE_SIZE = 10_000
"""Entries of about 0.5 KB; only keys that exist are kept, so a flood of wrong ones cannot push the right ones out."""

MAX_KEY_CHARACTERS = 256
"""A longer key cannot be ours, and is not worth a digest."""

_KEY_ID = re.compile(f"[0-9a-f]{{{KEY_ID_CHARACTERS}}}")


def digest(key: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Tenants:
    """The tenants and api_keys collections."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callers: TTLCache[str, Caller] = TTLCache(maxsize=CACHE_SIZE, ttl=CACHE_SECONDS)
        self._owners: LRUCache[str, str] = LRUCache(maxsize=CACHE_SIZE)
        self._lock = threading.Lock()

    def authenticate(self, key: str) -> Caller:
        """Return whom the key belongs to; it costs a command once in `CACHE_SECONDS` for each process.

        Raises:
            InvalidApiKeyError: missing, unknown or revoked.
        """
        if not key or len(key) > MAX_KEY_CHARACTERS:
            raise InvalidApiKeyError
        hashed = digest(key)
        caller = self._caller(hashed, {"_id": hashed})
        with self._lock:
            self._owners[hashed] = caller.tenant_id
        return caller

    def recall(self, key: str) -> tuple[Caller | None, str | None]:
        """Return the caller if the key was good in the last `CACHE_SECONDS`, and whose key it was when last looked up.

        Asks nobody. The second is no permission: it says in whose turn the key may be looked up again.
        """
        if not key or len(key) > MAX_KEY_CHARACTERS:
            return None, None
        hashed = digest(key)
        with self._lock:
            return self._callers.get(hashed), self._owners.get(hashed)

    def current(self, caller: Caller) -> Caller:
        """Return the caller as its key and its tenant are now, for who stays connected; it costs what a key does.

        Raises:
            InvalidApiKeyError: the key was revoked since.
        """
        return self._caller(caller.key_id, {"_id": _key_range(caller.key_id), "tenant_id": caller.tenant_id})

    def _caller(self, name: str, key: dict[str, Any]) -> Caller:
        with self._lock:
            caller = self._callers.get(name)
        if caller is not None:
            return caller
        began = time.monotonic()
        document = self._find_key(key)
        if document is None:
            raise InvalidApiKeyError
        found = _to_key(document)
        tenant = document["tenant"]
        self._database.rules.note(found.tenant_id, tenant, began)
        caller = Caller(found.tenant_id, found.id, found.scopes, _to_limits(tenant), grace_of(tenant))
        if time.monotonic() - began <= SLOW_LOOKUP_SECONDS:
            with self._lock:
                self._callers[name] = caller
        return caller

    def _find_key(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """Return a live key with its tenant beside it: one command for both."""
        tenant = {"from": "tenants", "localField": "tenant_id", "foreignField": "_id", "as": "tenant"}
        steps: list[dict[str, Any]] = [{"$match": {**key, "revoked_at": None}}, {"$lookup": tenant}]
        with self._database.operation():
            found = next(iter(self._database.api_keys.aggregate(steps)), None)
        return found and {**found, "tenant": next(iter(found["tenant"]), {})}

    def key(self, tenant_id: str, key_id: str) -> ApiKey:
        """Return a key as the database has it now: for what lasts longer than the cache may be wrong.

        Raises:
            InvalidApiKeyError: revoked.
        """
        wanted = {"_id": _key_range(key_id), "tenant_id": tenant_id, "revoked_at": None}
        with self._database.operation():
            document = self._database.api_keys.find_one(wanted)
        if document is None:
            raise InvalidApiKeyError
        return _to_key(document)

    def revoked(self, key_ids: Sequence[str]) -> set[str]:
        """Return those of the keys that were revoked. One command."""
        revoked = {"$or": [{"_id": _key_range(key_id)} for key_id in key_ids], "revoked_at": {"$ne": None}}
        with self._database.operation():
            return {key["_id"][:KEY_ID_CHARACTERS] for key in self._database.api_keys.find(revoked, {"_id": True})}

    def create(self, name: str, tenant_id: str | None = None) -> Tenant:
        """Create a tenant and return it; with a `tenant_id` that exists already, return that one."""
        tenant = Tenant(tenant_id or str(uuid.uuid4()), name, self._database.now())
        with self._database.operation(writes=True):
            self._database.tenants.update_one(
                {"_id": tenant.id},
                {"$setOnInsert": {"name": tenant.name, "created_at": tenant.created_at}},
                upsert=True,
            )
        return tenant

    def list(self) -> Iterable[Tenant]:
        """Return all tenants, oldest first."""
        with self._database.operation():
            found = self._database.tenants.find(sort=[("created_at", 1), ("_id", 1)])
            return [_to_tenant(document) for document in found]

    def get(self, tenant_id: str) -> Tenant:
        """Return a tenant.

        Raises:
            LookupError: there is no such tenant.
        """
        with self._database.operation():
            document = self._database.tenants.find_one({"_id": tenant_id})
        if document is None:
            raise LookupError(tenant_id)
        return _to_tenant(document)

    def set_limits(self, tenant_id: str, limits: Limits, to_default: Iterable[Scope] = ()) -> None:
        """Give a tenant limits of its own, and for other scopes the default again. All processes know within 5 s.

        Raises:
            LookupError: there is no such tenant.
        """
        own = {
            f"limits.{scope}": limit and {"rate": limit.rate, "burst": limit.burst} for scope, limit in limits.items()
        }
        change = {"$set": own, "$unset": {f"limits.{scope}": "" for scope in to_default}}
        with self._database.operation(writes=True):
            found = self._database.tenants.update_one(
                {"_id": tenant_id}, {operator: fields for operator, fields in change.items() if fields}
            )
        if not found.matched_count:
            raise LookupError(tenant_id)

    def set_grace(self, tenant_id: str, grace: timedelta) -> None:
        """Have the tenant's deletes be such that they can be taken back for so long; 0 ends that for later ones.

        All processes know within 5 s.

        Raises:
            LookupError: there is no such tenant.
        """
        change = {"$set": {"grace_seconds": int(grace.total_seconds())}}
        with self._database.operation(writes=True):
            if not self._database.tenants.update_one({"_id": tenant_id}, change).matched_count:
                raise LookupError(tenant_id)

    def create_key(
        self, tenant_id: str, label: str, scopes: Iterable[Scope], key: str | None = None
    ) -> tuple[str, ApiKey]:
        """Make a key of 256 random bits (or store the given one); return it, the only time it is seen, and its record.

        Raises:
            LookupError: there is no such tenant.
        """
        key = key or KEY_PREFIX + secrets.token_urlsafe(32)
        document = {
            "_id": digest(key),
            "tenant_id": tenant_id,
            "label": label,
            "scopes": sorted(Scope(scope).value for scope in scopes),
            "prefix": key[:SHOWN_CHARACTERS],
            "created_at": self._database.now(),
            "revoked_at": None,
        }
        with self._database.operation(writes=True):
            if self._database.tenants.find_one({"_id": tenant_id}, {"_id": True}) is None:
                raise LookupError(tenant_id)
            self._database.api_keys.replace_one({"_id": document["_id"]}, document, upsert=True)
        return key, _to_key(document)

    def list_keys(self, tenant_id: str) -> Iterable[ApiKey]:
        """Return the tenant's keys, oldest first, revoked ones too."""
        with self._database.operation():
            found = self._database.api_keys.find({"tenant_id": tenant_id}, sort=[("created_at", 1), ("_id", 1)])
            return [_to_key(document) for document in found]

    def revoke_key(self, tenant_id: str, key_id: str) -> bool:
        """Revoke a key by its id; return whether there was one to revoke. It is dead everywhere within 5 s."""
        if not _KEY_ID.fullmatch(key_id):
            return False
        with self._database.operation(writes=True):
            revoked = self._database.api_keys.update_one(
                {"_id": _key_range(key_id), "tenant_id": tenant_id, "revoked_at": None},
                {"$set": {"revoked_at": self._database.now()}},
            )
        return bool(revoked.matched_count)


def _key_range(key_id: str) -> dict[str, Any]:
    """Return the condition for the key of an id, which is the start of its digest: a stretch of the primary key."""
    return {"$gte": key_id, "$lt": key_id + "g"}


def _to_key(document: dict[str, Any]) -> ApiKey:
    return ApiKey(
        id=document["_id"][:KEY_ID_CHARACTERS],
        tenant_id=document["tenant_id"],
        label=document["label"],
        scopes=frozenset(Scope(scope) for scope in document["scopes"]),
        prefix=document["prefix"],
        created_at=document["created_at"],
        revoked_at=document["revoked_at"],
    )


def _to_tenant(document: dict[str, Any]) -> Tenant:
    limits, grace = _to_limits(document), grace_of(document)
    return Tenant(document["_id"], document["name"], document["created_at"], limits, grace)


def _to_limits(tenant: dict[str, Any]) -> Limits:
    return {Scope(scope): limit and RateLimit(**limit) for scope, limit in tenant.get("limits", {}).items()}
