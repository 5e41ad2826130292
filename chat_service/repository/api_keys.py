"""API keys. A key is stored as its SHA-256 digest and shown once, when it is made.

A fast digest is enough: a key carries 256 random bits, so a slow digest would protect nothing more.

A key ends when it is revoked or when it expires. The expiry is set when the key is made, or when another key replaces
it (`rotate`). The database's clock decides whether a key has expired, also for a key in the cache of this process.
"""

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from cachetools import LRUCache, TTLCache

from chat_service.errors import DatabaseUnavailableError, InvalidApiKeyError, OutcomeUnknownError
from chat_service.models import ApiKey, Caller, Scope
from chat_service.repository.database import Database
from chat_service.repository.keys import has_expired, is_over
from chat_service.repository.tenant_rules import CACHE_SECONDS, SLOW_LOOKUP_SECONDS, grace_of
from chat_service.repository.tenants import to_limits
from chat_service.repository.unit_of_work import UnitOfWork

KEY_PREFIX = "chat_"
"""Lets people and secret scanners recognise a key."""

SHOWN_CHARACTERS = 10
"""The part of a key that is stored to tell keys apart in a list: the prefix and 30 of its 256 bits."""

KEY_ID_CHARACTERS = 12
"""The length of a key's id, which commands and receipts show: the start of the digest."""

CACHE_SIZE = 10_000
"""Entries of about 0.5 KB. Only keys that exist are cached, so a flood of wrong keys cannot evict the right ones."""

MAX_KEY_CHARACTERS = 256
"""A longer key cannot be ours: it is refused without computing its digest."""

_KEY_ID = re.compile(f"[0-9a-f]{{{KEY_ID_CHARACTERS}}}")


def digest(key: str) -> str:
    """Return the SHA-256 digest under which a key is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class ApiKeys:
    """The api_keys collection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callers: TTLCache[str, Caller] = TTLCache(maxsize=CACHE_SIZE, ttl=CACHE_SECONDS)
        self._owners: LRUCache[str, str] = LRUCache(maxsize=CACHE_SIZE)
        self._lock = threading.Lock()

    def authenticate(self, key: str) -> Caller:
        """Return the caller that the key belongs to. Each process sends one command for a key per `CACHE_SECONDS`.

        Raises:
            InvalidApiKeyError: missing, unknown, revoked or expired.
        """
        if not key or len(key) > MAX_KEY_CHARACTERS:
            raise InvalidApiKeyError
        hashed = digest(key)
        caller = self._caller(hashed, {"_id": hashed})
        with self._lock:
            self._owners[hashed] = caller.tenant_id
        return caller

    def recall(self, key: str) -> tuple[Caller | None, str | None]:
        """Return the caller if the key was valid in the last `CACHE_SECONDS`, and the tenant of its last look-up.

        Sends no command. The tenant is no permission: it says in which tenant's turn the key may be looked up again.
        """
        if not key or len(key) > MAX_KEY_CHARACTERS:
            return None, None
        hashed = digest(key)
        with self._lock:
            owner = self._owners.get(hashed)
        return self._cached(hashed), owner

    def current(self, caller: Caller) -> Caller:
        """Return the caller as its key and its tenant are now, for an open connection; costs as much as `authenticate`.

        Raises:
            InvalidApiKeyError: the key has been revoked or has expired.
        """
        return self._caller(caller.key_id, {"_id": _key_range(caller.key_id), "tenant_id": caller.tenant_id})

    def _cached(self, cache_key: str) -> Caller | None:
        with self._lock:
            caller = self._callers.get(cache_key)
        return None if caller is None or is_over(caller.expires_at, self._database.now()) else caller

    def _caller(self, cache_key: str, condition: dict[str, Any]) -> Caller:
        caller = self._cached(cache_key)
        if caller is not None:
            return caller
        began = time.monotonic()
        document = self._find(condition)
        key, tenant = _to_key(document), document["tenant"]
        self._database.rules.note(key.tenant_id, tenant, began)
        caller = Caller(key.tenant_id, key.id, key.scopes, to_limits(tenant), grace_of(tenant), key.expires_at)
        if time.monotonic() - began <= SLOW_LOOKUP_SECONDS:
            with self._lock:
                self._callers[cache_key] = caller
        self._note_use(document)
        return caller

    def _find(self, condition: dict[str, Any]) -> dict[str, Any]:
        """Return the live key that meets the condition, with its tenant's document in it. One command.

        Raises:
            InvalidApiKeyError: no live key meets it.
        """
        tenant = {"from": "tenants", "localField": "tenant_id", "foreignField": "_id", "as": "tenant"}
        pipeline: list[dict[str, Any]] = [{"$match": {**condition, "revoked_at": None}}, {"$lookup": tenant}]
        with self._database.operation():
            document = next(iter(self._database.api_keys.aggregate(pipeline)), None)
        if document is None:
            raise InvalidApiKeyError
        if has_expired(document, self._database.now()):
            raise InvalidApiKeyError(document["expires_at"])
        return {**document, "tenant": next(iter(document["tenant"]), {})}

    def _note_use(self, document: dict[str, Any]) -> None:
        """Record that the key was used today: one command a day. A failure here is no reason to refuse the key."""
        today = self._database.now().replace(hour=0, minute=0, second=0, microsecond=0)
        if document.get("last_used_on") == today:
            return
        with suppress(DatabaseUnavailableError, OutcomeUnknownError), self._database.operation(writes=True):
            self._database.api_keys.update_one({"_id": document["_id"]}, {"$max": {"last_used_on": today}})

    def get(self, tenant_id: str, key_id: str) -> ApiKey:
        """Return a live key as the database has it now, for uses that outlast the staleness of the cache.

        Raises:
            InvalidApiKeyError: revoked or expired.
        """
        with self._database.operation():
            document = self._database.api_keys.find_one(_unrevoked(tenant_id, key_id))
        if document is None or has_expired(document, self._database.now()):
            raise InvalidApiKeyError
        return _to_key(document)

    def ended(self, key_ids: Sequence[str]) -> set[str]:
        """Return the ids of those keys that were revoked or have expired. One command, or none without `key_ids`."""
        if not key_ids:
            return set()
        ends = [{"revoked_at": {"$ne": None}}, {"expires_at": {"$lte": self._database.now()}}]
        condition = {"$and": [{"$or": [{"_id": _key_range(key_id)} for key_id in key_ids]}, {"$or": ends}]}
        with self._database.operation():
            return {key["_id"][:KEY_ID_CHARACTERS] for key in self._database.api_keys.find(condition, {"_id": True})}

    def create(
        self,
        tenant_id: str,
        label: str,
        scopes: Iterable[Scope],
        key: str | None = None,
        *,
        life: timedelta | None = None,
    ) -> tuple[str, ApiKey]:
        """Make a key of 256 random bits, or store the given `key`; return the key and its record.

        This is the only time that the key itself is returned. With a `life` it expires after that time.

        Raises:
            LookupError: there is no such tenant, or it is being deleted.
        """
        key = key or _new_key()
        document = _to_document(key, tenant_id, label, scopes, self._database.now(), life)
        with self._database.operation(writes=True):
            if self._database.tenants.find_one({"_id": tenant_id, "deletion": None}, {"_id": True}) is None:
                raise LookupError(tenant_id)
            self._database.api_keys.replace_one({"_id": document["_id"]}, document, upsert=True)
        return key, _to_key(document)

    def rotate(self, tenant_id: str, key_id: str, overlap: timedelta) -> tuple[str, ApiKey, datetime]:
        """Replace a key; return the new key, its record, and when the old key ends: `overlap` from now, or earlier.

        The new key has the label and the scopes of the old one, and as long a life if the old one was to expire. An old
        key that would expire before the overlap ends keeps its expiry.

        Raises:
            LookupError: the tenant has no live key with this id.
        """
        if not _KEY_ID.fullmatch(key_id):
            raise LookupError(key_id)
        key = _new_key()

        def work(tx: UnitOfWork) -> tuple[ApiKey, datetime] | None:
            old = tx.api_keys.find_one(_unrevoked(tenant_id, key_id))
            if old is None or has_expired(old, tx.now):
                return None
            ends_at = old.get("expires_at")
            life = ends_at and ends_at - old["created_at"]
            new = _to_document(key, tenant_id, old["label"], old["scopes"], tx.now, life)
            old_ends_at = min(tx.now + overlap, ends_at or tx.now + overlap)
            tx.api_keys.update_one({"_id": old["_id"]}, {"$set": {"expires_at": old_ends_at}})
            tx.api_keys.insert_one(new)
            return _to_key(new), old_ends_at

        rotated = self._database.transaction(work)
        if rotated is None:
            raise LookupError(key_id)
        return key, *rotated

    def list(self, tenant_id: str) -> Iterable[ApiKey]:
        """Return the tenant's keys, oldest first, including revoked and expired ones."""
        with self._database.operation():
            documents = self._database.api_keys.find({"tenant_id": tenant_id}, sort=[("created_at", 1), ("_id", 1)])
            return [_to_key(document) for document in documents]

    def revoke(self, tenant_id: str, key_id: str) -> bool:
        """Revoke a key by its id; return whether there was one to revoke. Every process refuses it within 5 s."""
        if not _KEY_ID.fullmatch(key_id):
            return False
        with self._database.operation(writes=True):
            result = self._database.api_keys.update_one(
                _unrevoked(tenant_id, key_id),
                {"$set": {"revoked_at": self._database.now()}},
            )
        return bool(result.matched_count)


def _key_range(key_id: str) -> dict[str, Any]:
    """Return the `_id` condition for the key with this id, the start of its digest: a range of the primary key."""
    return {"$gte": key_id, "$lt": key_id + "g"}


def _unrevoked(tenant_id: str, key_id: str) -> dict[str, Any]:
    return {"_id": _key_range(key_id), "tenant_id": tenant_id, "revoked_at": None}


def _new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def _to_document(  # noqa: PLR0913, PLR0917 - all that is stored of a key
    key: str, tenant_id: str, label: str, scopes: Iterable[Scope], now: datetime, life: timedelta | None
) -> dict[str, Any]:
    return {
        "_id": digest(key),
        "tenant_id": tenant_id,
        "label": label,
        "scopes": sorted(Scope(scope).value for scope in scopes),
        "prefix": key[:SHOWN_CHARACTERS],
        "created_at": now,
        "revoked_at": None,
        **({} if life is None else {"expires_at": now + life}),
    }


def _to_key(document: dict[str, Any]) -> ApiKey:
    last_used = document.get("last_used_on")
    return ApiKey(
        id=document["_id"][:KEY_ID_CHARACTERS],
        tenant_id=document["tenant_id"],
        label=document["label"],
        scopes=frozenset(Scope(scope) for scope in document["scopes"]),
        prefix=document["prefix"],
        created_at=document["created_at"],
        revoked_at=document["revoked_at"],
        expires_at=document.get("expires_at"),
        last_used_on=last_used and last_used.date(),
    )
