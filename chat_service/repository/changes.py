"""What is committed, as it is committed, by whichever process: the feed of everything that connections are told.

One change stream over the database, in the order of the commits. Posts to one chat are serial, so its messages come in
the order of their seq. An interrupted stream goes on after the last change it gave, for as long as the server's oplog
remembers it; where it does not, that is said rather than passed over.
"""

import time
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any

import pymongo
from pymongo.change_stream import DatabaseChangeStream
from pymongo.errors import ConnectionFailure, PyMongoError

from chat_service.errors import ChangesLostError, DatabaseUnavailableError
from chat_service.models import Change, ChatGone, ChatUpdated, KeyExpires, KeyRevoked, MessageCreated
from chat_service.repository.api_keys import KEY_ID_CHARACTERS
from chat_service.repository.database import Database
from chat_service.repository.messages import from_document

AWAIT_MILLISECONDS = 100
"""How long the server holds a question for changes when there are none: so soon a tenant's first socket is followed."""

ASK_SECONDS = 5.0
"""For one question: a primary that is paused is noticed, and another is asked."""

AGAIN_SECONDS = 0.5
"""Between two tries to go on after an interruption."""

MOST_TENANTS = 1_000
"""Named to the server; above it everybody is followed."""

_UPDATED = "updateDescription.updatedFields"


def _pipeline(tenants: Collection[str]) -> list[dict[str, Any]]:
    """Select what sockets of the tenants are told, on the server: what others write in bulk takes no time of ours."""
    own = {"documentKey._id.tenant_id": {"$in": list(tenants)}} if len(tenants) <= MOST_TENANTS else {}
    told = [
        {"ns.coll": "messages", "operationType": "insert", **own},
        {"ns.coll": "chats", "operationType": "delete", **own},
        {
            # A post changes next_seq and is told as its message; a connection changes neither that nor the revision.
            "ns.coll": "chats",
            "operationType": "update",
            f"{_UPDATED}.revision": {"$exists": True},
            f"{_UPDATED}.next_seq": {"$exists": False},
            **own,
        },
        {
            "ns.coll": "api_keys",
            "operationType": "update",
            "$or": [{f"{_UPDATED}.{end}": {"$exists": True}} for end in ("revoked_at", "expires_at")],
        },
    ]
    return [{"$match": {"$or": told}}]


class Changes:
    """Follows the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def follow(
        self, wanted: Callable[[], frozenset[str]], opened: Callable[[frozenset[str]], object]
    ) -> Generator[Change | None, None, None]:
        """Give what is committed for tenants, in order; None whenever there was nothing for a while.

        Asks again and again for the tenants that are `wanted`, and tells by `opened` whose changes are given from that
        moment on. When there is another one, the stream goes on with it from where it stands.

        Raises:
            DatabaseUnavailableError: it could not be begun.
            ChangesLostError: it could not be gone on with without a gap.
        """
        tenants = wanted()
        try:
            stream = self._open(tenants, None)
        except PyMongoError as error:
            raise DatabaseUnavailableError from error
        try:
            opened(tenants)
            while stream.alive:
                needed = wanted()
                event = None
                try:
                    if not needed <= tenants:
                        stream, last = self._open(needed, stream.resume_token), stream
                        last.close()
                        tenants = needed
                        opened(tenants)
                    # The driver's stream keeps its place, and goes on from there after an interruption.
                    with pymongo.timeout(ASK_SECONDS):
                        event = stream.try_next()
                except PyMongoError as error:
                    if not (error.timeout or isinstance(error, ConnectionFailure)):
                        raise ChangesLostError from error
                    time.sleep(AGAIN_SECONDS)
                yield None if event is None else _to_change(event)
        finally:
            stream.close()
        raise ChangesLostError

    def _open(self, tenants: frozenset[str], after: Mapping[str, Any] | None) -> DatabaseChangeStream[dict[str, Any]]:
        with pymongo.timeout(ASK_SECONDS):
            stream: DatabaseChangeStream[dict[str, Any]] = self._database.database.watch(
                _pipeline(tenants), max_await_time_ms=AWAIT_MILLISECONDS, resume_after=after
            )
            return stream


def _to_change(event: dict[str, Any]) -> Change:
    key = event["documentKey"]["_id"]
    match event["ns"]["coll"], event["operationType"]:
        case "messages", _:
            return MessageCreated(key["tenant_id"], key["chat_id"], from_document(event["fullDocument"]))
        case "chats", "delete":
            return ChatGone(key["tenant_id"], key["chat_id"])
        case "chats", _:
            return ChatUpdated(key["tenant_id"], key["chat_id"])
        case _:
            return _to_key_change(key[:KEY_ID_CHARACTERS], event["updateDescription"]["updatedFields"])


def _to_key_change(key_id: str, updated: Mapping[str, Any]) -> Change:
    return KeyRevoked(key_id) if "revoked_at" in updated else KeyExpires(key_id, updated["expires_at"])
