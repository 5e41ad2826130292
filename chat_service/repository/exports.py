"""A whole chat out of the database and back in.

Out: from one snapshot, so that what is written or deleted meanwhile changes nothing. In: one transaction, so that there
is never half a chat that looks whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pymongo
from pymongo import ASCENDING
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError

from chat_service.errors import ChatNotFoundError, ExportCutError
from chat_service.models import Chat, IdempotencyKey, Message
from chat_service.repository import chats, messages
from chat_service.repository.database import Database
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key, message_range

BATCH_MESSAGES = 1_000
"""Messages fetched at once. The server's default is 16 MB, which grew the worker by 116 MB; this one by 2."""

FETCH_SECONDS = 10.0
"""For one batch. A reader may take its time between two of them, the database may not."""


class Exports:
    """Whole chats."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def open(self, tenant_id: str, chat_id: str) -> Iterator[tuple[Chat, Iterator[list[Message]]]]:
        """Give the chat and its messages in batches, oldest first, as they all are at this moment.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
            ExportCutError (from the iterator): the rest could not be read.
        """
        with self._database.snapshot() as session:
            with self._database.operation():
                document = self._database.chats.find_one({"_id": chat_key(tenant_id, chat_id)}, session=session)
            if document is None:
                raise ChatNotFoundError
            yield chats.from_document(document, 0), self._batches(tenant_id, document, session)

    def _batches(self, tenant_id: str, chat: dict[str, Any], session: ClientSession | None) -> Iterator[list[Message]]:
        wanted = {"_id": message_range(tenant_id, chat["_id"]["chat_id"], chat["first_seq"])}
        order = [("_id", ASCENDING)]
        with self._database.messages.find(wanted, sort=order, batch_size=BATCH_MESSAGES, session=session) as cursor:
            while batch := _fetch(cursor):
                yield batch

    def create(self, tenant_id: str, chat: Chat, kept: Sequence[Message], key: IdempotencyKey | None = None) -> Chat:
        """Create a chat with these messages, all or nothing, and return it. The id must be a fresh random one.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before.
        """
        chat = replace(chat, message_count=len(kept))
        document = chats.to_document(tenant_id, chat)
        document["next_seq"] = kept[-1].seq + 1 if kept else 1

        def work(session: ClientSession | None) -> Chat:
            self._database.chats.insert_one(document, session=session)
            if kept:
                self._database.messages.insert_many(
                    [messages.to_document(tenant_id, chat.id, message) for message in kept], session=session
                )
            return chat

        def recall(facts: dict[str, Any]) -> Chat:
            return replace(chat, id=facts["id"])

        work_once = once(self._database, key, work, lambda made: {"id": made.id}, recall)
        return self._database.transaction(work_once)


def _fetch(cursor: Any) -> list[Message]:
    """Return the next batch, or an empty list at the end."""
    batch: list[Message] = []
    try:
        with pymongo.timeout(FETCH_SECONDS):
            for document in cursor:
                batch.append(messages.from_document(document))
                if len(batch) == BATCH_MESSAGES:
                    break
    except PyMongoError:
        raise ExportCutError from None
    return batch
