"""How many entries of the log one process numbers a second, and how many fewer because of their tree.

    python -m benchmarks.numbering

On one mongod, pending deletes are numbered in turns with the tree's hashes, and with none computed or stored. And how
long a proof takes at the end.
"""

import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.measure import keep
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.jobs.sequencing import Sequencing
from chat_service.models import Deletion, LogEntry
from chat_service.repository.database import Database
from chat_service.repository.log import Log
from chat_service.repository.log_tree import Head
from chat_service.repository.proofs import Proofs
from chat_service.repository.receipts import to_document
from chat_service.repository.sequencer import Sequencer

ROUNDS, EVENTS = 5, 20_000
PROOFS = 1_000


def store_receipts(database: Database, tenant_id: str) -> None:
    """Store receipts that are not in the log yet; each has two events."""
    for _ in range(0, EVENTS, 2_000):
        database.deletions.insert_many([_receipt(database, tenant_id) for _ in range(1_000)])


def _receipt(database: Database, tenant_id: str) -> dict[str, Any]:
    now = database.now()
    receipt = Deletion(str(uuid.uuid4()), now, 12, "key", 12, 0, now)
    return to_document(tenant_id, receipt, uuid.uuid4().hex)


def number_all(database: Database, tenant_id: str) -> float:
    """Store receipts, number their events, and return the entries numbered per second."""
    store_receipts(database, tenant_id)
    worker = Sequencing(Sequencer(database))
    began = time.perf_counter()
    while Log(database).heads([tenant_id]).get(tenant_id, 0) < EVENTS:
        worker.run_once()
    seconds = time.perf_counter() - began
    worker.end()
    return EVENTS / seconds


@contextmanager
def no_tree() -> Iterator[None]:
    """Turn the tree off: no hash is computed or stored."""

    def add(self: Head, entry: LogEntry) -> dict[str, object]:
        self.tree.size += 1
        facts = dict(entry.event.facts)
        fields = {"kind": entry.event.kind.value, "at": entry.at, "chat_id": entry.event.chat_id, "facts": facts}
        return {"_id": {"tenant_id": self.tenant_id, "seq": entry.seq}, **fields, "actor": entry.event.actor}

    with patch.object(Head, "add", add), patch("chat_service.repository.log_tree.frontier_of", _size_only):
        yield


class _SizeOnly:
    def __init__(self, size: int) -> None:
        self.size, self.hashes = size, list[bytes]()


def _size_only(head: dict[str, int]) -> _SizeOnly:
    return _SizeOnly(head["seq"])


def prove(database: Database, tenant_id: str) -> list[float]:
    """Return the seconds that each proof took, sorted."""
    entries = Log(database).page(tenant_id, EVENTS // 2, PROOFS).entries
    proofs, times = Proofs(database), []
    for entry in entries:
        began = time.perf_counter()
        proofs.inclusion(tenant_id, entry.event.chat_id, entry.event.kind)
        times.append(time.perf_counter() - began)
    return sorted(times)


def main() -> None:
    """Run, print the figures, write the JSON."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedMongod(Path(folder)) as mongod:
        database = Database(mongod.uri)
        database.prepare()
        number_all(database, "warm")
        plain, with_tree = [], []
        for round_ in range(ROUNDS):
            with_tree.append(number_all(database, f"tree {round_}"))
            with no_tree():
                plain.append(number_all(database, f"plain {round_}"))
        proof_times = prove(database, "tree 0")
        result = {
            "entries a second": median(with_tree),
            "without a tree": median(plain),
            "ratio": median(with_tree) / median(plain),
            "a proof, ms": {
                "p50": proof_times[len(proof_times) // 2] * 1e3,
                "p99": proof_times[len(proof_times) * 99 // 100] * 1e3,
            },
        }
        for title, value in result.items():
            print(title, value, flush=True)
        keep("numbering", result)
        database.close()


if __name__ == "__main__":
    main()
