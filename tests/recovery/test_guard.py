"""What stands between a process and a database that lacks what its ledger has; and the commands about it."""

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
from tests.recovery.conftest import Backup, keep_all, kept, serve


def run(app: Flask, *arguments: str, code: int = 0) -> str:
    done = app.test_cli_runner().invoke(args=list(arguments))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def restored(app: Flask, governor: Client, database: Database, ledger: LedgerFile) -> Client:
    """A tenant whose database was set back before its delete."""
    chat_id = governor.new_chat("a")
    keep_all(app, database)
    backup = Backup(database)
    governor.send("DELETE", f"{CHATS}/{chat_id}")
    keep_all(app, database)
    backup.restore()
    serve(app, database, ledger)
    return governor


def test_a_new_database_may_be_used(governor: Client) -> None:
    assert governor.send("GET", CHATS).status_code == 200


def test_no_door_is_left_open(app: Flask, restored: Client, database: Database) -> None:
    """No repository reads or writes anything."""
    found = Repositories.of(app.extensions)
    tenant_id, chat_id = restored.access.tenant_id, "a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"
    doors: list[Any] = [
        lambda: found.chats.get(tenant_id, chat_id),
        lambda: found.deletions.delete(tenant_id, chat_id, "key"),
        found.sequencer.claim,
        lambda: found.purges.claim("worker"),
        lambda: found.erasures.claim("worker"),
        lambda: found.expired.take_some(tenant_id, 1),
        found.holds.lift_some,
        lambda: found.presence.open(tenant_id, chat_id, "one", "worker"),
        lambda: database.transaction(lambda tx: tx.now),
    ]
    for door in doors:
        with pytest.raises(LedgerBehindError):
            door()
    with pytest.raises(LedgerBehindError), database.snapshot():
        pass


def test_it_is_said_what_to_do(restored: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Once in ten seconds, and nothing of a tenant."""
    for _ in range(3):
        assert restored.send("GET", CHATS).get_json()["code"] == "ledger_behind"
    said = [record for record in caplog.records if "ledger replay" in record.getMessage()]
    assert len(said) == 1
    assert "of the logs of 1 tenants" in said[0].getMessage()
    assert restored.access.tenant_id not in caplog.text


def test_a_running_process_notices_within_a_second(
    app: Flask, governor: Client, database: Database, monkeypatch
) -> None:
    chat_id = governor.new_chat("a")
    keep_all(app, database)
    backup = Backup(database)
    governor.send("DELETE", f"{CHATS}/{chat_id}")
    keep_all(app, database)
    assert governor.send("GET", CHATS).status_code == 200
    backup.restore()
    monkeypatch.setattr("chat_service.repository.ledger.LOOK_SECONDS", 0)
    monkeypatch.setattr(kept(app), "_good_until", 0.0)
    assert governor.send("GET", CHATS).status_code == 503


def test_a_copy_that_is_not_marked_yet_is_no_restore(app: Flask, governor: Client, database: Database, ledger) -> None:
    """A worker was killed between the file and the database."""
    governor.send("DELETE", f"{CHATS}/{governor.new_chat('a')}")
    keep_all(app, database)
    database.log_position.delete_one({"_id": f"ledger {ledger.id}"})
    serve(app, database, ledger)
    assert governor.send("GET", CHATS).status_code == 200
    while kept(app).copy_some():
        pass


def test_a_log_of_the_same_length_that_says_otherwise_is_found(
    app: Flask, governor: Client, database: Database, ledger: LedgerFile
) -> None:
    governor.send("DELETE", f"{CHATS}/{governor.new_chat('a')}")
    keep_all(app, database)
    [head] = database.log_heads.find()
    other = [bytes(32) for _ in frontier_of(head).hashes]
    database.log_heads.update_one({"_id": head["_id"]}, {"$set": {"tree.frontier": other}})
    database.log_position.delete_one({"_id": f"ledger {ledger.id}"})
    serve(app, database, ledger)
    assert governor.send("GET", CHATS).status_code == 503


def test_a_ledger_that_cannot_be_read_lets_nothing_through(app: Flask, governor: Client, ledger: LedgerFile) -> None:
    ledger.path.write_bytes(b"no database" * 1_000)
    for more in ("-wal", "-shm"):
        ledger.path.with_name(ledger.path.name + more).unlink(missing_ok=True)
    kept(app)._good_until = 0.0
    assert governor.send("GET", CHATS).status_code == 503


def test_the_commands(app: Flask, restored: Client, database: Database, ledger: LedgerFile) -> None:
    assert "lacks entries of tenant" in run(app, "ledger", "status", code=1)
    lines = [json.loads(line) for line in run(app, "ledger", "export").splitlines()]
    assert [(one["kind"], one["seq"]) for one in lines] == [("chat.deleted", 1), ("chat.purged", 2)]
    assert {one["tenant_id"] for one in lines} == {restored.access.tenant_id}
    assert "Restored" not in run(app, "ledger", "replay")
    serve(app, database, ledger)
    assert "There is nothing to replay." in run(app, "ledger", "replay")
    assert "has 2 entries of 1 tenants" in run(app, "ledger", "status")
    serve(app, database, ledger)
    assert restored.send("GET", CHATS).get_json()["items"] == []


def test_without_a_ledger_they_say_so(routes: Flask, alice: Client) -> None:
    found = Repositories.of(alice.app.extensions)
    object.__setattr__(found, "ledger", None)
    assert "LEDGER_FILE is not set" in run(routes, "ledger", "status", code=1)


def test_a_full_disk_is_logged_and_passes(app: Flask, governor: Client, database, caplog, monkeypatch) -> None:
    """The job goes on; what it could not keep it keeps later."""
    caplog.set_level(logging.ERROR)
    governor.send("DELETE", f"{CHATS}/{governor.new_chat('a')}")
    job = Keeping(kept(app))
    number_all(database)
    with monkeypatch.context() as broken:
        broken.setattr("chat_service.proof.ledger_file.sqlite3.connect", _refuse)
        assert job.run_once() is None
        assert job.run_once() is None
    assert caplog.text.count("The log is not copied to the ledger. LEDGER_FILE cannot be used") <= 1
    assert job.run_once() == 2


def _refuse(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")
