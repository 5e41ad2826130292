"""What an entry of the log says, and its bytes as a leaf of the tree.

The bytes must never change: whoever holds a proof has them signed. JSON as in RFC 8785 for the values that there are
(text, whole numbers, booleans, null, and lists of them): no spaces, names in order, UTF-8.
"""

import json
from datetime import datetime
from typing import Any

from chat_service.models import Event, Kind, LogEntry, milliseconds

COVERS = {
    Kind.CHAT_DELETED: ["api"],
    Kind.CHAT_PURGED: ["api", "collection"],
    Kind.TENANT_DELETED: ["api", "collection"],
}
"""From where it is gone: nothing of it can be read, and then nothing of it is left in the collection. Not from the
oplog until that has rolled over, nor from backups; of disks nothing is claimed."""


def fields_of(entry: LogEntry) -> dict[str, Any]:
    """Return the entry with all that it says, in values of JSON."""
    event = entry.event
    subject = {"hold_id" if event.kind.is_of_hold else "chat_id": event.chat_id} if event.chat_id else {}
    covers = {"covers": COVERS[event.kind]} if event.kind in COVERS else {}
    facts = {name: milliseconds(value) if isinstance(value, datetime) else value for name, value in event.facts.items()}
    named = {"seq": entry.seq, "kind": event.kind.value, "at": milliseconds(entry.at), **subject}
    return {**named, "actor": event.actor, **facts, **covers}


def leaf_bytes(tenant_id: str, entry: LogEntry) -> bytes:
    """Return the bytes of the entry in the tree of the tenant's log."""
    fields = {"tenant_id": tenant_id, **fields_of(entry)}
    return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def read_leaf(leaf: bytes) -> tuple[str, LogEntry]:
    """Return the tenant and the entry of a leaf; its facts are as JSON has them."""
    fields = json.loads(leaf)
    tenant_id, seq, kind = fields.pop("tenant_id"), fields.pop("seq"), Kind(fields.pop("kind"))
    at, actor = datetime.fromisoformat(fields.pop("at")), fields.pop("actor")
    subject = fields.pop("hold_id" if kind.is_of_hold else "chat_id", "")
    fields.pop("covers", None)
    return tenant_id, LogEntry(seq, at, Event(kind, subject, actor, fields))
