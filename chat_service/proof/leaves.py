"""The fields of an entry of the log, and its bytes as a leaf of the tree.

The bytes must never change: callers hold proofs whose signatures cover them. They are JSON as in RFC 8785 for the types
that occur (text, whole numbers, booleans, null, and lists of them): no spaces, names in order, UTF-8.
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
"""What an entry proves. `api`: nothing of the content can be read any more; `collection`: nothing of it is left in the
collection. The oplog has it until it has rolled over, and backups keep it. Nothing is claimed about disks."""


def fields_of(entry: LogEntry) -> dict[str, Any]:
    """Return all fields of the entry, as values that JSON has."""
    event = entry.event
    subject = {"hold_id" if event.kind.is_of_hold else "chat_id": event.chat_id} if event.chat_id else {}
    covers = {"covers": COVERS[event.kind]} if event.kind in COVERS else {}
    facts = {name: milliseconds(value) if isinstance(value, datetime) else value for name, value in event.facts.items()}
    head = {"seq": entry.seq, "kind": event.kind.value, "at": milliseconds(entry.at), **subject}
    return {**head, "actor": event.actor, **facts, **covers}


def leaf_bytes(tenant_id: str, entry: LogEntry) -> bytes:
    """Return the bytes of the entry as a leaf in the tree of the tenant's log."""
    fields = {"tenant_id": tenant_id, **fields_of(entry)}
    return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def read_leaf(leaf: bytes) -> tuple[str, LogEntry]:
    """Return the tenant and the entry of a leaf; its facts stay the values that JSON has, so times are text."""
    fields = json.loads(leaf)
    tenant_id, seq, kind = fields.pop("tenant_id"), fields.pop("seq"), Kind(fields.pop("kind"))
    at, actor = datetime.fromisoformat(fields.pop("at")), fields.pop("actor")
    subject = fields.pop("hold_id" if kind.is_of_hold else "chat_id", "")
    fields.pop("covers", None)
    return tenant_id, LogEntry(seq, at, Event(kind, subject, actor, fields))
