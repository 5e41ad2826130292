"""A whole chat back in: all of it, or nothing that anybody could reach.

A small one comes in one transaction. Of a larger one the messages are staged: written in bounded transactions under the
id of a chat that is not there yet. The last transaction makes the chat, and with it all of them are there. What keeps
the promise is an open purge of whatever is staged, held by the import: the last transaction takes it away, and wherever
an import ends before, its purge is left, and the workers remove what was staged.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from chat_service.errors import ChatServiceError, ClaimLostError, DatabaseUnavailableError, ImportTooLargeError
from chat_service.models import MAX_SEQ, Chat, IdempotencyKey, Message, Purge
from chat_service.repository import chats, messages
from chat_service.repository.database import Database, Work
from chat_service.repository.deadline import at_most
from chat_service.repository.idempotency import once
from chat_service.repository.purges import Purges
from chat_service.repository.transaction import T
from chat_service.repository.unit_of_work import UnitOfWork


class Imports:
    """Chats that come in whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def begin(self, tenant_id: str, chat: Chat) -> Iterator["Import"]:
        """Give an import of `chat`, whose id must be a fresh random one. Nothing is left unless it is finished."""
        begun = Import(self._database, tenant_id, chat)
        try:
            yield begun
        finally:
            begun.give_up()


class Import:
    """One chat on its way in, used by one thread."""

    def __init__(self, database: Database, tenant_id: str, chat: Chat) -> None:
        self._database = database
        self._purges = Purges(database)
        self._tenant_id = tenant_id
        self._chat = replace(chat, message_count=0)
        self._next_seq = 1
        self._last: Sequence[Message] = ()
        """The batch that came last: the chat is made in its transaction if none comes after it."""
        self._purge = Purge(tenant_id, chat.id, first_seq=1, last_seq=MAX_SEQ, position=1, worker_id=str(uuid.uuid4()))
        self._is_staged = False

    def add(self, batch: Sequence[Message]) -> None:
        """Take some messages that come after those before, as many as one transaction may hold.

        Raises:
            ImportTooLargeError: it takes longer than a request may.
            DatabaseUnavailableError, OutcomeUnknownError: the import can only be given up.
        """
        if self._last:
            self._stage()
        self._last = batch
        self._chat = replace(self._chat, message_count=self._chat.message_count + len(batch))
        self._next_seq = batch[-1].seq + 1

    def finish(self, key: IdempotencyKey | None = None) -> Chat:
        """Make the chat, with all messages that were added, and return it; or the one that was made under `key`.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before.
            And what `add` raises.
        """
        chat = self._chat
        document = {**chats.to_document(self._tenant_id, chat), "next_seq": self._next_seq}
        rows = self._rows()

        def work(tx: UnitOfWork) -> Chat:
            if self._is_staged:
                self._purges.withdraw(tx, self._purge)
            tx.chats.insert_one(document)
            if rows:
                tx.messages.insert_many(rows)
            return chat

        def recall(facts: dict[str, Any]) -> Chat:
            return replace(chat, id=facts["id"])

        work_once = once(key, work, lambda made: {"id": made.id}, recall)
        made = self._run(work_once)
        self._is_staged = self._is_staged and made.id != chat.id
        return made

    def give_up(self) -> None:
        """Leave what is staged to the purge workers; after `finish` there is nothing."""
        if self._is_staged:
            with suppress(ChatServiceError):  # they take it by themselves once nobody renews its lease
                self._purges.release(self._purge)

    def _stage(self) -> None:
        """Write the last batch under the purge that would remove it again."""
        rows, is_first = self._rows(), not self._is_staged
        owner, worker_id = (self._tenant_id, self._chat.id), self._purge.worker_id

        def work(tx: UnitOfWork) -> None:
            if is_first:
                self._purges.open(tx, *owner, (1, MAX_SEQ), len(rows), of_deletion=False, worker_id=worker_id)
            else:
                self._purges.renew(tx, self._purge, messages=len(rows))
            tx.messages.insert_many(rows)

        self._is_staged = True
        self._run(work)

    def _rows(self) -> list[dict[str, Any]]:
        return [messages.to_document(self._tenant_id, self._chat.id, message) for message in self._last]

    def _run(self, work: Work[T]) -> T:
        try:
            return self._database.transaction(work)
        except ClaimLostError as error:  # it was stopped for so long that its messages are being removed
            raise DatabaseUnavailableError from error
        except DatabaseUnavailableError as error:
            if at_most(1.0) > 0:
                raise
            raise ImportTooLargeError from error  # to try again would not help
