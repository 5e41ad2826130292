"""The tree of a log in the database matches the log's entries, at any size and whoever wrote the hashes."""

from pathlib import Path

import pytest

from chat_service.errors import ProofNotReadyError, UnknownSizeError
from chat_service.models import Event, Kind, LogEntry
from chat_service.proof.leaves import leaf_bytes
from chat_service.proof.ledger_file import Kept, KeptLog, LedgerFile
from chat_service.proof.merkle import Frontier, is_consistent, is_included, leaf_hash
from chat_service.repository.database import Database
from chat_service.repository.log import Log
from chat_service.repository.log_tree import Head
from chat_service.repository.proofs import DamagedEntryError, Inclusion, Proofs
from chat_service.repository.sequencer import Sequencer
from tests.numbering import number_all

TENANT, OTHER = "t", "u"


def fill(database: Database, count: int, tenant_id: str = TENANT) -> list[bytes]:
    """Write a log of `count` deletions as the sequencer does, and return its leaves."""
    head, leaves, documents = Head(tenant_id, None), [], []
    for seq in range(1, count + 1):
        event = Event(Kind.CHAT_DELETED, f"chat {seq}", "key", {"message_count": seq})
        entry = LogEntry(seq, database.now(), event)
        documents.append(head.add(entry))
        leaves.append(leaf_bytes(tenant_id, entry))
    for first in range(0, count, 10_000):
        database.log_entries.insert_many(documents[first : first + 10_000])
    tree = {"size": head.tree.size, "frontier": head.tree.hashes}
    database.log_heads.insert_one({"_id": tenant_id, "seq": count, "tree": tree})
    return leaves


def holds(proof: Inclusion) -> bool:
    """Return whether the proof verifies."""
    checkpoint = proof.checkpoint
    return is_included(leaf_hash(proof.leaf), proof.index, checkpoint.size, proof.path, checkpoint.root)


def root_of(leaves: list[bytes]) -> bytes:
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return tree.root()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 31, 100])
def test_every_entry_is_proved(database: Database, count: int) -> None:
    leaves = fill(database, count)
    proofs = Proofs(database)
    assert proofs.checkpoint(TENANT).root == root_of(leaves)
    for seq in range(1, count + 1):
        proof = proofs.inclusion(TENANT, f"chat {seq}", Kind.CHAT_DELETED)
        assert (proof.leaf, proof.index, proof.checkpoint.size) == (leaves[seq - 1], seq - 1, count)
        assert holds(proof)
    for old in range(count + 1):
        path, checkpoint = proofs.consistency(TENANT, old)
        assert is_consistent(old, root_of(leaves[:old]), count, checkpoint.root, path)


def test_with_a_ledger_only_its_entries_are_proved(database: Database, tmp_path: Path) -> None:
    """Checkpoints and proofs are of the ledger's size, although the log has more entries."""
    leaves, file, tree = fill(database, 45), LedgerFile(tmp_path / "ledger.db"), Frontier()
    for size, leaf in enumerate(leaves, 1):
        tree.append(leaf_hash(leaf))
        file.append(TENANT, [Kept(size, leaf, None)], tree, None)
        proofs = Proofs(database, file)
        assert proofs.checkpoint(TENANT) == ("chat-service/t", size, root_of(leaves[:size]))
        assert holds(proofs.inclusion(TENANT, f"chat {size}", Kind.CHAT_DELETED))
        with pytest.raises(ProofNotReadyError):
            proofs.inclusion(TENANT, f"chat {size + 1}", Kind.CHAT_DELETED)
        path, checkpoint = proofs.consistency(TENANT, size // 2)
        assert is_consistent(size // 2, root_of(leaves[: size // 2]), size, checkpoint.root, path)


def test_a_ledger_that_grows_during_a_proof_does_not_spoil_it(database: Database, tmp_path: Path) -> None:
    """A checkpoint has the root of its own size: another root would contradict earlier checkpoints."""
    leaves = fill(database, 40)

    class Growing(LedgerFile):
        size = 20

        def log(self, tenant_id: str) -> KeptLog:
            self.size += 1
            tree = Frontier()
            for leaf in leaves[: self.size]:
                tree.append(leaf_hash(leaf))
            return KeptLog(tenant_id, tree, None)

    proofs = Proofs(database, Growing(tmp_path / "ledger.db"))
    for _ in range(3):
        path, checkpoint = proofs.consistency(TENANT, 9)
        inclusion = proofs.inclusion(TENANT, "chat 7", Kind.CHAT_DELETED)
        assert is_consistent(9, root_of(leaves[:9]), checkpoint.size, checkpoint.root, path)
        assert holds(inclusion)
        for signed in (checkpoint, inclusion.checkpoint, proofs.checkpoint(TENANT)):
            assert signed.root == root_of(leaves[: signed.size])


def test_an_empty_log(database: Database) -> None:
    assert Proofs(database).checkpoint(TENANT) == ("chat-service/t", 0, root_of([]))
    with pytest.raises(UnknownSizeError):
        Proofs(database).consistency(TENANT, 1)


def test_another_tenants_entry_is_not_proved(database: Database) -> None:
    fill(database, 3)
    fill(database, 2, OTHER)
    with pytest.raises(ProofNotReadyError):
        Proofs(database).inclusion(OTHER, "chat 3", Kind.CHAT_DELETED)


def test_an_entry_that_was_changed_is_not_proved(database: Database) -> None:
    """Nothing is signed for an entry that was changed by hand."""
    fill(database, 3)
    database.log_entries.update_one({"chat_id": "chat 2"}, {"$set": {"facts.message_count": 1_000}})
    with pytest.raises(DamagedEntryError):
        Proofs(database).inclusion(TENANT, "chat 2", Kind.CHAT_DELETED)


def test_a_log_of_an_earlier_version_grows_its_tree(database: Database, monkeypatch) -> None:
    """The tree grows in batches, even if an earlier version has continued the log; then numbering continues."""
    leaves = fill(database, 70)
    fill(database, 5, OTHER)
    monkeypatch.setattr("chat_service.repository.log_tree.GROWN_AT_ONCE", 16)
    after = {"_id": {"$gt": {"tenant_id": TENANT, "seq": 21}, "$lte": {"tenant_id": TENANT, "seq": 70}}}
    database.log_entries.update_many(after, {"$unset": {"hashes": ""}})
    tree = Frontier()
    for leaf in leaves[:21]:
        tree.append(leaf_hash(leaf))
    stale = {"size": 21, "frontier": tree.hashes}
    database.log_heads.update_one({"_id": TENANT}, {"$set": {"tree": stale}})
    database.log_entries.update_many({"_id.tenant_id": OTHER}, {"$unset": {"hashes": ""}})
    database.log_heads.update_one({"_id": OTHER}, {"$unset": {"tree": ""}})
    assert Proofs(database).checkpoint(TENANT).size == 21
    number_all(database)
    assert Sequencer(database).grow_trees() == 0
    assert Proofs(database).checkpoint(TENANT).root == root_of(leaves)
    assert Proofs(database).checkpoint(OTHER).size == 5
    assert all(holds(Proofs(database).inclusion(TENANT, f"chat {seq}", Kind.CHAT_DELETED)) for seq in (1, 22, 70))
    assert Log(database).heads([TENANT]) == {TENANT: 70}
