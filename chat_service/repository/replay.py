"""The replay: brings a database that was restored from a backup up to its ledger, so that nothing deleted comes back.

All holds are applied first, so that the rest of the replay destroys nothing that they protect. Then each log continues
from where the backup has it. One transaction applies an entry to the chats again, and writes it with its old number
into the log and its tree. So a replay that was killed can be started again: it continues where it was, applies nothing
twice, and the log contradicts no checkpoint that was given out.

A change that the backup has committed, but not numbered yet, is found in its outbox or by its receipt. It is not
applied again.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from chat_service.errors import ClaimLostError
from chat_service.models import LogEntry
from chat_service.proof.leaves import leaf_bytes, read_leaf
from chat_service.proof.ledger_file import Kept, LedgerError
from chat_service.proof.merkle import leaf_hash
from chat_service.repository.database import Database
from chat_service.repository.keys import chat_range
from chat_service.repository.ledger import Ledger
from chat_service.repository.log_tree import Head, move_heads, read_heads
from chat_service.repository.pending import from_document
from chat_service.repository.purges import Purges
from chat_service.repository.replay_effects import Effects, apply_hold
from chat_service.repository.sequencer import Sequencer
from chat_service.repository.unit_of_work import UnitOfWork

ENTRIES_AT_ONCE = 20
"""Entries that share a transaction: about 0.1 s."""

Document = dict[str, Any]


class Replay:
    """One run of a replay. No sequencer may write the log meanwhile."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._sequencer = Sequencer(database, f"replay {uuid.uuid4().hex}")
        self._effects = Effects(Purges(database))

    def run(self) -> Iterator[tuple[int, int]]:
        """Bring the database up to the ledger; after each group yield the number of entries applied, and the total.

        Raises:
            ClaimLostError: a worker's sequencer writes the log; stop the worker first.
        """
        if self._sequencer.claim() is None:
            raise ClaimLostError
        while self._sequencer.grow_trees():
            pass
        tenants = self._ledger.behind()
        sizes = self._sizes(tenants)
        total = sum(log.tree.size - sizes[log.tenant_id] for log in self._ledger.file.logs() if log.tenant_id in sizes)
        for tenant_id in tenants:
            for kept in self._entries_after(tenant_id, sizes[tenant_id]):
                self._apply_hold(tenant_id, kept)
        done = 0
        for tenant_id in tenants:
            while entries := self._ledger.file.entries(tenant_id, self._sizes([tenant_id])[tenant_id]):
                for start in range(0, len(entries), ENTRIES_AT_ONCE):
                    group = entries[start : start + ENTRIES_AT_ONCE]
                    self._database.transaction(partial(self._apply, tenant_id, group))
                    done += len(group)
                    yield done, total
        self._ledger.save_count()
        self._sequencer.give_up()

    def _sizes(self, tenants: Sequence[str]) -> dict[str, int]:
        heads = read_heads(self._database.unbound(), tenants)
        return {tenant_id: head.tree.size for tenant_id, head in heads.items()}

    def _entries_after(self, tenant_id: str, after: int) -> Iterator[Kept]:
        while entries := self._ledger.file.entries(tenant_id, after):
            yield from entries
            after = entries[-1].seq

    def _apply_hold(self, tenant_id: str, kept: Kept) -> None:
        _, entry = read_leaf(kept.leaf)
        if not entry.event.kind.is_of_hold:
            return
        aside = json.loads(kept.aside or "{}")
        self._database.transaction(lambda tx: apply_hold(tx, tenant_id, entry, aside.get("name", "")))

    def _apply(self, tenant_id: str, group: Sequence[Kept], tx: UnitOfWork) -> None:
        """Apply these entries, and write them into the log."""
        self._sequencer.save_position(tx, {}, len(group))
        head = read_heads(tx, [tenant_id])[tenant_id]
        pending = [from_document(document) for document in tx.outbox.find({"_id": chat_range(tenant_id)})]
        documents, outbox_keys = [], []
        for kept in group:
            _, entry = read_leaf(kept.leaf)
            same = [
                one for one in pending if leaf_bytes(tenant_id, LogEntry(entry.seq, one.at, one.event)) == kept.leaf
            ]
            if same:
                pending.remove(same[0])
                outbox_keys.append(same[0].outbox_key)
            else:
                self._effects.apply(tx, tenant_id, entry)
            documents.append(_append(head, entry, kept))
        tx.log_entries.insert_many(documents)
        move_heads(tx, [head])
        if outbox_keys:
            tx.outbox.delete_many({"_id": {"$in": outbox_keys}})


def _append(head: Head, entry: LogEntry, kept: Kept) -> Document:
    """Append the entry to the tree of the head, and return the entry's document.

    Raises:
        LedgerError: the leaf is not the one in the ledger, because this version writes it differently.
    """
    document = head.add(entry)
    if document["hashes"][0] != leaf_hash(kept.leaf):
        raise LedgerError(f"Entry {entry.seq} cannot be written as it was: use the version that wrote it.")
    return document
