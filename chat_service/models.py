"""The nouns of the service, as plain frozen values. Times are aware datetimes in UTC."""

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
    """Return a UTC time in RFC 3339 with milliseconds and `Z`."""
    return time.isoformat(timespec="milliseconds")[:-6] + "Z"


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    GOVERN = "govern"
    """To hold chats, and to see and bring back what was deleted in grace; it includes none of the others."""


EVERYDAY = (Scope.READ, Scope.WRITE, Scope.DELETE)
"""What a key has, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: full it holds `burst` tokens, and `rate` of them flow in each second until it is full."""

    rate: float
    burst: int

    def __str__(self) -> str:
        """Return what `parse_limit` reads."""
        return f"{self.rate:.9g}:{self.burst}"

    @property
    def window(self) -> int:
        """The whole seconds in which an empty bucket is full again."""
        return math.ceil(self.burst / self.rate)


Limits = Mapping[Scope, RateLimit | None]
"""How often a key may ask, by scope. None is no limit; a scope that is not in it is left to the default."""

LIMIT_SYNTAX = "`off`, or requests per second and burst, like 100:200 or 0.5:10"

_LIMIT = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?):([1-9][0-9]{0,5})", re.ASCII)


def parse_limit(text: str) -> RateLimit | None:
    """Return the limit that `text` names in `LIMIT_SYNTAX`, or None if it is `off`.

    Raises:
        ValueError: it names none.
    """
    if text == "off":
        return None
    told = _LIMIT.fullmatch(text)
    if told is None or float(told[1]) == 0:
        raise ValueError(f"Not a limit: {LIMIT_SYNTAX}.")
    return RateLimit(float(told[1]), int(told[2]))


class Role(StrEnum):
    """Who speaks in a message."""

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
    """For how long its deletes can be taken back by a key that governs; 0 if that was so once, None if it never was."""
    deletion_requested_at: datetime | None = None
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TenantDeletion:
    """How far the deletion of a tenant is."""

    requested_at: datetime
    completed_at: datetime | None
    chats: int
    """That are left, in the trash too."""
    purges: int
    """That are open."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, as its API key tells."""

    tenant_id: str
    key_id: str
    scopes: frozenset[Scope]
    limits: Limits = field(default_factory=dict, hash=False)
    """The tenant's own."""
    grace: timedelta | None = None
    """The tenant's."""
    expires_at: datetime | None = None
    """From this moment on the key is none."""

    @property
    def governs(self) -> bool:
        """Whether it learns of holds, and of what was deleted in grace."""
        return Scope.GOVERN in self.scopes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a token bucket says to a request."""

    granted: bool
    limit: RateLimit
    left: int
    """Whole tokens that are left in the bucket."""
    retry_after: int
    """Seconds until there are as many tokens as were asked for; 0 when they were granted."""
    full_after: int
    """Seconds until the bucket is full, when nothing more is taken."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it is stored: never the key itself."""

    id: str
    """The first 12 hexadecimal digits of the digest: enough to name a key, useless to forge one."""
    tenant_id: str
    label: str
    scopes: frozenset[Scope]
    prefix: str
    created_at: datetime
    revoked_at: datetime | None
    expires_at: datetime | None = None
    """From this moment on it is none."""
    last_used_on: date | None = None
    """The day, in UTC; None if it never was."""


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
    """Grows with every change to the chat or its messages, and not as connections come and go."""
    expires_at: datetime | None = None
    """From this moment on it is gone."""
    taken_at: datetime | None = None
    """When the tenant's retention takes it, at the earliest, if nothing more happens to it; None if it has its own end
    or there is no policy."""

    @property
    def ends_at(self) -> datetime | None:
        """Its own end, or else that by the tenant's policy."""
        return self.expires_at or self.taken_at

    @property
    def ends_by(self) -> str | None:
        """What has given it its end."""
        if self.expires_at is not None:
            return "chat"
        return None if self.taken_at is None else "policy"


@dataclass(frozen=True, slots=True)
class ListPosition:
    """A place between two things of a list that runs from the latest time to the earliest."""

    at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message as a caller sends it."""

    role: Role
    content: str
    sender_id: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is kept; `seq` counts from 1 in its chat, without gaps at creation."""

    seq: int
    role: str
    sender_id: str | None
    content: str
    metadata: dict[str, Any]
    created_at: datetime
    edited_at: datetime | None


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a chat's messages, `after < seq < before`, and the direction to read it in."""

    after: int = 0
    before: int = MAX_SEQ
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class Deletion:
    """The receipt of a deleted chat, and how far its purge is. It outlives the chat, and holds no content."""

    chat_id: str
    deleted_at: datetime
    message_count: int
    requested_by: str
    purged: int
    remaining: int
    """What an open purge has left to remove."""
    completed_at: datetime | None
    """When the last message was removed; None while a purge is open."""
    estimated_at: datetime | None = None
    """When an open purge should be complete, at its speed so far; None before it has one."""
    export_sha256: str | None = None
    """The digest of the export that whoever asked for it has kept, as they say."""


@dataclass(frozen=True, slots=True)
class Trashing:
    """That a chat is in the trash."""

    chat_id: str
    trashed_at: datetime
    purge_at: datetime
    """Until when it can be restored."""


@dataclass(frozen=True, slots=True)
class TrashedChat:
    """A chat in the trash, as its list shows it."""

    id: str
    title: str | None
    message_count: int
    trashed_at: datetime
    purge_at: datetime
    trashed_by: str
    held: bool
    """Whether a hold keeps it from being deleted."""


@dataclass(frozen=True, slots=True)
class Hold:
    """That chats must not be destroyed, on whose word, and since when."""

    id: str
    name: str
    everything: bool
    """Whether it is on all chats of the tenant, also those that are still to come."""
    chat_count: int
    """On how many chats it is, or was when it was released; 0 of a hold on everything."""
    placed_at: datetime
    active_from: datetime
    """From when on nothing of it is destroyed any more."""
    placed_by: str
    """The id of the key, or `operator`."""
    released_at: datetime | None = None


class ErasureMode(StrEnum):
    """What becomes of a person's messages."""

    REDACT = "redact"
    """They keep number, role and times, and say nothing any more, of nobody."""
    REMOVE = "remove"
    """They are deleted."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """The record of what was erased of a person, who is not named in it."""

    id: str
    mode: ErasureMode
    requested_at: datetime
    requested_by: str
    """The id of the key, or `operator`."""
    chats: int
    messages: int
    """What was erased so far."""
    deferred: int
    """Chats that a hold keeps, or kept until lately, at the last look at everything."""
    is_deferred: bool
    """Whether it waits for a hold."""
    completed_at: datetime | None
    """When a look at everything had found nothing."""


class RetentionAction(StrEnum):
    """What becomes of a chat when its retention is over."""

    DELETE = "delete"
    TRASH = "trash"


@dataclass(frozen=True, slots=True)
class Retention:
    """A tenant's policy: chats without activity for so many days are taken."""

    delete_after_days: int
    action: RetentionAction
    max_per_day: int
    """A fuse: no more are taken in a day (UTC)."""
    active_from: datetime
    changed_at: datetime
    changed_by: str
    before: "Retention | None" = None
    """The one that it has replaced."""

    def in_force(self, now: datetime) -> "Retention | None":
        """Return the policy to go by now, or None if there is none yet.

        Until a change is active only what both policies would take is taken: in the longer time, and rather to the
        trash.
        """
        if now >= self.active_from:
            return self
        if self.before is None:
            return None
        days = max(self.delete_after_days, self.before.delete_after_days)
        alike = self.action is self.before.action
        most = min(self.max_per_day, self.before.max_per_day)
        action = self.action if alike else RetentionAction.TRASH
        return replace(self, delete_after_days=days, action=action, max_per_day=most)

    def takes_at(self, updated_at: datetime) -> datetime:
        """Return when a chat that nothing more happens to is taken at the earliest."""
        end = max(updated_at + timedelta(days=self.delete_after_days), self.active_from)
        meanwhile = self.in_force(self.changed_at)
        if meanwhile is None:
            return end
        return min(end, updated_at + timedelta(days=meanwhile.delete_after_days))


@dataclass(frozen=True, slots=True)
class RetentionPreview:
    """What a policy of so many days would take now."""

    delete_after_days: int
    chats: int
    messages: int
    held: int
    """Chats that are kept by a hold; they are not among the others."""
    as_of: datetime


@dataclass(frozen=True, slots=True)
class DeletionPreview:
    """What deleting a chat now would do."""

    chat_id: str
    message_count: int
    active_connections: int
    bytes: int
    """The size of the messages as they are stored."""
    bytes_estimated: bool
    """Whether `bytes` was extrapolated from the first and the last messages, because there are many."""
    staged: bool
    """Whether the messages would be removed by a purge after the answer, rather than before it."""
    revision: int
    held: bool
    """Whether a hold would refuse it."""
    holds: list[str] | None = None
    """Which do, for those who may know."""


@dataclass(frozen=True, slots=True)
class Purge:
    """Messages that nobody can reach any more and that a worker has claimed to remove: one stretch of one chat."""

    tenant_id: str
    chat_id: str
    first_seq: int
    last_seq: int
    position: int
    """Everything before this seq has been removed."""
    worker_id: str


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes a repeated request the same one."""

    tenant_id: str
    key: str
    fingerprint: str
    """A digest of the whole request: under the same key, any other request is refused."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One live WebSocket connection to a chat, good until `expires_at` unless renewed."""

    connection_id: str
    chat_id: str
    worker_id: str
    connected_at: datetime
    expires_at: datetime
    name: str | None = None
    """As whoever connected wants to be called."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Opens one WebSocket to one chat, once, for a client that cannot send a key."""

    ticket: str
    expires_at: datetime


class Kind(StrEnum):
    """What an entry of the log tells."""

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
        """Whether it tells of a hold and not of a chat."""
        return self in {Kind.HOLD_PLACED, Kind.HOLD_CHANGED, Kind.HOLD_RELEASED}

    @property
    def is_confidential(self) -> bool:
        """Whether only keys that govern may learn of it."""
        return self.is_of_hold or self in {Kind.DELETION_REFUSED, Kind.RETENTION_CHANGED}


WITHHELD = "withheld"
"""Told in place of a confidential kind, with nothing else of the entry, to keys that do not govern."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was taken away or brought back, as its transaction puts it down; it gets its number later."""

    kind: Kind
    chat_id: str
    """Of a hold's, the id of the hold; empty of what is of no chat."""
    actor: str
    """The id of the key that asked for it, or what of the service did it: `expiry`, `purge`."""
    facts: Mapping[str, Any]
    """Numbers, times and ids; never content."""
    revision: int = 0
    """The one that it left the chat at, which tells its place among the chat's; 0 if the kind tells it."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An event of a tenant's log; `seq` counts from 1 without gaps."""

    seq: int
    at: datetime
    event: Event


@dataclass(frozen=True, slots=True)
class LogPage:
    """A stretch of a tenant's log."""

    entries: list[LogEntry]
    next_after: int
    """Everything up to this seq was looked at."""
    head: int
    """The last seq there is; 0 in an empty log."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """That entries of a tenant's log are told to an address."""

    id: str
    url: str
    kinds: list[Kind] | None
    """Which; None for all."""
    enabled: bool
    disabled_by: str | None
    """`key`, `operator`, or `410`: the receiver has said that it is gone."""
    created_at: datetime
    created_by: str
    position: int
    """Up to which seq deliveries were made."""


class DeliveryState(StrEnum):
    """How far a delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """An entry that a webhook is told, and what came of it so far."""

    id: str
    seq: int | None
    """Which entry; None of a test."""
    kind: str
    state: DeliveryState
    created_at: datetime
    tries: int
    tried_at: datetime | None
    next_try_at: datetime | None
    status: int | None
    """What the receiver has answered last; None if it has not."""
    reason: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try to deliver, as it is claimed."""

    tenant_id: str
    webhook_id: str
    delivery_id: str
    url: str
    secrets: list[bytes] = field(repr=False)
    """With which it is signed, the newest first."""
    number: int
    """1 of the first try."""
    at: datetime
    type: str
    entry: LogEntry | None
    """None of a test."""


class PurgeProgress(NamedTuple):
    """What is left to purge."""

    open: int
    messages: int
    waiting: timedelta
    """How long ago a worker has touched the purge that has waited longest."""


@dataclass(frozen=True, slots=True)
class SequencerStatus:
    """How far the log is."""

    up_to: datetime | None
    """Everything that was committed before is in the log; None if no sequencer has ever run."""
    behind: timedelta | None
    """How long ago that was."""
    process: str | None
    """Which process writes the log; None if none does."""
    is_rescanning: bool
    """Whether it looks through all receipts, because it could not go on from where the log ends."""


@dataclass(frozen=True, slots=True)
class MessageCreated:
    """A message was posted."""

    tenant_id: str
    chat_id: str
    message: Message


@dataclass(frozen=True, slots=True)
class ChatUpdated:
    """Something of a chat has changed other than by a new message."""

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
    """An API key was given an end."""

    key_id: str
    at: datetime


Change = MessageCreated | ChatUpdated | ChatGone | KeyRevoked | KeyExpires
"""What the connections of all processes are told of, once it is committed."""
