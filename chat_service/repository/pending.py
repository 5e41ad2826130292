"""The outbox: events that are committed with what they tell, and have no number in the log yet (see sequencer.py).

A delete puts nothing here: the receipt that it inserts anyway tells of it.
"""

import uuid
from datetime import datetime
from typing import Any, NamedTuple

from chat_service.models import MAX_SEQ, Event, Kind

BY_PURGE = "purge"
"""The actor of an event that nobody asked for: the last message of a deleted chat was removed."""

Document = dict[str, Any]


class Pending(NamedTuple):
    """An event that waits for its number."""

    tenant_id: str
    at: datetime
    event: Event
    place: Document | None
    """Its key in the outbox; None if a receipt tells it."""


def to_document(tenant_id: str, at: datetime, event: Event) -> Document:
    """Return the document of the outbox that keeps the event."""
    place = {"tenant_id": tenant_id, "chat_id": event.chat_id, "order": _order(event), "id": uuid.uuid4().hex}
    return {"_id": place, "kind": event.kind.value, "at": at, "actor": event.actor, "facts": dict(event.facts)}


def of_outbox(document: Document) -> Pending:
    """Return the event that a document of the outbox keeps."""
    place = document["_id"]
    event = Event(Kind(document["kind"]), place["chat_id"], document["actor"], document["facts"])
    return Pending(place["tenant_id"], document["at"], event, place)


def purged(chat_id: str, message_count: int) -> Event:
    """Return the event that the last message of a deleted chat was removed."""
    return Event(Kind.CHAT_PURGED, chat_id, BY_PURGE, {"message_count": message_count})


def purged_places(tenant_id: str, chat_id: str) -> Document:
    """Return the condition of the places in the outbox where a chat's purge is told."""
    last = {"tenant_id": tenant_id, "chat_id": chat_id, "order": MAX_SEQ}
    return {"$gte": {**last, "id": ""}, "$lt": {**last, "id": "g"}}


def _order(event: Event) -> int:
    """Return what the events of a chat, or of a hold, are sorted by: these leave the revision as it is."""
    if event.kind is Kind.CHAT_PURGED:
        return MAX_SEQ
    return 2 * event.revision + (event.kind in {Kind.CHAT_TRASHED, Kind.DELETION_REFUSED})
