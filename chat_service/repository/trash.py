"""Chats in the trash: lists and restores them. lifecycle.py moves them there.

A chat can be restored until its `purge_at`, by the database's time at the moment of the request. The expiry deletes it
some time later. That changes nothing that a caller can see, except that the chat then has a receipt.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from chat_service.errors import ChatServiceError, DatabaseUnavailableError, NotInTrashError, OutcomeUnknownError
from chat_service.models import Chat, IdempotencyKey, ListPosition, TrashedChat
from chat_service.repository import chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import SETTLE_SECONDS
from chat_service.repository.idempotency import once
from chat_service.repository.keys import chat_key
from chat_service.repository.lifecycle import restore, visible
from chat_service.repository.lists import latest_first
from chat_service.repository.protection import refusals
from chat_service.repository.together import Unit, run_together
from chat_service.repository.transaction import BeforeRetry
from chat_service.repository.unit_of_work import UnitOfWork

Outcome = Chat | ChatServiceError

CHAT_FIELDS = ("chat.title", "chat.message_count", "chat.revision", "chat.holds")

FIELDS = dict.fromkeys((*CHAT_FIELDS, "trashed_at", "purge_at", "trashed_by"), True)


class Trash:
    """The trash collection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._chats = chats.Chats(database)

    def page(
        self, tenant_id: str, limit: int, after: ListPosition | None, *, governs: bool = False
    ) -> list[TrashedChat]:
        """Return up to `limit` chats of the trash after a position in the list, latest first."""
        restorable = {"purge_at": {"$gt": self._database.now()}, **visible(governs=governs)}
        own: dict[str, Any] = {"_id.tenant_id": tenant_id, **restorable}
        with self._database.operation():
            documents = latest_first(self._database.trash, own, "trashed_at", limit, after, fields=FIELDS)
            return self._from_documents(tenant_id, documents)

    def get(self, tenant_id: str, chat_id: str, *, governs: bool = False) -> TrashedChat:
        """Return a chat of the trash.

        Raises:
            NotInTrashError: the chat is not in the trash, or its `purge_at` has come.
        """
        restorable = {"purge_at": {"$gt": self._database.now()}, **visible(governs=governs)}
        condition = {"_id": chat_key(tenant_id, chat_id), **restorable}
        with self._database.operation():
            document = self._database.trash.find_one(condition, FIELDS)
            if document is None:
                raise NotInTrashError
            return self._from_documents(tenant_id, [document])[0]

    def _from_documents(self, tenant_id: str, documents: Sequence[dict[str, Any]]) -> list[TrashedChat]:
        chats = {document["_id"]["chat_id"]: document["chat"] for document in documents}
        held = refusals(self._database.unbound(), tenant_id, chats)
        return [_from_document(document, held=document["_id"]["chat_id"] in held) for document in documents]

    def restore(
        self,
        tenant_id: str,
        chat_id: str,
        requested_by: str,
        key: IdempotencyKey | None = None,
        *,
        governs: bool = False,
    ) -> Chat:
        """Make a chat of the trash live again, and return it. Five commands.

        Raises:
            NotInTrashError: the chat is not in the trash, or its `purge_at` has come.
            ChatNotFoundError: the chat was restored under `key` before, and does not exist any more.
            IdempotencyKeyReusedError: `key` was used for another request before.
        """

        def work(tx: UnitOfWork) -> Chat | NotInTrashError:
            return self._restore(tx, tenant_id, [chat_id], requested_by, operation, governs=governs)[0]

        def recall(_: dict[str, Any]) -> None:
            """Recall nothing: a repeated request returns the chat as it is now."""

        operation = uuid.uuid4().hex
        self._database.rules.learn(tenant_id)
        try:
            restored = self._database.transaction(once(key, work, lambda _: {}, recall))
        except OutcomeUnknownError as error:
            (outcome,) = self._settle(tenant_id, [chat_id], operation, error)
            if isinstance(outcome, ChatServiceError):
                raise outcome from error.__cause__
            restored = outcome
        return restored or self._chats.get(tenant_id, chat_id)

    def restore_together(
        self, tenant_id: str, requested_by: str, chat_ids: Sequence[str], operation: str, *, governs: bool = False
    ) -> list[Outcome]:
        """Restore chats in one transaction, or one by one if they meet a conflict; return the outcome of each."""

        def commit_group(tenant_id: str, chat_ids: Sequence[str], before_retry: BeforeRetry) -> Sequence[Outcome]:
            try:
                return self._database.transaction(
                    lambda tx: self._restore(tx, tenant_id, chat_ids, requested_by, operation, governs=governs),
                    before_retry,
                )
            except OutcomeUnknownError as error:
                return self._settle(tenant_id, chat_ids, operation, error)

        self._database.rules.learn(tenant_id)
        return run_together(commit_group, tenant_id, [Unit[str, Chat](chat_id, chat_id) for chat_id in chat_ids])

    def restored_before(self, tenant_id: str, chat_ids: Sequence[str], operation: str) -> dict[str, Outcome]:
        """Return the chats that the operation has restored and that still exist, by id."""
        with self._database.operation():
            return self._restored(tenant_id, chat_ids, operation)

    def _restored(self, tenant_id: str, chat_ids: Sequence[str], operation: str) -> dict[str, Outcome]:
        keys = [chat_key(tenant_id, chat_id) for chat_id in chat_ids]
        documents = self._database.chats.find({"_id": {"$in": keys}, "restoration.operation": operation})
        return {document["_id"]["chat_id"]: self._chats.to_chat(document, 0) for document in documents}

    def _restore(  # noqa: PLR0913 - as `restore`
        self,
        tx: UnitOfWork,
        tenant_id: str,
        chat_ids: Sequence[str],
        requested_by: str,
        operation: str,
        *,
        governs: bool,
    ) -> list[Chat | NotInTrashError]:
        restored = restore(tx, tenant_id, chat_ids, requested_by, operation, governs=governs)
        return [
            self._chats.to_chat(outcome, 0) if isinstance(outcome, dict) else outcome for outcome in restored.values()
        ]

    def _settle(
        self, tenant_id: str, chat_ids: Sequence[str], operation: str, unknown: OutcomeUnknownError
    ) -> list[Outcome]:
        """After a commit whose answer was lost, return the chats that it has restored; `unknown` for the others."""
        restored: dict[str, Outcome] = {}
        # If the database does not answer, the outcome stays unknown, as with deletes.
        with suppress(DatabaseUnavailableError), self._database.operation(seconds=SETTLE_SECONDS):
            restored = self._restored(tenant_id, chat_ids, operation)
        return [restored.get(chat_id, unknown) for chat_id in chat_ids]


def _from_document(document: dict[str, Any], *, held: bool) -> TrashedChat:
    return TrashedChat(
        id=document["_id"]["chat_id"],
        title=document["chat"]["title"],
        message_count=document["chat"]["message_count"],
        trashed_at=document["trashed_at"],
        purge_at=document["purge_at"],
        trashed_by=document["trashed_by"],
        held=held,
    )
