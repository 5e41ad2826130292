"""The ledger's file: it appends only entries that continue its logs, and finds entries that were changed."""

import sqlite3
import threading
from pathlib import Path

import pytest

from chat_service.proof.ledger_file import READ_AT_ONCE, Kept, LedgerError, LedgerFile
from chat_service.proof.merkle import Frontier, leaf_hash
from tests.proof.logs import TENANT


def leaves(first: int, last: int) -> list[Kept]:
    return [Kept(seq, f"leaf {seq}".encode(), None) for seq in range(first, last + 1)]


def tree(size: int) -> Frontier:
    grown = Frontier()
    for kept in leaves(1, size):
        grown.append(leaf_hash(kept.leaf))
    return grown


@pytest.fixture
def ledger(tmp_path: Path) -> LedgerFile:
    return LedgerFile(tmp_path / "ledger.db")


def test_only_its_owner_can_read_it(ledger: LedgerFile) -> None:
    """The file contains names of holds, so no other user may read it."""
    ledger.append(TENANT, leaves(1, 3), tree(3), None)
    assert {file.stat().st_mode & 0o777 for file in ledger.path.parent.iterdir()} == {0o600}


def test_it_appends_the_next_entries(ledger: LedgerFile) -> None:
    ledger.append(TENANT, leaves(1, 3), tree(3), "signed")
    ledger.append(TENANT, leaves(4, 4), tree(4), None)
    again = LedgerFile(ledger.path)
    assert (again.id, again.count()) == (ledger.id, 4)
    [log] = again.logs()
    assert (log.tenant_id, log.tree.size, log.tree.root(), log.checkpoint) == (TENANT, 4, tree(4).root(), None)
    assert again.entries(TENANT, 2) == leaves(3, 4)
    assert list(again.damaged()) == []


def test_an_entry_is_stored_only_once(ledger: LedgerFile) -> None:
    """Two workers may copy the same entries."""
    ledger.append(TENANT, leaves(1, 3), tree(3), None)
    ledger.append(TENANT, leaves(1, 2), tree(2), None)
    ledger.append(TENANT, leaves(1, 5), tree(5), None)
    assert ledger.entries(TENANT, 0) == leaves(1, 5)
    assert ledger.count() == 5


@pytest.mark.parametrize("entries", [leaves(2, 3), leaves(4, 4), [Kept(1, b"other", None)]])
def test_entries_that_do_not_continue_the_log_are_refused(ledger: LedgerFile, entries: list[Kept]) -> None:
    """The file keeps none of them."""
    with pytest.raises(LedgerError, match="does not continue"):
        ledger.append(TENANT, entries, tree(entries[-1].seq), None)
    assert (ledger.count(), ledger.logs(), ledger.entries(TENANT, 0)) == (0, [], [])


def test_many_entries_are_read_in_batches(ledger: LedgerFile) -> None:
    count = READ_AT_ONCE + 5
    ledger.append(TENANT, leaves(1, count), tree(count), None)
    assert ledger.entries(TENANT, 0) == leaves(1, READ_AT_ONCE)
    assert ledger.entries(TENANT, READ_AT_ONCE) == leaves(READ_AT_ONCE + 1, count)
    assert list(ledger.damaged()) == []


def test_a_changed_entry_is_found(ledger: LedgerFile) -> None:
    ledger.append(TENANT, leaves(1, 5), tree(5), None)
    with sqlite3.connect(ledger.path) as file:
        file.execute("UPDATE entries SET leaf = ? WHERE seq = 3", (b"leaf 4",))
    file.close()
    assert list(ledger.damaged()) == [TENANT]


def test_several_writers_at_once(ledger: LedgerFile) -> None:
    """Each of them writes all entries, and the file has each entry once."""
    errors: list[Exception] = []

    def write() -> None:
        mine = LedgerFile(ledger.path)
        try:
            for last in range(1, 40):
                mine.append(TENANT, leaves(1, last), tree(last), None)
        except LedgerError as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ledger.entries(TENANT, 0) == leaves(1, 39)
    assert ledger.count() == 39


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, " * 100)
    with pytest.raises(LedgerError, match="LEDGER_FILE cannot be used"):
        LedgerFile(tmp_path / "text")
    with pytest.raises(LedgerError, match="LEDGER_FILE cannot be used"):
        LedgerFile(tmp_path / "none" / "ledger.db")
