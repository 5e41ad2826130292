"""Proofs about a tenant's log: that an entry is in it, and that it has only grown. Signed where they are given out.

All of them are about the log as far as it is kept: where a ledger keeps it outside the database, not beyond that. So
what was given out never contradicts what a restore and a replay bring back.
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
    """That an entry is in the log."""

    leaf: bytes
    index: int
    path: list[bytes]
    checkpoint: Checkpoint


class _Log(NamedTuple):
    """A log as far as it may be proved, looked up once for all that is said of it: a ledger grows meanwhile."""

    tree: Frontier
    """Of all its entries."""
    size: int
    """How many of them may be proved."""


class Proofs:
    """Reads the trees."""

    def __init__(self, database: Database, ledger: LedgerFile | None = None) -> None:
        """Prove what the ledger has, or without one all that is in the log."""
        self._database = database
        self._ledger = ledger

    def checkpoint(self, tenant_id: str) -> Checkpoint:
        """Return how far the tenant's log is, and its root hash. One command, or two while the ledger is behind."""
        with self._database.operation():
            _, checkpoint = self._prove(tenant_id, self._log(tenant_id), [])
        return checkpoint

    def inclusion(self, tenant_id: str, chat_id: str, kind: Kind) -> Inclusion:
        """Prove that the log says so of the chat. Three commands.

        Raises:
            ProofNotReadyError: it does not, or not yet.
        """
        told = {"chat_id": chat_id, "_id.tenant_id": tenant_id, "kind": kind.value}
        with self._database.operation():
            document = self._database.log_entries.find_one(told, sort=[("_id.seq", ASCENDING)])
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
        """Prove that the log goes on from where it had `old` entries. Two commands.

        Raises:
            UnknownSizeError: it has fewer.
        """
        with self._database.operation():
            log = self._log(tenant_id)
            if old > log.size:
                raise UnknownSizeError(log.size)
            return self._prove(tenant_id, log, consistency_path(old, log.size) if 0 < old < log.size else [])

    def _log(self, tenant_id: str) -> _Log:
        tree = frontier_of(self._database.log_heads.find_one({"_id": tenant_id}) or {})
        kept = tree.size if self._ledger is None else self._ledger.log(tenant_id).tree.size
        return _Log(tree, min(tree.size, kept))

    def _prove(self, tenant_id: str, log: _Log, path: Sequence[Stretch]) -> tuple[list[bytes], Checkpoint]:
        """Return the hashes of a path, and the checkpoint that it leads to. One command, for what the head lacks."""
        whole = Stretch(0, log.size)
        known = dict(zip(Stretch(0, log.tree.size).nodes(), log.tree.hashes, strict=True))
        wanted = [node for stretch in (*path, whole) for node in stretch.nodes() if node not in known]
        known.update(read_nodes(self._database.unbound(), tenant_id, wanted))
        *hashes, root = hashes_of([*path, whole], known.__getitem__)
        return hashes, Checkpoint(origin_of(tenant_id), log.size, root)


class DamagedEntryError(Exception):
    """An entry does not say any more what it said when it was written: the database was changed by hand."""
