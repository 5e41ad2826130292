"""Reads the log of a tenant: a numbered entry for whatever was removed or brought back. sequencer.py writes it."""

from collections.abc import Collection
from contextlib import closing
from typing import Any

from pymongo import ASCENDING

from chat_service.models import Event, Kind, LogEntry, LogPage
from chat_service.repository.database import Database
from chat_service.repository.keys import log_key

SCANNED_ENTRIES = 10_000
"""Entries that a page of one kind scans at most: there may be none of that kind among millions."""


NAMED_CHATS = 10_000
"""Chat ids that the entries of a page may contain, which those of holds do: half a megabyte."""


class Log:
    """The log_entries and log_heads collections, for reading."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, tenant_id: str, after: int, limit: int, kind: Kind | None = None) -> LogPage:
        """Return up to `limit` entries after seq `after`, in order; only those of `kind`, if given. Two commands."""
        with self._database.operation():
            head = self._heads([tenant_id]).get(tenant_id, 0)
            # All entries up to the head exist: they are written together with it.
            last = head if kind is None else min(head, after + SCANNED_ENTRIES)
            if after >= last:
                return LogPage([], after, head)
            key_range: dict[str, Any] = {"_id": {"$gt": log_key(tenant_id, after), "$lte": log_key(tenant_id, last)}}
            of_kind = {} if kind is None else {"kind": kind.value}
            cursor = self._database.log_entries.find(
                {**key_range, **of_kind}, sort=[("_id", ASCENDING)], limit=limit, batch_size=limit + 1
            )
            entries, named_chats = [], 0
            with closing(cursor):
                for document in cursor:
                    entries.append(entry_of(document))
                    named_chats += sum(len(fact) for fact in document["facts"].values() if isinstance(fact, list))
                    if named_chats > NAMED_CHATS:
                        break
        is_cut = len(entries) == limit or named_chats > NAMED_CHATS
        return LogPage(entries, entries[-1].seq if is_cut or kind is None else last, head)

    def get(self, tenant_id: str, seq: int) -> LogEntry:
        """Return the entry with this seq, which has to exist. One command.

        Raises:
            LookupError: there is no such entry.
        """
        with self._database.operation():
            document = self._database.log_entries.find_one({"_id": log_key(tenant_id, seq)})
        if document is None:
            raise LookupError(seq)
        return entry_of(document)

    def heads(self, tenant_ids: Collection[str]) -> dict[str, int]:
        """Return the last seq of each of these tenants that has a log. One command."""
        with self._database.operation():
            return self._heads(tenant_ids)

    def _heads(self, tenant_ids: Collection[str]) -> dict[str, int]:
        heads = self._database.log_heads.find({"_id": {"$in": list(tenant_ids)}})
        return {head["_id"]: int(head["seq"]) for head in heads}


def entry_of(document: dict[str, Any]) -> LogEntry:
    """Return the entry of a document."""
    event = Event(Kind(document["kind"]), document["chat_id"], document["actor"], document["facts"])
    return LogEntry(document["_id"]["seq"], document["at"], event)
