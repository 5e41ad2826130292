"""Changes as any process commits them: the source of everything that is sent to connections.

There is one change stream over the database, in the order of the commits. Posts to one chat are serial, so its messages
come in the order of their seq. An interrupted stream resumes after the last change it gave, as long as the server's
oplog still has it. If the oplog does not, an error is raised instead of leaving a gap.
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
"""How long the server waits for changes before it answers that there are none. A tenant's first socket gets its changes
after this time at most."""

ASK_SECONDS = 5.0
"""The timeout of one request for changes: a paused primary is noticed, and another one is asked."""

RETRY_SECONDS = 0.5
"""The pause between two tries to resume after an interruption."""

MOST_TENANTS = 1_000
"""The most tenants that the stream is filtered by; with more, the changes of all tenants are followed."""

_UPDATED = "updateDescription.updatedFields"


def _pipeline(tenants: Collection[str]) -> list[dict[str, Any]]:
    """Select the changes for the tenants' sockets on the server: bulk writes of others take no time of this process."""
    own = {"documentKey._id.tenant_id": {"$in": list(tenants)}} if len(tenants) <= MOST_TENANTS else {}
    relevant = [
        {"ns.coll": "messages", "operationType": "insert", **own},
        {"ns.coll": "chats", "operationType": "delete", **own},
        {
            # A post changes next_seq and is sent as a message; a connection changes neither next_seq nor the revision.
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
    return [{"$match": {"$or": relevant}}]


class Changes:
    """Follows the database by a change stream."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def follow(
        self, wanted_tenants: Callable[[], frozenset[str]], on_open: Callable[[frozenset[str]], object]
    ) -> Generator[Change | None, None, None]:
        """Yield the changes that are committed for tenants, in order; None whenever there was none for a while.

        Calls `wanted_tenants` again and again, and `on_open` with the tenants whose changes are given from then on.
        When a tenant is added, the stream is opened again with it, and resumes at the same position.

        Raises:
            DatabaseUnavailableError: the stream could not be opened.
            ChangesLostError: the stream could not be resumed without a gap.
        """
        tenants = wanted_tenants()
        try:
            stream = self._open(tenants, None)
        except PyMongoError as error:
            raise DatabaseUnavailableError from error
        try:
            on_open(tenants)
            while stream.alive:
                needed = wanted_tenants()
                event = None
                try:
                    if not needed <= tenants:
                        stream, old_stream = self._open(needed, stream.resume_token), stream
                        old_stream.close()
                        tenants = needed
                        on_open(tenants)
                    # The driver's stream keeps its position, and resumes there after an interruption.
                    with pymongo.timeout(ASK_SECONDS):
                        event = stream.try_next()
                except PyMongoError as error:
                    if not (error.timeout or isinstance(error, ConnectionFailure)):
                        raise ChangesLostError from error
                    time.sleep(RETRY_SECONDS)
                yield None if event is None else _to_change(event)
        finally:
            stream.close()
        raise ChangesLostError

    def _open(
        self, tenants: frozenset[str], resume_token: Mapping[str, Any] | None
    ) -> DatabaseChangeStream[dict[str, Any]]:
        with pymongo.timeout(ASK_SECONDS):
            stream: DatabaseChangeStream[dict[str, Any]] = self._database.database.watch(
                _pipeline(tenants), max_await_time_ms=AWAIT_MILLISECONDS, resume_after=resume_token
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
