"""The Merkle tree of each tenant's log, as it is stored in the database. Its arithmetic is in proof/merkle.py.

An entry stores the hashes of the subtrees that it completes: two on average, the hash of its own leaf first. So a node
is stored with the last entry of its subtree, and written in the transaction that writes the entry. The head of the log
stores the frontier of the tree: that is enough to append entries and to compute the root, without reading more.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo import ASCENDING

from chat_service.errors import ClaimLostError
from chat_service.models import LogEntry
from chat_service.proof.leaves import leaf_bytes
from chat_service.proof.merkle import Frontier, Node, leaf_hash
from chat_service.repository.keys import log_key
from chat_service.repository.log import entry_of
from chat_service.repository.unit_of_work import UnitOfWork

GROWN_AT_ONCE = 1_000
"""Entries without hashes, written by a version that had no tree, that are added to it in one transaction."""

BEHIND = {"$expr": {"$ne": ["$seq", {"$ifNull": ["$tree.size", 0]}]}}
"""The condition of the heads whose tree lacks entries of the log."""

Document = dict[str, Any]


class Head:
    """The end of a tenant's log, as it moves within one transaction."""

    def __init__(self, tenant_id: str, document: Document | None) -> None:
        """Start from the stored head, or from an empty log without one.

        Raises:
            ClaimLostError: another process has written entries meanwhile, without adding them to the tree.
        """
        stored = document or {"seq": 0}
        self.tenant_id = tenant_id
        self.tree = frontier_of(stored)
        self.is_new = document is None
        if self.tree.size != stored["seq"]:
            raise ClaimLostError

    def add(self, entry: LogEntry) -> Document:
        """Move the head to the next entry, and return the entry's document."""
        event = entry.event
        return {
            "_id": log_key(self.tenant_id, entry.seq),
            "kind": event.kind.value,
            "at": entry.at,
            "chat_id": event.chat_id,
            "actor": event.actor,
            "facts": dict(event.facts),
            "hashes": self.tree.append(leaf_hash(leaf_bytes(self.tenant_id, entry))),
        }

    @property
    def next_seq(self) -> int:
        """The seq of the next entry."""
        return self.tree.size + 1


def read_heads(tx: UnitOfWork, tenants: Sequence[str]) -> dict[str, Head]:
    """Return the heads of these tenants' logs, by tenant. One command."""
    documents = {head["_id"]: head for head in tx.log_heads.find({"_id": {"$in": list(tenants)}})}
    return {tenant_id: Head(tenant_id, documents.get(tenant_id)) for tenant_id in tenants}


def move_heads(tx: UnitOfWork, heads: Iterable[Head]) -> None:
    """Write the heads as they are now. No other process can have moved one: it would have to write the position too."""
    updates = [
        {"q": {"_id": head.tenant_id}, "u": {"$set": _head_fields(head.tree)}, "upsert": head.is_new} for head in heads
    ]
    tx.command({"update": "log_heads", "updates": updates})


def frontier_of(head: Document) -> Frontier:
    """Return the frontier that a head's document stores."""
    tree = head.get("tree", {"size": 0, "frontier": []})
    return Frontier(tree["size"], tree["frontier"])


def grow(tx: UnitOfWork, head: Document) -> int:
    """Add the head's next entries without hashes to its tree; return how many."""
    tenant_id, tree = head["_id"], frontier_of(head)
    key_range = {"$gt": log_key(tenant_id, tree.size), "$lte": log_key(tenant_id, head["seq"])}
    entries = tx.log_entries.find(
        {"_id": key_range}, sort=[("_id", ASCENDING)], limit=GROWN_AT_ONCE, batch_size=GROWN_AT_ONCE + 1
    )
    hashes = {entry["_id"]["seq"]: tree.append(leaf_hash(leaf_bytes(tenant_id, entry_of(entry)))) for entry in entries}
    updates = [
        {"q": {"_id": log_key(tenant_id, seq)}, "u": {"$set": {"hashes": own_hashes}}}
        for seq, own_hashes in hashes.items()
    ]
    tx.command({"update": "log_entries", "updates": updates})
    tx.log_heads.update_one({"_id": tenant_id}, {"$set": {"tree": _head_fields(tree)["tree"]}})
    return len(hashes)


def read_nodes(tx: UnitOfWork, tenant_id: str, nodes: Iterable[Node]) -> Mapping[Node, bytes]:
    """Return the hashes of these complete subtrees. One command, or none without nodes."""
    unique_nodes = list(dict.fromkeys(nodes))
    if not unique_nodes:
        return {}
    # Not an `$in` or an `$or`: the server would scan the whole clustered collection.
    first, *others = [[{"$match": {"_id": log_key(tenant_id, node.last_leaf)}}] for node in unique_nodes]
    unions = [{"$unionWith": {"coll": "log_entries", "pipeline": pipeline}} for pipeline in others]
    pipeline = [*first, *unions, {"$project": {"hashes": True}}]
    reply = tx.command({"aggregate": "log_entries", "pipeline": pipeline, "cursor": {"batchSize": len(unique_nodes)}})
    hashes = {entry["_id"]["seq"]: entry["hashes"] for entry in reply["cursor"]["firstBatch"]}
    return {node: hashes[node.last_leaf][node.level] for node in unique_nodes}


def _head_fields(tree: Frontier) -> Document:
    return {"seq": tree.size, "tree": {"size": tree.size, "frontier": tree.hashes}}
