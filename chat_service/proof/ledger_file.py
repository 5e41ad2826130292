"""The ledger: a copy of the logs outside the database, in one SQLite file, so that a restored backup cannot forget.

It keeps each entry as the bytes that are the leaf of the tree, and the tree of each log as far as it has it. So it
takes nothing that does not go on from what it has, and anybody can check the whole of it with nothing but the file.
"""

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from chat_service.proof.merkle import HASH_BYTES, Frontier, leaf_hash

BUSY_SECONDS = 5.0
"""To wait for another process that writes."""

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
    """An entry as the ledger has it."""

    seq: int
    leaf: bytes
    aside: str | None
    """What a replay needs beside the entry, in JSON: the name of a hold, which no log has."""


class KeptLog(NamedTuple):
    """How far the ledger has the log of a tenant."""

    tenant_id: str
    tree: Frontier
    checkpoint: str | None
    """The last one, signed, if there was a key."""


class LedgerFile:
    """One file. Any number of processes may use it at once."""

    def __init__(self, path: Path) -> None:
        """Use the file, which is made when it is missing.

        Raises:
            LedgerError: it cannot be used.
        """
        self.path = path
        with suppress(OSError):  # which SQLite says better
            path.touch(0o600)
        with self._open() as file:
            file.executescript(f"PRAGMA journal_mode = WAL; {_SCHEMA}")
            made = {"id": uuid.uuid4().hex, "entries": 0}
            file.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", made.items())
            self.id = str(file.execute("SELECT value FROM about WHERE name = 'id'").fetchone()[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Give a connection, in one transaction that is on the disk when the block has ended.

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
        """Return how many entries it has, of all tenants."""
        with self._open() as file:
            return int(file.execute("SELECT value FROM about WHERE name = 'entries'").fetchone()[0])

    def logs(self) -> list[KeptLog]:
        """Return how far it has each log."""
        with self._open() as file:
            return [_to_log(row) for row in file.execute("SELECT * FROM logs ORDER BY tenant_id")]

    def log(self, tenant_id: str) -> KeptLog:
        """Return how far it has a tenant's log, not at all also."""
        with self._open() as file:
            return _find_log(file, tenant_id)

    def entries(self, tenant_id: str, after: int) -> list[Kept]:
        """Return the next `READ_AT_ONCE` entries of a tenant after one, in their order."""
        query = "SELECT seq, leaf, aside FROM entries WHERE tenant_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        with self._open() as file:
            return [Kept(*row) for row in file.execute(query, (tenant_id, after, READ_AT_ONCE))]

    def append(self, tenant_id: str, entries: Sequence[Kept], expected: Frontier, checkpoint: str | None) -> None:
        """Add the entries that come next in a tenant's log; the tree is then `expected`. Others may have added some.

        Raises:
            LedgerError: the log does not go on from what the ledger has, or the file cannot be written.
        """
        with self._open() as file:
            file.execute("BEGIN IMMEDIATE")
            tree = _find_log(file, tenant_id).tree
            if tree.size >= expected.size:
                return
            new = [one for one in entries if one.seq > tree.size]
            for one in new:
                tree.append(leaf_hash(one.leaf))
            if (tree.size, tree.hashes) != (expected.size, expected.hashes):
                raise LedgerError(
                    f"The log of tenant {tenant_id} does not go on from what LEDGER_FILE has of it: the database was "
                    "changed by hand, or went on after a restore without a replay. See docs/operations.md."
                )
            rows = [(tenant_id, *one) for one in new]
            file.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
            row = (tenant_id, tree.size, b"".join(tree.hashes), checkpoint)
            file.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?)", row)
            file.execute("UPDATE about SET value = value + ? WHERE name = 'entries'", (len(new),))

    def damaged(self) -> Iterator[str]:
        """Look through the whole file, and give each tenant whose entries are not what their tree says."""
        for kept in self.logs():
            tree = Frontier()
            while rows := self.entries(kept.tenant_id, tree.size):
                for one in rows:
                    tree.append(leaf_hash(one.leaf))
            if (tree.size, tree.hashes) != (kept.tree.size, kept.tree.hashes):
                yield kept.tenant_id


def _find_log(file: sqlite3.Connection, tenant_id: str) -> KeptLog:
    found = file.execute("SELECT * FROM logs WHERE tenant_id = ?", (tenant_id,)).fetchone()
    return KeptLog(tenant_id, Frontier(), None) if found is None else _to_log(found)


def _to_log(row: tuple[str, int, bytes, str | None]) -> KeptLog:
    tenant_id, size, hashes, checkpoint = row
    frontier = [hashes[place : place + HASH_BYTES] for place in range(0, len(hashes), HASH_BYTES)]
    return KeptLog(tenant_id, Frontier(size, frontier), checkpoint)
