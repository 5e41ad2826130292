"""The data types of the service, as plain frozen values. All times are aware datetimes in UTC."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

MAX_SEQ = 2**63 - 1
"""The largest `seq` a BSON int64 holds: no message has it."""


def milliseconds(time: datetime) -> str:
    """Return a UTC time in RFC 3339, with milliseconds and `Z`."""
    return time.isoformat(timespec="milliseconds")[:-6] + "Z"


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    GOVERN = "govern"
    """May hold chats, and see and restore chats deleted during the grace period. It includes no other scope."""


EVERYDAY_SCOPES = (Scope.READ, Scope.WRITE, Scope.DELETE)
"""All scopes but `govern`: those of a key for which none are named."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: it holds at most `burst` tokens, and gains `rate` tokens a second until it is full."""

    rate: float
    burst: int

    def __str__(self) -> str:
        """Return the limit as text that `parse_limit` reads."""
        return f"{self.rate:.9g}:{self.burst}"

    @property
    def window(self) -> int:
        """The seconds, rounded up, after which an empty bucket is full again."""
        return math.ceil(self.burst / self.rate)


Limits = Mapping[Scope, RateLimit | None]
"""The rate limits of a key, by scope. None means no limit; a scope that is missing has the default limit."""

LIMIT_SYNTAX = "`off`, or requests per second and burst, like 100:200 or 0.5:10"

_LIMIT = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?):([1-9][0-9]{0,5})", re.ASCII)


def parse_limit(text: str) -> RateLimit | None:
    """Return the limit that `text` gives in `LIMIT_SYNTAX`, or None if it is `off`.

    Raises:
        ValueError: the text is not in that syntax.
    """
    if text == "off":
        return None
    match = _LIMIT.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"Not a limit. Write {LIMIT_SYNTAX}.")
    return RateLimit(float(match[1]), int(match[2]))


class Role(StrEnum):
    """Who a message is from."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer of the service; owns chats and keys."""

    id: str
    name: str
    created_at: datetime
    limits: Limits = field(default_factory=dict)
    grace: timedelta | None = None
    """How long its deletes can be undone with the scope `govern`; 0 if that was turned off, None if it was never on."""
    deletion_requested_at: datetime | None = None
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TenantDeletion:
    """The progress of a tenant's deletion."""

    requested_at: datetime
    completed_at: datetime | None
    chats: int
    """How many chats are left, including those in the trash."""
    purges: int
    """How many purges are open."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, known by its API key."""

    tenant_id: str
    key_id: str
    scopes: frozenset[Scope]
    limits: Limits = field(default_factory=dict, hash=False)
    """The tenant's own rate limits."""
    grace: timedelta | None = None
    """The tenant's grace period."""
    expires_at: datetime | None = None
    """From this moment on the key is not valid."""

    @property
    def governs(self) -> bool:
        """Whether the caller may learn of holds, and of chats deleted during the grace period."""
        return Scope.GOVERN in self.scopes


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a token bucket to a request."""

    granted: bool
    limit: RateLimit
    left: int
    """Tokens left in the bucket, rounded down."""
    retry_after: int
    """Seconds until the bucket has as many tokens as were requested; 0 if they were granted."""
    full_after: int
    """Seconds until the bucket is full, if no more tokens are used."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of an API key, which never contains the key itself."""

    id: str
    """The first 12 hexadecimal digits of the key's digest: enough to identify a key, useless to forge one."""
    tenant_id: str
    label: str
    scopes: frozenset[Scope]
    prefix: str
    created_at: datetime
    revoked_at: datetime | None
    expires_at: datetime | None = None
    """From this moment on the key is not valid; None if it does not expire."""
    last_used_on: date | None = None
    """The day of its last use, in UTC; None if it was never used."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat without its messages."""

    id: str
    title: str | None
    metadata: dict[str, Any]
    message_count: int
    active_connections: int
    created_at: datetime
    updated_at: datetime
    last_message_at: datetime | None
    revision: int
    """Grows with every change to the chat or its messages, but not when connections open or close."""
    expires_at: datetime | None = None
    """From this moment on the chat is gone."""
    taken_at: datetime | None = None
    """When the retention policy deletes or trashes the chat at the earliest, if it has no more activity; None if it has
    an `expires_at` of its own or there is no policy."""

    @property
    def ends_at(self) -> datetime | None:
        """The chat's own `expires_at`, or else the end that the retention policy gives it."""
        return self.expires_at or self.taken_at

    @property
    def ends_by(self) -> str | None:
        """Where `ends_at` comes from: `chat`, `policy`, or None if there is no end."""
        if self.expires_at is not None:
            return "chat"
        return None if self.taken_at is None else "policy"


@dataclass(frozen=True, slots=True)
class ListPosition:
    """A position in a list that is ordered from the latest time to the earliest."""

    at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message as the caller posts it."""

    role: Role
    content: str
    sender_id: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is stored. `seq` counts from 1 in its chat, without gaps when messages are created."""

    seq: int
    role: str
    sender_id: str | None
    content: str
    metadata: dict[str, Any]
    created_at: datetime
    edited_at: datetime | None


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a chat's messages, `after < seq < before`, and the order in which to read it."""

    after: int = 0
    before: int = MAX_SEQ
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class Deletion:
    """The receipt of a deleted chat, with the progress of its purge. It outlives the chat, and has no content."""

    chat_id: str
    deleted_at: datetime
    message_count: int
    requested_by: str
    purged: int
    remaining: int
    """How many messages an open purge still has to remove."""
    completed_at: datetime | None
    """When the last message was removed; None while a purge is open."""
    estimated_at: datetime | None = None
    """When an open purge will be complete at its speed so far; None while its speed is unknown."""
    export_sha256: str | None = None
    """The digest of the export that the caller kept. The caller supplied it, and the service did not check it."""


@dataclass(frozen=True, slots=True)
class Trashing:
    """The move of a chat to the trash."""

    chat_id: str
    trashed_at: datetime
    purge_at: datetime
    """Until this moment the chat can be restored."""


@dataclass(frozen=True, slots=True)
class TrashedChat:
    """A chat in the trash, as the list of the trash shows it."""

    id: str
    title: str | None
    message_count: int
    trashed_at: datetime
    purge_at: datetime
    trashed_by: str
    held: bool
    """Whether a hold prevents its deletion."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold: chats that must not be deleted, who placed it, and when."""

    id: str
    name: str
    everything: bool
    """Whether it covers all chats of the tenant, including future ones."""
    chat_count: int
    """How many chats it covers, or covered when it was released; 0 for a hold on everything."""
    placed_at: datetime
    active_from: datetime
    """From this moment on nothing that it covers is deleted."""
    placed_by: str
    """The id of the key, or `operator`."""
    released_at: datetime | None = None


class ErasureMode(StrEnum):
    """What erasing does to a person's messages."""

    REDACT = "redact"
    """They keep seq, role and times, but lose their content, sender and metadata."""
    REMOVE = "remove"
    """They are deleted."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """The record of an erasure. It does not name the person."""

    id: str
    mode: ErasureMode
    requested_at: datetime
    requested_by: str
    """The id of the key, or `operator`."""
    chats: int
    messages: int
    """`chats` and `messages` count what was erased so far."""
    deferred: int
    """Chats that the last full scan skipped, because a hold keeps them or kept them until recently."""
    is_deferred: bool
    """Whether the erasure waits for a hold to be released."""
    completed_at: datetime | None
    """When a full scan had found nothing left to erase."""


class RetentionAction(StrEnum):
    """What the policy does to a chat whose retention period is over."""

    DELETE = "delete"
    TRASH = "trash"


@dataclass(frozen=True, slots=True)
class Retention:
    """A tenant's retention policy: chats without activity for `delete_after_days` are deleted or trashed."""

    delete_after_days: int
    action: RetentionAction
    max_per_day: int
    """A safety limit: the policy deletes or trashes no more chats in a day (UTC)."""
    active_from: datetime
    changed_at: datetime
    changed_by: str
    before: "Retention | None" = None
    """The policy that this one replaced."""

    def in_force(self, now: datetime) -> "Retention | None":
        """Return the policy that applies now, or None if there is none yet.

        Until a change is active, only chats that both policies cover are deleted or trashed: after the longer period,
        and to the trash if the actions differ.
        """
        if now >= self.active_from:
            return self
        if self.before is None:
            return None
        days = max(self.delete_after_days, self.before.delete_after_days)
        is_same_action = self.action is self.before.action
        max_per_day = min(self.max_per_day, self.before.max_per_day)
        action = self.action if is_same_action else RetentionAction.TRASH
        return replace(self, delete_after_days=days, action=action, max_per_day=max_per_day)

    def takes_at(self, updated_at: datetime) -> datetime:
        """Return when a chat is deleted or trashed at the earliest, if it has no activity after `updated_at`."""
        end = max(updated_at + timedelta(days=self.delete_after_days), self.active_from)
        interim = self.in_force(self.changed_at)
        if interim is None:
            return end
        return min(end, updated_at + timedelta(days=interim.delete_after_days))


@dataclass(frozen=True, slots=True)
class RetentionPreview:
    """How many chats a policy of `delete_after_days` would delete or trash now."""

    delete_after_days: int
    chats: int
    messages: int
    held: int
    """Chats that a hold keeps; they are not counted in `chats`."""
    as_of: datetime


@dataclass(frozen=True, slots=True)
class DeletionPreview:
    """What deleting a chat would do now."""

    chat_id: str
    message_count: int
    active_connections: int
    bytes: int
    """The stored size of the messages."""
    bytes_estimated: bool
    """Whether `bytes` was estimated from the first and the last messages, because there are many."""
    staged: bool
    """Whether a purge would remove the messages after the response, rather than before it."""
    revision: int
    held: bool
    """Whether a hold would prevent the delete."""
    holds: list[str] | None = None
    """The ids of those holds; None for callers who may not know them."""


@dataclass(frozen=True, slots=True)
class Purge:
    """Messages that a worker has claimed to remove: one range of one chat, which no caller can reach any more."""

    tenant_id: str
    chat_id: str
    first_seq: int
    last_seq: int
    position: int
    """Everything before this seq has been removed."""
    worker_id: str


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What identifies a repeated request."""

    tenant_id: str
    key: str
    fingerprint: str
    """A digest of the whole request. A different request with the same key is refused."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One live WebSocket connection to a chat. It expires at `expires_at` unless it is renewed."""

    connection_id: str
    chat_id: str
    worker_id: str
    connected_at: datetime
    expires_at: datetime
    name: str | None = None
    """The name that the client gave when it connected."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A one-time ticket that opens one WebSocket to one chat, for a client that cannot send a key."""

    ticket: str
    expires_at: datetime


class Kind(StrEnum):
    """The kinds of entries of the log."""

    CHAT_TRASHED = "chat.trashed"
    CHAT_RESTORED = "chat.restored"
    CHAT_DELETED = "chat.deleted"
    CHAT_PURGED = "chat.purged"
    CHAT_EMPTIED = "chat.emptied"
    MESSAGE_DELETED = "message.deleted"
    MESSAGE_EDITED = "message.edited"
    SENDER_ERASED = "sender.erased"
    HOLD_PLACED = "hold.placed"
    HOLD_CHANGED = "hold.changed"
    HOLD_RELEASED = "hold.released"
    DELETION_REFUSED = "deletion.refused"
    RETENTION_CHANGED = "retention.changed"
    TENANT_DELETED = "tenant.deleted"

    @property
    def is_of_hold(self) -> bool:
        """Whether entries of this kind are about a hold and not a chat."""
        return self in {Kind.HOLD_PLACED, Kind.HOLD_CHANGED, Kind.HOLD_RELEASED}

    @property
    def is_confidential(self) -> bool:
        """Whether only keys with the scope `govern` may see entries of this kind."""
        return self.is_of_hold or self in {Kind.DELETION_REFUSED, Kind.RETENTION_CHANGED}


WITHHELD = "withheld"
"""What keys without the scope `govern` get in place of a confidential kind, with nothing else of the entry."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was deleted, changed or restored, as its transaction records it; it gets its seq later."""

    kind: Kind
    chat_id: str
    """The id of the chat; of an event about a hold, the id of the hold; empty if it is about neither."""
    actor: str
    """The id of the key that requested it, or the part of the service that did it: `expiry`, `purge`."""
    facts: Mapping[str, Any]
    """Numbers, times and ids; never content."""
    revision: int = 0
    """The chat's revision after the event, which orders the events of the chat; 0 if the kind gives the order."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An event with its number in a tenant's log; `seq` counts from 1 without gaps."""

    seq: int
    at: datetime
    event: Event


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of a tenant's log."""

    entries: list[LogEntry]
    next_after: int
    """The last seq that this page covers: the next page starts after it."""
    head: int
    """The last seq of the log; 0 if it is empty."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address to which entries of a tenant's log are delivered."""

    id: str
    url: str
    kinds: list[Kind] | None
    """The kinds of entries that are delivered; None for all."""
    enabled: bool
    disabled_by: str | None
    """`key`, `operator`, or `410`: the receiver answered that it is gone."""
    created_at: datetime
    created_by: str
    position: int
    """The last seq for which deliveries were created."""


class DeliveryState(StrEnum):
    """The state of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery of an entry to a webhook, with its result so far."""

    id: str
    seq: int | None
    """The seq of the entry; None for a test delivery."""
    kind: str
    state: DeliveryState
    created_at: datetime
    tries: int
    tried_at: datetime | None
    next_try_at: datetime | None
    status: int | None
    """The status of the receiver's last response; None if there was none."""
    reason: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a delivery, as a worker claims it."""

    tenant_id: str
    webhook_id: str
    delivery_id: str
    url: str
    secrets: list[bytes] = field(repr=False)
    """The secrets that sign it, the newest first."""
    number: int
    """The number of the attempt; the first is 1."""
    at: datetime
    type: str
    entry: LogEntry | None
    """None for a test delivery."""


class PurgeProgress(NamedTuple):
    """What is left to purge."""

    open: int
    messages: int
    waiting: timedelta
    """How long the purge that has waited longest has been without a worker."""


@dataclass(frozen=True, slots=True)
class SequencerStatus:
    """How far the log has caught up with what is committed."""

    up_to: datetime | None
    """Everything committed before this moment is in the log; None if no sequencer has ever run."""
    behind: timedelta | None
    """How long ago `up_to` was."""
    process: str | None
    """The process that writes the log; None if none does."""
    is_rescanning: bool
    """Whether the sequencer scans all receipts, because it could not continue from the end of the log."""


@dataclass(frozen=True, slots=True)
class MessageCreated:
    """A message was posted."""

    tenant_id: str
    chat_id: str
    message: Message


@dataclass(frozen=True, slots=True)
class ChatUpdated:
    """A chat was changed, other than by a new message."""

    tenant_id: str
    chat_id: str


@dataclass(frozen=True, slots=True)
class ChatGone:
    """A chat was deleted, or moved to the trash."""

    tenant_id: str
    chat_id: str


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """An API key was revoked."""

    key_id: str


@dataclass(frozen=True, slots=True)
class KeyExpires:
    """An API key was given an expiry time."""

    key_id: str
    at: datetime


Change = MessageCreated | ChatUpdated | ChatGone | KeyRevoked | KeyExpires
"""A committed change that the WebSocket connections of all processes hear of."""
