"""Ties the database to its ledger (proof/ledger_file.py): a copy of all logs, without which the database is not used.

A worker copies new log entries into the file, and then saves in the database how many the file has. If the file has
more entries than the database, the database was restored from a backup: it would show chats that were deleted since.
So each process compares the two before it uses the database, and raises until a replay has brought it up to the file.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import pymongo
from pymongo import ASCENDING

from chat_service.errors import LedgerBehindError
from chat_service.models import Kind
from chat_service.proof.leaves import leaf_bytes
from chat_service.proof.ledger_file import READ_AT_ONCE, Kept, LedgerError, LedgerFile
from chat_service.proof.merkle import Frontier
from chat_service.proof.notes import Checkpoint, SigningKey, origin_of
from chat_service.repository import deadline
from chat_service.repository.complaints import Complaints
from chat_service.repository.database import Database
from chat_service.repository.keys import hold_key, log_key
from chat_service.repository.log import entry_of
from chat_service.repository.log_tree import frontier_of
from chat_service.repository.sequencer import POSITION

LOOK_SECONDS = 1.0
"""How long a successful comparison is valid."""

ASK_SECONDS = 12.0
"""The timeout of a comparison, if its caller has as much time: as for any command, an election fits in it."""

RESTORED = (
    "The database lacks what LEDGER_FILE has of the logs of {} tenants: a backup was restored. Stop the workers, run "
    "`flask --app wsgi ledger replay`, and start them again."
)

Document = dict[str, Any]


class Ledger:
    """The ledger of a database."""

    def __init__(self, database: Database, file: LedgerFile, signing_keys: Sequence[SigningKey] = ()) -> None:
        """Guard the database: it can be used only while it has all entries of the ledger."""
        self.file = file
        self._database = database
        self._signing_keys = signing_keys
        self._complaints = Complaints()
        self._good_until = 0.0
        self._copied_up_to: int | None = None
        database.guard = self._require_current

    def disable_guard(self) -> None:
        """Let this process use the database even if it is behind: for the replay, which brings it up to the ledger."""
        self._database.guard = lambda: None

    def _require_current(self) -> None:
        """Check that the database has all entries of the ledger, at most every `LOOK_SECONDS`.

        Each thread that uses the database checks for itself, under its own deadline: none waits for another.

        Raises:
            LedgerBehindError: the database lacks entries, or the file cannot be used.
            PyMongoError: the database did not answer.
        """
        now = time.monotonic()
        if now < self._good_until:
            return
        try:
            with pymongo.timeout(max(deadline.at_most(ASK_SECONDS), 0)):
                behind = self._compare()
        except LedgerError as error:
            # Without the file nobody knows whether the database is behind, so it must not be used.
            self._complaints.say([str(error)])
            raise LedgerBehindError from error
        if behind:
            self._complaints.say([RESTORED.format(len(behind))])
            raise LedgerBehindError
        self._good_until = now + LOOK_SECONDS

    def behind(self) -> list[str]:
        """Return the tenants whose logs have entries in the ledger that the database lacks.

        Raises:
            LedgerError: the file cannot be used.
        """
        with self._database.operation():
            return self._compare()

    def _compare(self) -> list[str]:
        count = self.file.count()
        mark = self._database.log_position.find_one(self._mark) or {}
        if mark.get("entries", 0) >= count:
            return []
        # The saved count may only be late: compare the logs themselves.
        heads = self._heads()
        return [
            log.tenant_id
            for log in self.file.logs()
            if not _has_all_entries(heads.get(log.tenant_id, Frontier()), log.tree)
        ]

    def _heads(self) -> dict[str, Frontier]:
        return {head["_id"]: frontier_of(head) for head in self._database.log_heads.find({}, {"tree": True})}

    def copy_some(self) -> int | None:
        """Copy the next entries of each tenant's log into the ledger; return how many, or None if there were none.

        It costs one command if no entry was numbered since; otherwise it reads the heads of all logs.

        Raises:
            LedgerError: the file cannot be written, or a log does not continue the one in the file.
            LedgerBehindError: the database was restored from a backup.
        """
        with self._database.operation():
            position = self._database.log_position.find_one(POSITION, {"entries": True}) or {}
            if position.get("entries") == self._copied_up_to:
                return None
            heads = self._heads()
        trees = {log.tenant_id: log.tree for log in self.file.logs()}
        copied = sum(self._copy(tenant_id, trees.get(tenant_id, Frontier()), head) for tenant_id, head in heads.items())
        self.save_count()
        if not copied:
            self._copied_up_to = position.get("entries")
        return copied or None

    def save_count(self) -> None:
        """Save in the database how many entries the ledger has: the database has them too."""
        count = self.file.count()
        with self._database.operation(writes=True):
            self._database.log_position.update_one(self._mark, {"$max": {"entries": count}}, upsert=True)

    @property
    def _mark(self) -> Document:
        return {"_id": f"ledger {self.file.id}"}

    def _copy(self, tenant_id: str, tree: Frontier, head: Frontier) -> int:
        """Copy the next entries of a tenant's log after those in the file's `tree`; return how many."""
        if tree.size >= head.size:
            return 0
        entries = self._read(tenant_id, tree.size, min(head.size, tree.size + READ_AT_ONCE))
        for entry in entries:
            tree.append(entry["hashes"][0])
        # At its end the log's own tree, which includes all earlier entries: the ledger's may be those of another log.
        expected = head if tree.size == head.size else tree
        kept = [self._to_kept(tenant_id, entry) for entry in entries]
        self.file.append(tenant_id, kept, expected, self._sign(tenant_id, expected))
        return len(entries)

    def _read(self, tenant_id: str, after: int, last: int) -> list[Document]:
        key_range = {"$gt": log_key(tenant_id, after), "$lte": log_key(tenant_id, last)}
        with self._database.operation():
            return list(self._database.log_entries.find({"_id": key_range}, sort=[("_id", ASCENDING)]))

    def _to_kept(self, tenant_id: str, document: Document) -> Kept:
        entry, aside = entry_of(document), None
        if entry.event.kind is Kind.HOLD_PLACED:
            with self._database.operation():
                hold = self._database.holds.find_one({"_id": hold_key(tenant_id, entry.event.chat_id)})
            aside = json.dumps({"name": hold["name"]}) if hold else None
        return Kept(entry.seq, leaf_bytes(tenant_id, entry), aside)

    def _sign(self, tenant_id: str, tree: Frontier) -> str | None:
        if not self._signing_keys:
            return None
        return self._signing_keys[0].sign(Checkpoint(origin_of(tenant_id), tree.size, tree.root()))


def _has_all_entries(head: Frontier, copy: Frontier) -> bool:
    """Return whether the database's log has all entries of the ledger's copy."""
    return head.size > copy.size or (head.size, head.hashes) == (copy.size, copy.hashes)
