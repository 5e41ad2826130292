"""The outbox: events that were committed with their change, and have no number in the log yet (see sequencer.py).

A delete writes no event to the outbox, because it inserts a receipt anyway: the sequencer reads that instead.
"""

import uuid
from datetime import datetime
from typing import Any, NamedTuple

from chat_service.models import MAX_SEQ, Event, Kind

BY_PURGE = "purge"
"""The actor of the event that a purge writes when the last message of a deleted chat was removed."""

Document = dict[str, Any]


class Pending(NamedTuple):
    """An event that waits for its number."""

    tenant_id: str
    at: datetime
    event: Event
    outbox_key: Document | None
    """Its `_id` in the outbox; None if the event comes from a receipt."""


def to_document(tenant_id: str, at: datetime, event: Event) -> Document:
    """Return the outbox document of the event."""
    key = {"tenant_id": tenant_id, "chat_id": event.chat_id, "order": _order(event), "id": uuid.uuid4().hex}
    return {"_id": key, "kind": event.kind.value, "at": at, "actor": event.actor, "facts": dict(event.facts)}


def from_document(document: Document) -> Pending:
    """Return the event of an outbox document."""
    key = document["_id"]
    event = Event(Kind(document["kind"]), key["chat_id"], document["actor"], document["facts"])
    return Pending(key["tenant_id"], document["at"], event, key)


def purged(chat_id: str, message_count: int) -> Event:
    """Return the event that the last message of a deleted chat was removed."""
    return Event(Kind.CHAT_PURGED, chat_id, BY_PURGE, {"message_count": message_count})


def purged_range(tenant_id: str, chat_id: str) -> Document:
    """Return the `_id` condition of the outbox events that a chat's purge is complete."""
    last = {"tenant_id": tenant_id, "chat_id": chat_id, "order": MAX_SEQ}
    return {"$gte": {**last, "id": ""}, "$lt": {**last, "id": "g"}}


def _order(event: Event) -> int:
    """Return the position of an event among those of its chat, or hold: by revision.

    Trashing and a refused deletion do not change the revision, and come after the change that made it.
    """
    if event.kind is Kind.CHAT_PURGED:
        return MAX_SEQ
    return 2 * event.revision + (event.kind in {Kind.CHAT_TRASHED, Kind.DELETION_REFUSED})
