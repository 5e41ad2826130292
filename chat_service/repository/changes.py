"""What is committed, as it is committed, by whichever process: the feed of everything that connections are told.

One change stream over the database, in the order of the commits. Posts to one chat are serial, so its messages come in
the order of their seq. An interrupted stream goes on after the last change it gave, for as long as the server's oplog
remembers it; where it does not, that is said rather than passed over.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
from pymongo.change_stream import DatabaseChangeStream
from pymongo.errors import ConnectionFailure, PyMongoError

from chat_service.errors import ChangesLostError, DatabaseUnavailableError
from chat_service.models import Change, ChatDeleted, ChatUpdated, KeyRevoked, MessageCreated
from chat_service.repository.database import Database
from chat_service.repository.messages import from_document
from chat_service.repository.tenants import KEY_ID_CHARACTERS

AWAIT_MILLISECONDS = 500
"""How long the server holds a question for changes when there are none: so soon its follower hears that it may end."""

ASK_SECONDS = 5.0
"""For one question: a primary that is paused is noticed, and another is asked."""

AGAIN_SECONDS = 0.5
"""Between two tries to go on after an interruption."""

_UPDATED = "updateDescription.updatedFields"

# A post changes next_seq and is told as its message; a connection changes neither that nor the revision.
_PIPELINE: list[dict[str, Any]] = [
    {
        "$match": {
            "$or": [
                {"ns.coll": "messages", "operationType": "insert"},
                {"ns.coll": "chats", "operationType": "delete"},
                {
                    "ns.coll": "chats",
                    "operationType": "update",
                    f"{_UPDATED}.revision": {"$exists": True},
                    f"{_UPDATED}.next_seq": {"$exists": False},
                },
                {"ns.coll": "api_keys", "operationType": "update", f"{_UPDATED}.revoked_at": {"$exists": True}},
            ]
        }
    }
]


class Changes:
    """Follows the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def follow(self) -> Iterator[Iterator[Change | None]]:
        """Give what is committed from this moment on, in order; None whenever there was nothing for a while.

        Raises:
            DatabaseUnavailableError: it could not be begun.
            ChangesLostError (from the iterator): it could not be gone on with without a gap.
        """
        try:
            with pymongo.timeout(ASK_SECONDS):
                stream = self._database.database.watch(_PIPELINE, max_await_time_ms=AWAIT_MILLISECONDS)
        except PyMongoError as error:
            raise DatabaseUnavailableError from error
        with stream:
            yield _read(stream)


def _read(stream: DatabaseChangeStream[dict[str, Any]]) -> Iterator[Change | None]:
    # The driver's stream keeps its place, and goes on from there with the question after an interruption.
    while stream.alive:
        try:
            with pymongo.timeout(ASK_SECONDS):
                event = stream.try_next()
        except PyMongoError as error:
            if not (error.timeout or isinstance(error, ConnectionFailure)):
                raise ChangesLostError from error
            event = None
            time.sleep(AGAIN_SECONDS)
        yield None if event is None else _to_change(event)
    raise ChangesLostError


def _to_change(event: dict[str, Any]) -> Change:
    key = event["documentKey"]["_id"]
    match event["ns"]["coll"], event["operationType"]:
        case "messages", _:
            return MessageCreated(key["tenant_id"], key["chat_id"], from_document(event["fullDocument"]))
        case "chats", "delete":
            return ChatDeleted(key["tenant_id"], key["chat_id"])
        case "chats", _:
            return ChatUpdated(key["tenant_id"], key["chat_id"])
        case _:
            return KeyRevoked(key[:KEY_ID_CHARACTERS])
