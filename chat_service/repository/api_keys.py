"""API keys. One is stored as its SHA-256 digest and shown once, when it is made.

A fast digest is right here: the keys carry 256 random bits, so there is nothing for a slow one to protect.

A key ends when it is revoked, or at a time that it was given: when it was made, or when another one took its place
(`rotate`). The end is judged by the database's clock, also for a key that this process remembers.
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


class ApiKeys:
    """The api_keys collection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callers: TTLCache[str, Caller] = TTLCache(maxsize=CACHE_SIZE, ttl=CACHE_SECONDS)
        self._owners: LRUCache[str, str] = LRUCache(maxsize=CACHE_SIZE)
        self._lock = threading.Lock()

    def authenticate(self, key: str) -> Caller:
        """Return whom the key belongs to; it costs a command once in `CACHE_SECONDS` for each process.

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
        """Return the caller if the key was good in the last `CACHE_SECONDS`, and whose key it was when last looked up.

        Asks nobody. The second is no permission: it says in whose turn the key may be looked up again.
        """
        if not key or len(key) > MAX_KEY_CHARACTERS:
            return None, None
        hashed = digest(key)
        with self._lock:
            owner = self._owners.get(hashed)
        return self._remembered(hashed), owner

    def current(self, caller: Caller) -> Caller:
        """Return the caller as its key and its tenant are now, for who stays connected; it costs what a key does.

        Raises:
            InvalidApiKeyError: the key was revoked since, or has expired.
        """
        return self._caller(caller.key_id, {"_id": _key_range(caller.key_id), "tenant_id": caller.tenant_id})

    def _remembered(self, name: str) -> Caller | None:
        with self._lock:
            caller = self._callers.get(name)
        return None if caller is None or is_over(caller.expires_at, self._database.now()) else caller

    def _caller(self, name: str, key: dict[str, Any]) -> Caller:
        caller = self._remembered(name)
        if caller is not None:
            return caller
        began = time.monotonic()
        document = self._find(key)
        found, tenant = _to_key(document), document["tenant"]
        self._database.rules.note(found.tenant_id, tenant, began)
        caller = Caller(found.tenant_id, found.id, found.scopes, to_limits(tenant), grace_of(tenant), found.expires_at)
        if time.monotonic() - began <= SLOW_LOOKUP_SECONDS:
            with self._lock:
                self._callers[name] = caller
        self._note_use(document)
        return caller

    def _find(self, key: dict[str, Any]) -> dict[str, Any]:
        """Return a live key with its tenant beside it: one command for both.

        Raises:
            InvalidApiKeyError: there is none.
        """
        tenant = {"from": "tenants", "localField": "tenant_id", "foreignField": "_id", "as": "tenant"}
        steps: list[dict[str, Any]] = [{"$match": {**key, "revoked_at": None}}, {"$lookup": tenant}]
        with self._database.operation():
            found = next(iter(self._database.api_keys.aggregate(steps)), None)
        if found is None:
            raise InvalidApiKeyError
        if has_expired(found, self._database.now()):
            raise InvalidApiKeyError(found["expires_at"])
        return {**found, "tenant": next(iter(found["tenant"]), {})}

    def _note_use(self, document: dict[str, Any]) -> None:
        """Write down that the key was used today: one command a day. That it fails is no reason to refuse the key."""
        today = self._database.now().replace(hour=0, minute=0, second=0, microsecond=0)
        if document.get("last_used_on") == today:
            return
        with suppress(DatabaseUnavailableError, OutcomeUnknownError), self._database.operation(writes=True):
            self._database.api_keys.update_one({"_id": document["_id"]}, {"$max": {"last_used_on": today}})

    def get(self, tenant_id: str, key_id: str) -> ApiKey:
        """Return a live key as the database has it now: for what lasts longer than the cache may be wrong.

        Raises:
            InvalidApiKeyError: revoked or expired.
        """
        with self._database.operation():
            document = self._database.api_keys.find_one(_unrevoked(tenant_id, key_id))
        if document is None or has_expired(document, self._database.now()):
            raise InvalidApiKeyError
        return _to_key(document)

    def ended(self, key_ids: Sequence[str]) -> set[str]:
        """Return those of the keys that were revoked or have expired. One command, or none for no keys."""
        if not key_ids:
            return set()
        over = [{"revoked_at": {"$ne": None}}, {"expires_at": {"$lte": self._database.now()}}]
        condition = {"$and": [{"$or": [{"_id": _key_range(key_id)} for key_id in key_ids]}, {"$or": over}]}
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
        """Make a key of 256 random bits (or store the given one); return it, the only time it is seen, and its record.

        With a `life` it expires after so long.

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
        """Make a key in the place of another one; return it, its record, and when the other one ends: after `overlap`.

        It has the label, the scopes and, if the other one was to expire, as long a life.

        Raises:
            LookupError: the tenant has no live key of this id.
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
            last = min(tx.now + overlap, ends_at or tx.now + overlap)
            tx.api_keys.update_one({"_id": old["_id"]}, {"$set": {"expires_at": last}})
            tx.api_keys.insert_one(new)
            return _to_key(new), last

        made = self._database.transaction(work)
        if made is None:
            raise LookupError(key_id)
        return key, *made

    def list(self, tenant_id: str) -> Iterable[ApiKey]:
        """Return the tenant's keys, oldest first, revoked and expired ones too."""
        with self._database.operation():
            found = self._database.api_keys.find({"tenant_id": tenant_id}, sort=[("created_at", 1), ("_id", 1)])
            return [_to_key(document) for document in found]

    def revoke(self, tenant_id: str, key_id: str) -> bool:
        """Revoke a key by its id; return whether there was one to revoke. It is dead everywhere within 5 s."""
        if not _KEY_ID.fullmatch(key_id):
            return False
        with self._database.operation(writes=True):
            revoked = self._database.api_keys.update_one(
                _unrevoked(tenant_id, key_id),
                {"$set": {"revoked_at": self._database.now()}},
            )
        return bool(revoked.matched_count)


def _key_range(key_id: str) -> dict[str, Any]:
    """Return the condition for the key of an id, which is the start of its digest: a stretch of the primary key."""
    return {"$gte": key_id, "$lt": key_id + "g"}


def _unrevoked(tenant_id: str, key_id: str) -> dict[str, Any]:
    return {"_id": _key_range(key_id), "tenant_id": tenant_id, "revoked_at": None}


def _new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def _to_document(  # noqa: PLR0913, PLR0917 - all that is kept of a key
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
