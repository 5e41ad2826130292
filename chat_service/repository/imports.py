"""Imports a whole chat: either all of it, or nothing that anybody can reach.

A small chat is imported in one transaction. The messages of a larger one are staged: written in bounded transactions
under the id of a chat that does not exist yet. The last transaction creates the chat, which makes all messages
reachable at once. To keep this promise, the import holds an open purge of the staged messages. The last transaction
withdraws the purge. If an import ends before that, its purge remains, and the purge workers remove what was staged.
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
    """Begins imports of whole chats."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def begin(self, tenant_id: str, chat: Chat) -> Iterator["Import"]:
        """Yield an import of `chat`, whose id must be random and new. Unless it is finished, nothing of it remains."""
        chat_import = Import(self._database, tenant_id, chat)
        try:
            yield chat_import
        finally:
            chat_import.give_up()


class Import:
    """The import of one chat, used by one thread."""

    def __init__(self, database: Database, tenant_id: str, chat: Chat) -> None:
        self._database = database
        self._purges = Purges(database)
        self._tenant_id = tenant_id
        self._chat = replace(chat, message_count=0)
        self._next_seq = 1
        self._last_batch: Sequence[Message] = ()
        """Not written yet: if no batch comes after it, it is written in the transaction that creates the chat."""
        self._purge = Purge(tenant_id, chat.id, first_seq=1, last_seq=MAX_SEQ, position=1, worker_id=str(uuid.uuid4()))
        self._is_staged = False

    def add(self, batch: Sequence[Message]) -> None:
        """Add the messages that follow those added before; at most as many as one transaction may hold.

        Raises:
            ImportTooLargeError: the import takes longer than a request may.
            DatabaseUnavailableError, OutcomeUnknownError: the import cannot go on, and must be given up.
        """
        if self._last_batch:
            self._stage()
        self._last_batch = batch
        self._chat = replace(self._chat, message_count=self._chat.message_count + len(batch))
        self._next_seq = batch[-1].seq + 1

    def finish(self, key: IdempotencyKey | None = None) -> Chat:
        """Create the chat with all messages that were added, and return it, or the chat that was created under `key`.

        Raises:
            IdempotencyKeyReusedError: `key` came with another request before.
            The errors of `add`.
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

        work_once = once(key, work, lambda created: {"id": created.id}, recall)
        created = self._run(work_once)
        self._is_staged = self._is_staged and created.id != chat.id
        return created

    def give_up(self) -> None:
        """Leave the staged messages to the purge workers; does nothing after a `finish` that created the chat."""
        if self._is_staged:
            with suppress(ChatServiceError):  # they claim it by themselves when its lease has ended
                self._purges.release(self._purge)

    def _stage(self) -> None:
        """Write the last batch, covered by the purge that would remove it."""
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
        return [messages.to_document(self._tenant_id, self._chat.id, message) for message in self._last_batch]

    def _run(self, work: Work[T]) -> T:
        try:
            return self._database.transaction(work)
        except ClaimLostError as error:  # the import was stalled for so long that its messages are being removed
            raise DatabaseUnavailableError from error
        except DatabaseUnavailableError as error:
            if at_most(1.0) > 0:
                raise
            raise ImportTooLargeError from error  # trying again would not help
