"""A log in memory, proofs of it, and tampering with them."""

import random
from datetime import UTC, datetime

from chat_service.models import Event, Kind, LogEntry
from chat_service.proof.leaves import leaf_bytes
from chat_service.proof.merkle import Frontier, Node, consistency_path, hashes_of, inclusion_path, leaf_hash
from chat_service.proof.notes import (
    Checkpoint,
    Proof,
    SigningKey,
    VerifierKey,
    consistency_text,
    origin_of,
    proof_text,
)

TENANT = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
OTHER = "00000000-0000-4000-8000-000000000001"
AT = datetime(2026, 11, 27, 20, 15, 0, 123000, UTC)
ENTRIES = 21
KEY = SigningKey("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")


def chat(number: int) -> str:
    return f"a1b2c3d4-e5f6-4a7b-8c9d-{number:012x}"


def entry(seq: int) -> LogEntry:
    kind = Kind.CHAT_PURGED if seq % 5 == 0 else Kind.CHAT_DELETED
    return LogEntry(seq, AT, Event(kind, chat(seq), "0123456789ab", {"message_count": 1_200 + seq}))


class Log:
    """A log with all tree nodes, from which it makes proofs."""

    def __init__(self, tenant_id: str = TENANT, key: SigningKey = KEY, leaves_of: str | None = None) -> None:
        self.tenant_id, self.key = tenant_id, key
        self.leaves = [leaf_bytes(leaves_of or tenant_id, entry(seq)) for seq in range(1, ENTRIES + 1)]
        self.nodes: dict[Node, bytes] = {}
        self.roots: list[bytes] = []
        tree = Frontier()
        self.roots.append(tree.root())
        for number, leaf in enumerate(self.leaves):
            for level, subtree_hash in enumerate(tree.append(leaf_hash(leaf))):
                self.nodes[Node(level, number >> level)] = subtree_hash
            self.roots.append(tree.root())

    @property
    def verifier(self) -> VerifierKey:
        return self.key.verifier(origin_of(self.tenant_id))

    def note(self, size: int = ENTRIES) -> str:
        return self.key.sign(Checkpoint(origin_of(self.tenant_id), size, self.roots[size]))

    def proof(self, seq: int, size: int = ENTRIES) -> str:
        path = hashes_of(inclusion_path(seq - 1, size), self.nodes.__getitem__)
        return proof_text(Proof(self.leaves[seq - 1], seq - 1, path, self.note(size)))

    def growth(self, old: int, new: int = ENTRIES) -> str:
        path = hashes_of(consistency_path(old, new) if old < new else [], self.nodes.__getitem__)
        return consistency_text(old, path, self.note(new))


def tampered(text: str, dice: random.Random) -> bytes:
    """Return the proof with a byte changed, removed or inserted, with lines swapped, or with its end cut off."""
    data = bytearray(text.encode())
    index = dice.randrange(len(data))
    match dice.randrange(5):
        case 0:
            data[index] ^= 1 << dice.randrange(8)
        case 1:
            del data[index]
        case 2:
            data.insert(index, dice.choice(b"A=+/ \n09"))
        case 3:
            lines = bytes(data).split(b"\n")
            first, second = dice.sample(range(len(lines)), 2)
            lines[first], lines[second] = lines[second], lines[first]
            data = bytearray(b"\n".join(lines))
        case _:
            data = data[:index]
    return bytes(data) if bytes(data) != text.encode() else tampered(text, dice)
