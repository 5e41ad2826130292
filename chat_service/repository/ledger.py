"""What ties the database to its ledger (proof/ledger_file.py): the log is kept there, and nothing is done without it.

A worker copies what is in the log into the file, and then writes down in the database how far that is. A database of
which the file has more is one that was restored from a backup: it would show what was deleted since. So each process
looks before it uses the database, and goes on only when a replay has brought it up to the file.
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
"""Between two looks whether the database is still the one that it was."""

ASK_SECONDS = 12.0
"""For such a look, if its caller has as much: as for any command, an election fits in it."""

RESTORED = (
    "The database lacks what LEDGER_FILE has of the logs of {} tenants: a backup was restored. Stop the workers, run "
    "`flask --app wsgi ledger replay`, and start them again."
)

Document = dict[str, Any]


class Ledger:
    """The ledger of a database."""

    def __init__(self, database: Database, file: LedgerFile, signing_keys: Sequence[SigningKey] = ()) -> None:
        """Let the database be used only while it has what the ledger has."""
        self.file = file
        self._database = database
        self._signing_keys = signing_keys
        self._complaints = Complaints()
        self._good_until = 0.0
        self._kept_up_to: int | None = None
        database.guard = self._require_current

    def lift(self) -> None:
        """Let this process use the database all the same: it is going to bring it up to the ledger."""
        self._database.guard = lambda: None

    def _require_current(self) -> None:
        """Look at most every `LOOK_SECONDS` whether the database has what the ledger has.

        Under the deadline of whoever uses the database, and in each of the threads that do: none waits for another.

        Raises:
            LedgerBehindError: it does not, or the file cannot be used.
            PyMongoError: the database could not be asked.
        """
        now = time.monotonic()
        if now < self._good_until:
            return
        try:
            with pymongo.timeout(max(deadline.at_most(ASK_SECONDS), 0)):
                behind = self._compare()
        except LedgerError as error:
            # Not to know is no leave to go on.
            self._complaints.say([str(error)])
            raise LedgerBehindError from error
        if behind:
            self._complaints.say([RESTORED.format(len(behind))])
            raise LedgerBehindError
        self._good_until = now + LOOK_SECONDS

    def behind(self) -> list[str]:
        """Return the tenants of whose log the database lacks what the ledger has.

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
        # It may only not have been written down yet.
        heads = self._heads()
        return [
            kept.tenant_id
            for kept in self.file.logs()
            if not _goes_on(heads.get(kept.tenant_id, Frontier()), kept.tree)
        ]

    def _heads(self) -> dict[str, Frontier]:
        return {head["_id"]: frontier_of(head) for head in self._database.log_heads.find({}, {"tree": True})}

    def keep_some(self) -> int | None:
        """Copy what comes next of each tenant's log into the ledger, and return how many entries; None if none.

        While nothing was numbered it costs one command, and else it looks where each log ends.

        Raises:
            LedgerError: the file cannot be written, or a log does not go on from it.
            LedgerBehindError: the database was restored.
        """
        with self._database.operation():
            position = self._database.log_position.find_one(POSITION, {"entries": True}) or {}
            if position.get("entries") == self._kept_up_to:
                return None
            heads = self._heads()
        trees = {log.tenant_id: log.tree for log in self.file.logs()}
        kept = sum(self._keep(tenant_id, trees.get(tenant_id, Frontier()), head) for tenant_id, head in heads.items())
        self.write_down()
        if not kept:
            self._kept_up_to = position.get("entries")
        return kept or None

    def write_down(self) -> None:
        """Write down in the database that it has what the ledger has."""
        count = self.file.count()
        with self._database.operation(writes=True):
            self._database.log_position.update_one(self._mark, {"$max": {"entries": count}}, upsert=True)

    @property
    def _mark(self) -> Document:
        return {"_id": f"ledger {self.file.id}"}

    def _keep(self, tenant_id: str, tree: Frontier, head: Frontier) -> int:
        """Copy the next entries of a tenant's log, of which the file has `tree`, and return how many."""
        if tree.size >= head.size:
            return 0
        entries = self._read(tenant_id, tree.size, min(head.size, tree.size + READ_AT_ONCE))
        for one in entries:
            tree.append(one["hashes"][0])
        # At its end the log's own tree, which knows what came before; else what the ledger has may be another log's.
        expected = head if tree.size == head.size else tree
        kept = [self._to_kept(tenant_id, one) for one in entries]
        self.file.append(tenant_id, kept, expected, self._sign(tenant_id, expected))
        return len(entries)

    def _read(self, tenant_id: str, after: int, last: int) -> list[Document]:
        stretch = {"$gt": log_key(tenant_id, after), "$lte": log_key(tenant_id, last)}
        with self._database.operation():
            return list(self._database.log_entries.find({"_id": stretch}, sort=[("_id", ASCENDING)]))

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


def _goes_on(head: Frontier, kept: Frontier) -> bool:
    """Tell whether the database has a log as far as the ledger has it."""
    return head.size > kept.size or (head.size, head.hashes) == (kept.size, kept.hashes)
