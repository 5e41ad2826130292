"""The errors of the domain.

They have no status codes: `api/problems.py` is the one table that maps them to HTTP. Of an error without arguments the
command line prints the docstring.
"""

from datetime import datetime


class ChatServiceError(Exception):
    """Base of every error the service raises on purpose."""


class InvalidApiKeyError(ChatServiceError):
    """The key is missing, unknown, revoked or expired: one answer. Who holds an expired key learns when it expired."""

    def __init__(self, expired_at: datetime | None = None) -> None:
        super().__init__(expired_at)
        self.expired_at = expired_at


class InsufficientScopeError(ChatServiceError):
    """The key is good but lacks the scope the operation needs."""

    def __init__(self, scope: str) -> None:
        super().__init__(scope)
        self.scope = scope


class RateLimitedError(ChatServiceError):
    """The key has too few tokens of this scope left; in `retry_after` seconds it has as many as were requested."""

    def __init__(self, scope: str, retry_after: int) -> None:
        super().__init__(scope, retry_after)
        self.scope = scope
        self.retry_after = retry_after


class InvalidChatIdError(ChatServiceError):
    """The id in the path is not a UUID."""


class InvalidJsonError(ChatServiceError):
    """The body is not one JSON value in strict RFC 8259 form; `reason` says where it fails."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidCursorError(ChatServiceError):
    """This list did not return the cursor, or the cursor was changed."""


class ValidationFailedError(ChatServiceError):
    """The request was read, but its fields break a rule; `errors` maps each field to what to change."""

    def __init__(self, errors: dict[str, object]) -> None:
        super().__init__(errors)
        self.errors = errors


class ChatNotFoundError(ChatServiceError):
    """Absent or another tenant's, which look the same; or deleted by the caller's tenant, at `deleted_at`."""

    def __init__(self, chat_id: str | None = None, deleted_at: datetime | None = None) -> None:
        super().__init__(chat_id, deleted_at)
        self.chat_id = chat_id
        self.deleted_at = deleted_at


class MessageNotFoundError(ChatServiceError):
    """The chat is there, but it has no message with this seq (any more)."""


class DeletionNotFoundError(ChatServiceError):
    """The tenant has deleted no chat with this id."""


class NotInTrashError(ChatServiceError):
    """The tenant's trash has no such chat (any more)."""


class ChatInTrashError(ChatServiceError):
    """A chat cannot be created under this id: the chat with this id is in the trash."""


class InvalidIdempotencyKeyError(ChatServiceError):
    """The Idempotency-Key is empty, too long, or has characters that no key needs."""


class IdempotencyKeyReusedError(ChatServiceError):
    """The Idempotency-Key was used with another request; nothing was done."""


class RequestInProgressError(ChatServiceError):
    """The same request, with the same Idempotency-Key, is in progress; nothing was done for this one."""


class ClaimLostError(ChatServiceError):
    """Another worker has taken a purge over; nothing was removed under the old claim."""


class PreconditionFailedError(ChatServiceError):
    """The chat has changed since the caller saw it: `If-Match` no longer holds."""


class ExportCutError(ChatServiceError):
    """An export was cut off after it had begun; the part that was sent is not complete."""


class ExportEndedError(ExportCutError):
    """The chat was deleted during its export, which ended there: nothing of a deleted chat is sent."""


class ExportOutdatedError(ExportCutError):
    """A slow export outlived its snapshot in the database, and the rest of the chat has changed since."""


class TooManyExportsError(ChatServiceError):
    """As many exports are running as are allowed: of the key, of the tenant, or in this process."""


class InvalidImportError(ChatServiceError):
    """What is being imported is not a complete export; `reason` says what is wrong. Nothing was created."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ImportTooLargeError(ChatServiceError):
    """An export is larger than an import over HTTP may be, or its import takes longer than a request may."""


class UploadStorageError(ChatServiceError):
    """A body could not be kept on the disk while it arrived; nothing was done."""


class TooManyListenersError(ChatServiceError):
    """This process, or the tenant in this process, has as many clients waiting for the log as are allowed."""


class TooMuchUnreadError(ChatServiceError):
    """The tenant's clients have left so many bytes of responses unread that it gets no further response."""


class ChatExistsError(ChatServiceError):
    """A chat cannot be created under this id: the tenant has a chat with this id."""


class ChatIdRetiredError(ChatServiceError):
    """A chat cannot be created under this id: a chat with this id was deleted, and its id is never used again."""


class ActiveConnectionsError(ChatServiceError):
    """The chat has live WebSocket connections, so it was not deleted."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


class LegalHoldError(ChatServiceError):
    """A hold forbids what was asked, and nothing was changed; `revision` is the chat's unchanged revision."""

    def __init__(self, holds: list[str], revision: int = 0) -> None:
        super().__init__(holds, revision)
        self.holds = holds
        self.revision = revision


class NotDeletableError(ChatServiceError):
    """A hold forbids what was asked, but the caller may not know of holds."""


class HoldNotFoundError(ChatServiceError):
    """The tenant has no such hold."""


class HoldUnchangeableError(ChatServiceError):
    """The hold was released, or is on everything: chats cannot be added to it or removed from it."""


class ErasureNotFoundError(ChatServiceError):
    """The tenant has no such erasure."""


class WebhookNotFoundError(ChatServiceError):
    """The tenant has no such webhook."""


class WebhooksOffError(ChatServiceError):
    """There is no key to encrypt the secrets of webhooks with. Set WEBHOOK_SECRET_KEY; `webhooks key` makes one."""


class SecretsUnreadableError(ChatServiceError):
    """The secret of a webhook was encrypted with a key that is no longer in WEBHOOK_SECRET_KEY."""


class TooManyWebhooksError(ChatServiceError):
    """The tenant has as many webhooks as it may have."""


class ReceiverRefusedError(ChatServiceError):
    """A webhook may not have this address; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotSignedError(ChatServiceError):
    """There is no key to sign checkpoints with. Set SIGNING_KEY; `keys signing` makes one."""


class ProofNotReadyError(ChatServiceError):
    """The log does not have the entry that is to be proved, or not yet."""


class UnknownSizeError(ChatServiceError):
    """The log never had so many entries; `size` is how many it has."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class NoRetentionError(ChatServiceError):
    """The tenant has no retention policy."""


class UnknownChatsError(ChatServiceError):
    """The tenant has no chats with these ids, neither live nor in the trash; nothing was done."""

    def __init__(self, chat_ids: list[str]) -> None:
        super().__init__(chat_ids)
        self.chat_ids = chat_ids


class TooManyConnectionsError(ChatServiceError):
    """The chat, the tenant or this process has as many WebSocket connections as it may have."""


class ChangesLostError(ChatServiceError):
    """The change stream cannot be resumed without a gap."""


class DatabaseUnavailableError(ChatServiceError):
    """The database could not be reached in time, and nothing was changed."""


class LedgerBehindError(DatabaseUnavailableError):
    """The database lacks entries that the ledger has, because a backup was restored. Run `ledger replay` first."""


class OutcomeUnknownError(ChatServiceError):
    """The database's reply to a change did not come in time: the change was made completely, or not at all."""


class WrongCollectionsError(ChatServiceError):
    """The database has collections that are not what the service requires; the message says what to do."""


class UnsupportedServerError(ChatServiceError):
    """The server cannot run multi-document transactions, so the service refuses to start."""
