"""Proofs about a tenant's log: that an entry is in it, and that it has only grown. Signed where they are given out.

All of them are about the log as far as it is kept: where a ledger keeps it outside the database, not beyond that. So
what was given out never contradicts what a restore and a replay bring back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ASCENDING

from chat_service.errors import ProofNotReadyError, UnknownSizeError
from chat_service.models import Kind
from chat_service.proof.leaves import leaf_bytes
from chat_service.proof.ledger_file import LedgerFile
from chat_service.proof.merkle import Stretch, consistency_path, fold, hashes_of, inclusion_path, leaf_hash
from chat_service.proof.notes import Checkpoint, origin_of
from chat_service.repository.database import Database
from chat_service.repository.log import entry_of
from chat_service.repository.log_tree import frontier_of, read_nodes

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That an entry is in the log."""

    leaf: bytes
    index: int
    path: list[bytes]
    checkpoint: Checkpoint


class Proofs:
    """Reads the trees."""

    def __init__(self, database: Database, ledger: LedgerFile | None = None) -> None:
        """Prove what the ledger has, or without one all that is in the log."""
        self._database = database
        self._ledger = ledger

    def checkpoint(self, tenant_id: str) -> Checkpoint:
        """Return how far the tenant's log is, and its root hash. One command, or two while the ledger is behind."""
        with self._database.operation():
            return self._checkpoint(tenant_id, self._head(tenant_id))

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
            head = self._head(tenant_id)
            size = self._size(tenant_id, head)
            if document["_id"]["seq"] > size:
                raise ProofNotReadyError
            entry = entry_of(document)
            leaf, index = leaf_bytes(tenant_id, entry), entry.seq - 1
            if document["hashes"][0] != leaf_hash(leaf):
                raise DamagedEntryError
            path, root = self._hashes(tenant_id, head, inclusion_path(index, size))
        return Inclusion(leaf, index, path, Checkpoint(origin_of(tenant_id), size, root))

    def consistency(self, tenant_id: str, old: int) -> tuple[list[bytes], Checkpoint]:
        """Prove that the log goes on from where it had `old` entries. Two commands.

        Raises:
            UnknownSizeError: it has fewer.
        """
        with self._database.operation():
            head = self._head(tenant_id)
            size = self._size(tenant_id, head)
            if old > size:
                raise UnknownSizeError(size)
            stretches = consistency_path(old, size) if 0 < old < size else []
            path, root = self._hashes(tenant_id, head, stretches)
        return path, Checkpoint(origin_of(tenant_id), size, root)

    def _checkpoint(self, tenant_id: str, head: Document) -> Checkpoint:
        _, root = self._hashes(tenant_id, head, [])
        return Checkpoint(origin_of(tenant_id), self._size(tenant_id, head), root)

    def _head(self, tenant_id: str) -> Document:
        return self._database.log_heads.find_one({"_id": tenant_id}) or {}

    def _size(self, tenant_id: str, head: Document) -> int:
        in_tree = frontier_of(head).size
        return in_tree if self._ledger is None else min(in_tree, self._ledger.log(tenant_id).tree.size)

    def _hashes(self, tenant_id: str, head: Document, path: Sequence[Stretch]) -> tuple[list[bytes], bytes]:
        """Return the hashes of a path, and the root. One command, for what the head does not know."""
        tree, whole = frontier_of(head), Stretch(0, self._size(tenant_id, head))
        known = dict(zip(Stretch(0, tree.size).nodes(), tree.hashes, strict=True))
        wanted = [node for stretch in (*path, whole) for node in stretch.nodes() if node not in known]
        known.update(read_nodes(self._database.unbound(), tenant_id, wanted))
        return hashes_of(path, known.__getitem__), fold([known[node] for node in whole.nodes()])


class DamagedEntryError(Exception):
    """An entry does not say any more what it said when it was written: the database was changed by hand."""
