"""The log of a tenant: what was taken away and brought back, numbered. How it is written is in sequencer.py."""

from collections.abc import Collection
from contextlib import closing
from typing import Any

from pymongo import ASCENDING

from chat_service.models import Event, Kind, LogEntry, LogPage
from chat_service.repository.database import Database
from chat_service.repository.keys import log_key

LOOKED_AT = 10_000
"""Entries that are looked at for a page of one kind; there may be none of it among millions."""


NAMED_CHATS = 10_000
"""Chats that the entries of a page may name, those of holds: half a megabyte of ids."""


class Log:
    """Reads the log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, tenant_id: str, after: int, limit: int, kind: Kind | None = None) -> LogPage:
        """Return up to `limit` entries after one, in their order; of one kind, if it is given. Two commands."""
        with self._database.operation():
            head = self._heads([tenant_id]).get(tenant_id, 0)
            # An entry up to the head is there: both were written together.
            last = head if kind is None else min(head, after + LOOKED_AT)
            if after >= last:
                return LogPage([], after, head)
            stretch: dict[str, Any] = {"_id": {"$gt": log_key(tenant_id, after), "$lte": log_key(tenant_id, last)}}
            of_kind = {} if kind is None else {"kind": kind.value}
            found = self._database.log_entries.find(
                {**stretch, **of_kind}, sort=[("_id", ASCENDING)], limit=limit, batch_size=limit + 1
            )
            entries, named = [], 0
            with closing(found):
                for document in found:
                    entries.append(entry_of(document))
                    named += sum(len(fact) for fact in document["facts"].values() if isinstance(fact, list))
                    if named > NAMED_CHATS:
                        break
        is_cut = len(entries) == limit or named > NAMED_CHATS
        return LogPage(entries, entries[-1].seq if is_cut or kind is None else last, head)

    def get(self, tenant_id: str, seq: int) -> LogEntry:
        """Return an entry that is known to be there. One command.

        Raises:
            LookupError: it is not.
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
    """Return the entry that the document keeps."""
    event = Event(Kind(document["kind"]), document["chat_id"], document["actor"], document["facts"])
    return LogEntry(document["_id"]["seq"], document["at"], event)
