"""The guard: no process uses a database that lacks entries of its ledger. And the ledger's commands."""

import json
import logging
import sqlite3
from typing import Any

import pytest
from flask import Flask

from chat_service.api.context import Repositories
from chat_service.errors import LedgerBehindError
from chat_service.jobs.keeping import Keeping
from chat_service.proof.ledger_file import LedgerFile
from chat_service.repository.database import Database
from chat_service.repository.log_tree import frontier_of
from tests.client import CHATS, Client
from tests.numbering import number_all
from tests.recovery.conftest import Backup, copy_all_to_ledger, ledger_of, serve


def run(app: Flask, *arguments: str, code: int = 0) -> str:
    result = app.test_cli_runner().invoke(args=list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def restored(app: Flask, governor: Client, database: Database, ledger: LedgerFile) -> Client:
    """A client whose database was set back to before its delete."""
    chat_id = governor.new_chat("a")
    copy_all_to_ledger(app, database)
    backup = Backup(database)
    governor.send("DELETE", f"{CHATS}/{chat_id}")
    copy_all_to_ledger(app, database)
    backup.restore()
    serve(app, database, ledger)
    return governor


def test_a_new_database_may_be_used(governor: Client) -> None:
    assert governor.send("GET", CHATS).status_code == 200


def test_no_door_is_left_open(app: Flask, restored: Client, database: Database) -> None:
    """No repository reads or writes anything while the database is behind the ledger."""
    repositories = Repositories.of(app.extensions)
    tenant_id, chat_id = restored.access.tenant_id, "a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"
    operations: list[Any] = [
        lambda: repositories.chats.get(tenant_id, chat_id),
        lambda: repositories.deletions.delete(tenant_id, chat_id, "key"),
        repositories.sequencer.claim,
        lambda: repositories.purges.claim("worker"),
        lambda: repositories.erasures.claim("worker"),
        lambda: repositories.expired.take_some(tenant_id, 1),
        repositories.holds.lift_some,
        lambda: repositories.presence.open(tenant_id, chat_id, "one", "worker"),
        lambda: database.transaction(lambda tx: tx.now),
    ]
    for operation in operations:
        with pytest.raises(LedgerBehindError):
            operation()
    with pytest.raises(LedgerBehindError), database.snapshot():
        pass


def test_it_is_said_what_to_do(restored: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The log says it once in ten seconds, and names no tenant."""
    for _ in range(3):
        assert restored.send("GET", CHATS).get_json()["code"] == "ledger_behind"
    records = [record for record in caplog.records if "ledger replay" in record.getMessage()]
    assert len(records) == 1
    assert "of the logs of 1 tenants" in records[0].getMessage()
    assert restored.access.tenant_id not in caplog.text


def test_a_running_process_notices_within_a_second(
    app: Flask, governor: Client, database: Database, monkeypatch
) -> None:
    chat_id = governor.new_chat("a")
    copy_all_to_ledger(app, database)
    backup = Backup(database)
    governor.send("DELETE", f"{CHATS}/{chat_id}")
    copy_all_to_ledger(app, database)
    assert governor.send("GET", CHATS).status_code == 200
    backup.restore()
    monkeypatch.setattr("chat_service.repository.ledger.LOOK_SECONDS", 0)
    monkeypatch.setattr(ledger_of(app), "_good_until", 0.0)
    assert governor.send("GET", CHATS).status_code == 503


def test_a_copy_that_is_not_marked_yet_is_no_restore(app: Flask, governor: Client, database: Database, ledger) -> None:
    """A worker was killed after its write to the ledger's file and before its write to the database."""
    governor.send("DELETE", f"{CHATS}/{governor.new_chat('a')}")
    copy_all_to_ledger(app, database)
    database.log_position.delete_one({"_id": f"ledger {ledger.id}"})
    serve(app, database, ledger)
    assert governor.send("GET", CHATS).status_code == 200
    while ledger_of(app).copy_some():
        pass


def test_a_log_of_the_same_length_that_says_otherwise_is_found(
    app: Flask, governor: Client, database: Database, ledger: LedgerFile
) -> None:
    governor.send("DELETE", f"{CHATS}/{governor.new_chat('a')}")
    copy_all_to_ledger(app, database)
    [head] = database.log_heads.find()
    other_hashes = [bytes(32) for _ in frontier_of(head).hashes]
    database.log_heads.update_one({"_id": head["_id"]}, {"$set": {"tree.frontier": other_hashes}})
    database.log_position.delete_one({"_id": f"ledger {ledger.id}"})
    serve(app, database, ledger)
    assert governor.send("GET", CHATS).status_code == 503


def test_a_ledger_that_cannot_be_read_lets_nothing_through(app: Flask, governor: Client, ledger: LedgerFile) -> None:
    ledger.path.write_bytes(b"no database" * 1_000)
    for suffix in ("-wal", "-shm"):
        ledger.path.with_name(ledger.path.name + suffix).unlink(missing_ok=True)
    ledger_of(app)._good_until = 0.0
    assert governor.send("GET", CHATS).status_code == 503


def test_the_commands(app: Flask, restored: Client, database: Database, ledger: LedgerFile) -> None:
    assert "lacks entries of tenant" in run(app, "ledger", "status", code=1)
    entries = [json.loads(line) for line in run(app, "ledger", "export").splitlines()]
    assert [(entry["kind"], entry["seq"]) for entry in entries] == [("chat.deleted", 1), ("chat.purged", 2)]
    assert {entry["tenant_id"] for entry in entries} == {restored.access.tenant_id}
    assert "Restored" not in run(app, "ledger", "replay")
    serve(app, database, ledger)
    assert "There is nothing to replay." in run(app, "ledger", "replay")
    assert "has 2 entries of 1 tenants" in run(app, "ledger", "status")
    serve(app, database, ledger)
    assert restored.send("GET", CHATS).get_json()["items"] == []


def test_without_a_ledger_they_say_so(routes: Flask, alice: Client) -> None:
    repositories = Repositories.of(alice.app.extensions)
    object.__setattr__(repositories, "ledger", None)
    assert "LEDGER_FILE is not set" in run(routes, "ledger", "status", code=1)


def test_a_full_disk_is_logged_and_passes(app: Flask, governor: Client, database, caplog, monkeypatch) -> None:
    """The job goes on, and copies later what it could not copy."""
    caplog.set_level(logging.ERROR)
    governor.send("DELETE", f"{CHATS}/{governor.new_chat('a')}")
    job = Keeping(ledger_of(app))
    number_all(database)
    with monkeypatch.context() as patch:
        patch.setattr("chat_service.proof.ledger_file.sqlite3.connect", _refuse)
        assert job.run_once() is None
        assert job.run_once() is None
    assert caplog.text.count("The log is not copied to the ledger. LEDGER_FILE cannot be used") <= 1
    assert job.run_once() == 2


def _refuse(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")
