"""Proofs about a tenant's log: that an entry is in it, and that it has only grown. The API signs them.

If there is a ledger, a proof never covers entries beyond it. So no proof that was given out contradicts the log that a
restore of the database and a replay bring back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pymongo import ASCENDING

from chat_service.errors import ProofNotReadyError, UnknownSizeError
from chat_service.models import Kind
from chat_service.proof.leaves import leaf_bytes
from chat_service.proof.ledger_file import LedgerFile
from chat_service.proof.merkle import Frontier, Stretch, consistency_path, hashes_of, inclusion_path, leaf_hash
from chat_service.proof.notes import Checkpoint, origin_of
from chat_service.repository.database import Database
from chat_service.repository.log import entry_of
from chat_service.repository.log_tree import frontier_of, read_nodes


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A proof that an entry is in the log."""

    leaf: bytes
    index: int
    path: list[bytes]
    checkpoint: Checkpoint


class _Log(NamedTuple):
    """A tenant's log, read once for each proof, because a ledger grows meanwhile."""

    tree: Frontier
    """The frontier of all entries."""
    size: int
    """How many entries a proof may cover."""


class Proofs:
    """Computes proofs from the stored trees."""

    def __init__(self, database: Database, ledger: LedgerFile | None = None) -> None:
        """Prove the entries that the ledger has, or without a ledger all entries."""
        self._database = database
        self._ledger = ledger

    def checkpoint(self, tenant_id: str) -> Checkpoint:
        """Return the size and the root hash of the tenant's log. One command, or two while the ledger is behind."""
        with self._database.operation():
            _, checkpoint = self._prove(tenant_id, self._log(tenant_id), [])
        return checkpoint

    def inclusion(self, tenant_id: str, chat_id: str, kind: Kind) -> Inclusion:
        """Prove that the log has an entry of this kind for the chat. Three commands.

        Raises:
            ProofNotReadyError: there is no such entry, or a proof may not cover it yet.
            DamagedEntryError: the entry was changed after it was written.
        """
        of_chat = {"chat_id": chat_id, "_id.tenant_id": tenant_id, "kind": kind.value}
        with self._database.operation():
            document = self._database.log_entries.find_one(of_chat, sort=[("_id.seq", ASCENDING)])
            if document is None:
                raise ProofNotReadyError
            log, entry = self._log(tenant_id), entry_of(document)
            if entry.seq > log.size:
                raise ProofNotReadyError
            leaf, index = leaf_bytes(tenant_id, entry), entry.seq - 1
            if document["hashes"][0] != leaf_hash(leaf):
                raise DamagedEntryError
            path, checkpoint = self._prove(tenant_id, log, inclusion_path(index, log.size))
        return Inclusion(leaf, index, path, checkpoint)

    def consistency(self, tenant_id: str, old: int) -> tuple[list[bytes], Checkpoint]:
        """Prove that the log is a continuation of its first `old` entries. Two commands.

        Raises:
            UnknownSizeError: the log has fewer entries.
        """
        with self._database.operation():
            log = self._log(tenant_id)
            if old > log.size:
                raise UnknownSizeError(log.size)
            return self._prove(tenant_id, log, consistency_path(old, log.size) if 0 < old < log.size else [])

    def _log(self, tenant_id: str) -> _Log:
        tree = frontier_of(self._database.log_heads.find_one({"_id": tenant_id}) or {})
        in_ledger = tree.size if self._ledger is None else self._ledger.log(tenant_id).tree.size
        return _Log(tree, min(tree.size, in_ledger))

    def _prove(self, tenant_id: str, log: _Log, path: Sequence[Stretch]) -> tuple[list[bytes], Checkpoint]:
        """Return the hashes of a path, and the checkpoint that they prove. One command, for hashes not in the head."""
        whole = Stretch(0, log.size)
        known = dict(zip(Stretch(0, log.tree.size).nodes(), log.tree.hashes, strict=True))
        missing = [node for stretch in (*path, whole) for node in stretch.nodes() if node not in known]
        known.update(read_nodes(self._database.unbound(), tenant_id, missing))
        *hashes, root = hashes_of([*path, whole], known.__getitem__)
        return hashes, Checkpoint(origin_of(tenant_id), log.size, root)


class DamagedEntryError(Exception):
    """An entry differs from what was written: the database was changed by hand."""
