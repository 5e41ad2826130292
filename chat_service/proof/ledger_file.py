"""The ledger: a copy of the logs outside the database, in one SQLite file. It has what a restored backup lacks.

It stores each entry as the bytes of its leaf in the tree, and for each log the frontier of its tree. Therefore it
accepts only entries that continue the log that it has, and anybody can check all of it with nothing but the file.
"""

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from chat_service.proof.merkle import HASH_BYTES, Frontier, leaf_hash

BUSY_SECONDS = 5.0
"""How long to wait while another process writes."""

READ_AT_ONCE = 1_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logs (
    tenant_id TEXT PRIMARY KEY, size INTEGER, frontier BLOB, checkpoint TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    tenant_id TEXT, seq INTEGER, leaf BLOB, aside TEXT, PRIMARY KEY (tenant_id, seq)
) WITHOUT ROWID;
"""


class LedgerError(Exception):
    """The ledger cannot be used; the text says why, and what to do."""


class Kept(NamedTuple):
    """An entry as the ledger stores it."""

    seq: int
    leaf: bytes
    aside: str | None
    """What a replay needs beside the entry, in JSON: the name of a hold, which is not in the log."""


class KeptLog(NamedTuple):
    """How far the ledger has the log of a tenant."""

    tenant_id: str
    tree: Frontier
    checkpoint: str | None
    """The latest signed checkpoint; None if there was no signing key."""


class LedgerFile:
    """One file. Any number of processes may use it at once."""

    def __init__(self, path: Path) -> None:
        """Open the file, which is made if it is missing.

        Raises:
            LedgerError: it cannot be used.
        """
        self.path = path
        with suppress(OSError):  # SQLite reports it below, with a better message
            path.touch(0o600)
        with self._open() as file:
            file.executescript(f"PRAGMA journal_mode = WAL; {_SCHEMA}")
            defaults = {"id": uuid.uuid4().hex, "entries": 0}
            file.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", defaults.items())
            self.id = str(file.execute("SELECT value FROM about WHERE name = 'id'").fetchone()[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Give a connection in one transaction, which is on the disk when the block has ended.

        Raises:
            LedgerError: the file cannot be used.
        """
        try:
            file = sqlite3.connect(self.path, timeout=BUSY_SECONDS)
            try:
                file.execute("PRAGMA synchronous = FULL")
                with file:
                    yield file
            finally:
                file.close()
        except sqlite3.Error as error:
            raise LedgerError(f"LEDGER_FILE cannot be used: {error}.") from error

    def count(self) -> int:
        """Return how many entries the ledger has, of all tenants."""
        with self._open() as file:
            return int(file.execute("SELECT value FROM about WHERE name = 'entries'").fetchone()[0])

    def logs(self) -> list[KeptLog]:
        """Return how far the ledger has each log."""
        with self._open() as file:
            return [_to_log(row) for row in file.execute("SELECT * FROM logs ORDER BY tenant_id")]

    def log(self, tenant_id: str) -> KeptLog:
        """Return how far the ledger has a tenant's log; an empty tree if it has none of it."""
        with self._open() as file:
            return _find_log(file, tenant_id)

    def entries(self, tenant_id: str, after: int) -> list[Kept]:
        """Return a tenant's entries after the seq `after`, in their order, at most `READ_AT_ONCE` of them."""
        query = "SELECT seq, leaf, aside FROM entries WHERE tenant_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        with self._open() as file:
            return [Kept(*row) for row in file.execute(query, (tenant_id, after, READ_AT_ONCE))]

    def append(self, tenant_id: str, entries: Sequence[Kept], expected: Frontier, checkpoint: str | None) -> None:
        """Append a tenant's next entries, whose tree must then be `expected`; skip those that are there already.

        Raises:
            LedgerError: the log does not go on from what the ledger has, or the file cannot be written.
        """
        with self._open() as file:
            file.execute("BEGIN IMMEDIATE")
            tree = _find_log(file, tenant_id).tree
            if tree.size >= expected.size:
                return
            new = [entry for entry in entries if entry.seq > tree.size]
            for entry in new:
                tree.append(leaf_hash(entry.leaf))
            if (tree.size, tree.hashes) != (expected.size, expected.hashes):
                raise LedgerError(
                    f"The log of tenant {tenant_id} does not continue what LEDGER_FILE has of it: the database was "
                    "changed by hand, or used after a restore without a replay. See docs/operations.md."
                )
            rows = [(tenant_id, *entry) for entry in new]
            file.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
            row = (tenant_id, tree.size, b"".join(tree.hashes), checkpoint)
            file.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?)", row)
            file.execute("UPDATE about SET value = value + ? WHERE name = 'entries'", (len(new),))

    def damaged(self) -> Iterator[str]:
        """Read the whole file, and yield each tenant whose entries do not have the hashes of their tree."""
        for log in self.logs():
            tree = Frontier()
            while entries := self.entries(log.tenant_id, tree.size):
                for entry in entries:
                    tree.append(leaf_hash(entry.leaf))
            if (tree.size, tree.hashes) != (log.tree.size, log.tree.hashes):
                yield log.tenant_id


def _find_log(file: sqlite3.Connection, tenant_id: str) -> KeptLog:
    row = file.execute("SELECT * FROM logs WHERE tenant_id = ?", (tenant_id,)).fetchone()
    return KeptLog(tenant_id, Frontier(), None) if row is None else _to_log(row)


def _to_log(row: tuple[str, int, bytes, str | None]) -> KeptLog:
    tenant_id, size, hashes, checkpoint = row
    frontier = [hashes[place : place + HASH_BYTES] for place in range(0, len(hashes), HASH_BYTES)]
    return KeptLog(tenant_id, Frontier(size, frontier), checkpoint)
