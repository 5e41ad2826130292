"""The replay: brings a database that was restored from a backup up to its ledger, so that nothing deleted comes back.

Holds come first, all of them: until the rest is done nothing may be lost that they keep. Then each log goes on from
where the backup has it. What an entry tells is done to the chats again, and in the same transaction the entry gets its
number and its place in the tree back. So a replay that is killed goes on where it was, does nothing twice, and the log
contradicts no checkpoint that was given out.

What the backup has committed, and had no number yet, is found in its outbox or by its receipt, and is not done again.
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
from chat_service.repository.pending import of_outbox
from chat_service.repository.purges import Purges
from chat_service.repository.replay_effects import Effects, of_hold
from chat_service.repository.sequencer import Sequencer
from chat_service.repository.unit_of_work import UnitOfWork

ENTRIES_AT_ONCE = 20
"""That share a transaction: about 0.1 s."""

Document = dict[str, Any]


class Replay:
    """One run. Nobody else may write the log meanwhile."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._sequencer = Sequencer(database, f"replay {uuid.uuid4().hex}")
        self._effects = Effects(Purges(database))

    def run(self) -> Iterator[tuple[int, int]]:
        """Bring the database up to the ledger; give after each step how many entries are done, and of how many.

        Raises:
            ClaimLostError: a worker writes the log: stop it first.
        """
        if self._sequencer.claim() is None:
            raise ClaimLostError
        while self._sequencer.grow_trees():
            pass
        tenants = self._ledger.behind()
        sizes = self._sizes(tenants)
        total = sum(log.tree.size - sizes[log.tenant_id] for log in self._ledger.file.logs() if log.tenant_id in sizes)
        for tenant_id in tenants:
            for one in self._after(tenant_id, sizes[tenant_id]):
                self._place_again(tenant_id, one)
        done = 0
        for tenant_id in tenants:
            while entries := self._ledger.file.entries(tenant_id, self._sizes([tenant_id])[tenant_id]):
                for start in range(0, len(entries), ENTRIES_AT_ONCE):
                    group = entries[start : start + ENTRIES_AT_ONCE]
                    self._database.transaction(partial(self._do_again, tenant_id, group))
                    done += len(group)
                    yield done, total
        self._ledger.write_down()
        self._sequencer.give_up()

    def _sizes(self, tenants: Sequence[str]) -> dict[str, int]:
        heads = read_heads(self._database.unbound(), tenants)
        return {tenant_id: head.tree.size for tenant_id, head in heads.items()}

    def _after(self, tenant_id: str, after: int) -> Iterator[Kept]:
        while entries := self._ledger.file.entries(tenant_id, after):
            yield from entries
            after = entries[-1].seq

    def _place_again(self, tenant_id: str, kept: Kept) -> None:
        _, entry = read_leaf(kept.leaf)
        if not entry.event.kind.is_of_hold:
            return
        aside = json.loads(kept.aside or "{}")
        self._database.transaction(lambda tx: of_hold(tx, tenant_id, entry, aside.get("name", "")))

    def _do_again(self, tenant_id: str, group: Sequence[Kept], tx: UnitOfWork) -> None:
        """Do what these entries tell, and write them into the log."""
        self._sequencer.hold(tx, {}, len(group))
        head = read_heads(tx, [tenant_id])[tenant_id]
        waiting = [of_outbox(one) for one in tx.outbox.find({"_id": chat_range(tenant_id)})]
        documents, places = [], []
        for kept in group:
            _, entry = read_leaf(kept.leaf)
            same = [
                one for one in waiting if leaf_bytes(tenant_id, LogEntry(entry.seq, one.at, one.event)) == kept.leaf
            ]
            if same:
                waiting.remove(same[0])
                places.append(same[0].place)
            else:
                self._effects.of(tx, tenant_id, entry)
            documents.append(_added(head, entry, kept))
        tx.log_entries.insert_many(documents)
        move_heads(tx, [head])
        if places:
            tx.outbox.delete_many({"_id": {"$in": places}})


def _added(head: Head, entry: LogEntry, kept: Kept) -> Document:
    """Return the document of the entry, whose leaf has to be what the ledger has.

    Raises:
        LedgerError: it is not: this version writes it otherwise.
    """
    document = head.add(entry)
    if document["hashes"][0] != leaf_hash(kept.leaf):
        raise LedgerError(f"Entry {entry.seq} cannot be written as it was: use the version that wrote it.")
    return document
