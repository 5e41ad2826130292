"""The Merkle tree of each tenant's log, as it lies in the database. Its arithmetic is in proof/merkle.py.

An entry keeps the hashes of the subtrees that are complete with it, two on average, the leaf's own first. So a node
lies with the last entry of its subtree, and is written in the transaction that writes the entry. The head of the log
keeps what the tree has to be known by for going on with it, and that gives its root without looking at anything else.
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
"""Entries of a log from before there was a tree, or of an earlier version, that are taken into it at once."""

BEHIND = {"$expr": {"$ne": ["$seq", {"$ifNull": ["$tree.size", 0]}]}}
"""The condition of the heads whose tree does not have all entries."""

Document = dict[str, Any]


class Head:
    """The end of a tenant's log, to be moved in a transaction."""

    def __init__(self, tenant_id: str, document: Document | None) -> None:
        """Take the head as it is stored, or that of an empty log.

        Raises:
            ClaimLostError: another process has written the log meanwhile, and left the tree behind.
        """
        stored = document or {"seq": 0}
        self.tenant_id = tenant_id
        self.tree = frontier_of(stored)
        self.is_new = document is None
        if self.tree.size != stored["seq"]:
            raise ClaimLostError

    def add(self, entry: LogEntry) -> Document:
        """Return the document of the entry that comes next, and move the head to it."""
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
        """The number of the entry that comes next."""
        return self.tree.size + 1


def read_heads(tx: UnitOfWork, tenants: Sequence[str]) -> dict[str, Head]:
    """Return the heads of these tenants' logs, by tenant. One command."""
    found = {head["_id"]: head for head in tx.log_heads.find({"_id": {"$in": list(tenants)}})}
    return {tenant_id: Head(tenant_id, found.get(tenant_id)) for tenant_id in tenants}


def move_heads(tx: UnitOfWork, heads: Iterable[Head]) -> None:
    """Write the heads as they are now. Nobody else can have moved one: whoever does writes the position too."""
    updates = [{"q": {"_id": one.tenant_id}, "u": {"$set": _moved(one.tree)}, "upsert": one.is_new} for one in heads]
    tx.command({"update": "log_heads", "updates": updates})


def frontier_of(head: Document) -> Frontier:
    """Return the tree of the head's log."""
    tree = head.get("tree", {"size": 0, "frontier": []})
    return Frontier(tree["size"], tree["frontier"])


def grow(tx: UnitOfWork, head: Document) -> int:
    """Take entries that have no hashes yet into the tree of the head, and return how many."""
    tenant_id, tree = head["_id"], frontier_of(head)
    stretch = {"$gt": log_key(tenant_id, tree.size), "$lte": log_key(tenant_id, head["seq"])}
    found = tx.log_entries.find(
        {"_id": stretch}, sort=[("_id", ASCENDING)], limit=GROWN_AT_ONCE, batch_size=GROWN_AT_ONCE + 1
    )
    hashes = {one["_id"]["seq"]: tree.append(leaf_hash(leaf_bytes(tenant_id, entry_of(one)))) for one in found}
    updates = [
        {"q": {"_id": log_key(tenant_id, seq)}, "u": {"$set": {"hashes": of_it}}} for seq, of_it in hashes.items()
    ]
    tx.command({"update": "log_entries", "updates": updates})
    tx.log_heads.update_one({"_id": tenant_id}, {"$set": {"tree": _moved(tree)["tree"]}})
    return len(hashes)


def read_nodes(tx: UnitOfWork, tenant_id: str, nodes: Iterable[Node]) -> Mapping[Node, bytes]:
    """Return the hashes of these complete subtrees. One command, and none for none."""
    wanted = list(dict.fromkeys(nodes))
    if not wanted:
        return {}
    # A clustered collection is scanned from end to end for an `$in`, and for an `$or`.
    first, *others = [[{"$match": {"_id": log_key(tenant_id, node.last_leaf)}}] for node in wanted]
    unions = [{"$unionWith": {"coll": "log_entries", "pipeline": pipeline}} for pipeline in others]
    pipeline = [*first, *unions, {"$project": {"hashes": True}}]
    found = tx.command({"aggregate": "log_entries", "pipeline": pipeline, "cursor": {"batchSize": len(wanted)}})
    hashes = {one["_id"]["seq"]: one["hashes"] for one in found["cursor"]["firstBatch"]}
    return {node: hashes[node.last_leaf][node.level] for node in wanted}


def _moved(tree: Frontier) -> Document:
    return {"seq": tree.size, "tree": {"size": tree.size, "frontier": tree.hashes}}
