"""A tenant leaves: all its data is exported, then deleted with a proof, and stays deleted after a restore."""

import json
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from chat_service.api.context import Repositories
from chat_service.jobs.purge import PurgeWorker
from chat_service.jobs.turns import RemovingTenants
from chat_service.proof.ledger_file import LedgerFile
from chat_service.proof.notes import SigningKey, origin_of
from chat_service.proof.verify import sentence, verify
from chat_service.repository import tenant_deletions
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.exports import Exports
from chat_service.repository.keys import chat_key, message_key
from tests.client import CHATS, Client
from tests.numbering import number_all
from tests.recovery.conftest import INLINE_LIMIT, KEY, Backup, copy_all_to_ledger, serve
from tests.recovery.test_replay import finish, let_lease_end, replay, send

KEPT = {"outbox", "tenants", "deletions", "completions", "log_entries", "log_heads", "idempotency"}
"""Collections that may still name a deleted tenant: as proof, until the log has it, or until the document expires."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for other processes: there are none that may not know of the deletion yet."""
    monkeypatch.setattr(tenant_deletions, "STOPPED_AFTER", timedelta())


@pytest.fixture
def leaving(governor: Client) -> Client:
    """A client whose tenant has chats in every state, and everything that a tenant can set up."""
    governor.new_chat("live", "more")
    governor.new_chat(*["x"] * (INLINE_LIMIT * 3))
    trashed = governor.new_chat("trashed")
    send(governor, "POST", f"chats/{trashed}/trash", keep_days=5)
    deleted = governor.new_chat("deleted before")
    send(governor, "DELETE", f"chats/{deleted}")
    send(governor, "POST", "erasures", 202, sender_id="somebody", mode="redact")
    hold_id = send(governor, "POST", "holds", 201, name="over", chat_ids=[trashed])["id"]
    send(governor, "POST", f"holds/{hold_id}/release")
    return governor


def run(app: Flask, *command: str, code: int = 0) -> Result:
    result = app.test_cli_runner().invoke(args=("tenants", *command))
    assert result.exit_code == code, result.output
    return result


def delete(app: Flask, client: Client, code: int = 0) -> str:
    tenant_id = client.access.tenant_id
    name = Repositories.of(app.extensions).tenants.get(tenant_id).name
    return run(app, "delete", tenant_id, "--name", name or "-", code=code).output


def let_held_chats_rest(database: Database) -> None:
    """Let the day pass after which a job may delete chats that were held."""
    for collection, prefix in (database.chats, ""), (database.trash, "chat."):
        collection.update_many({}, {"$unset": {f"{prefix}hold_released_at": ""}, "$set": {f"{prefix}holds": []}})


def work(app: Flask, database: Database) -> None:
    repositories = Repositories.of(app.extensions)
    database.rules._tenants.clear()
    purges, tenants = PurgeWorker(repositories.purges), RemovingTenants(repositories.tenant_deletions)
    for _ in range(2):  # until the chats are gone, and then the tenant
        for _ in range(8):
            tenants.run_once()
        finish(purges)
        tenants.run_once()
        number_all(database)
    tenants.run_once()


def collections_naming(database: Database, tenant_id: str) -> set[str]:
    return {
        name
        for name, collection in database.collections.items()
        if any(tenant_id in str(document) for document in collection.find())
    }


def test_nothing_is_left_but_the_proof(app: Flask, leaving: Client, new_tenant, database: Database) -> None:
    tenant_id, other = leaving.access.tenant_id, Client(app, new_tenant())
    other_chat = other.new_chat("not theirs")
    assert "being deleted" not in run(app, "list").output
    assert "Being deleted: 3 chats left" in delete(app, leaving)
    assert "(being deleted)" in run(app, "list").output
    Repositories.of(app.extensions).keys._callers.clear()  # as when the cached keys end after 5 s
    assert leaving.send("GET", CHATS).status_code == 401
    run(app, "proof", tenant_id, code=1)
    let_held_chats_rest(database)
    work(app, database)
    assert "Deleted at 20" in delete(app, leaving)
    assert "(deleted 20" in run(app, "list").output
    assert collections_naming(database, tenant_id) <= KEPT
    assert database.tenants.find_one({"_id": tenant_id})["name"] == ""
    assert other.send("GET", f"{CHATS}/{other_chat}/messages").get_json()["items"][0]["content"] == "not theirs"
    copy_all_to_ledger(app, database)
    proof = verify(run(app, "proof", tenant_id).stdout.encode(), [SigningKey(KEY).verifier(origin_of(tenant_id))])
    entry = {name: proof.entry[name] for name in ("kind", "chat_count", "message_count", "actor", "covers", "seq")}
    last = proof.checkpoint.size
    counts = {"chat_count": 3, "message_count": INLINE_LIMIT * 3 + 3}
    assert entry == {
        "kind": "tenant.deleted",
        **counts,
        "actor": "operator",
        "covers": ["api", "collection"],
        "seq": last,
    }
    assert "The tenant was deleted with 3 chats and their 153 messages" in sentence(proof)
    with pytest.raises(LookupError):
        Repositories.of(app.extensions).keys.create(tenant_id, "", [])


def test_another_name_deletes_nothing(app: Flask, leaving: Client) -> None:
    assert "has another name" in run(app, "delete", leaving.access.tenant_id, "--name", "x", code=1).output
    assert "There is no tenant" in run(app, "delete", "nobody", "--name", "x", code=1).output
    assert leaving.send("GET", CHATS).status_code == 200


def test_a_hold_wins(app: Flask, leaving: Client, database: Database) -> None:
    """A hold refuses the deletion; a hold that is placed afterwards keeps its chat, and so the tenant."""
    held = leaving.new_chat("evidence")
    hold = {"name": "the case", "chat_ids": [held]}
    first_id = send(leaving, "POST", "holds", 201, **hold)["id"]
    assert first_id in delete(app, leaving, code=1)
    assert leaving.send("GET", CHATS).status_code == 200
    send(leaving, "POST", f"holds/{first_id}/release")
    delete(app, leaving)
    holds = Repositories.of(app.extensions).holds
    second = holds.place(leaving.access.tenant_id, "in time", [held], "operator")
    released = {"$set": {"holds": []}, "$unset": {"hold_released_at": ""}}
    database.chats.update_many({"_id": {"$ne": chat_key(leaving.access.tenant_id, held)}}, released)
    database.trash.update_many({}, {"$set": {"chat.holds": []}, "$unset": {"chat.hold_released_at": ""}})
    work(app, database)
    assert "1 chat left" in delete(app, leaving)
    assert [chat["_id"]["chat_id"] for chat in database.chats.find()] == [held]
    holds.release(leaving.access.tenant_id, second.id, "operator")
    Chats(database).create(leaving.access.tenant_id, None, {})
    work(app, database)
    assert [chat["_id"]["chat_id"] for chat in database.chats.find()] == [held], "not before it has rested"
    let_held_chats_rest(database)
    work(app, database)
    assert "Deleted at 20" in delete(app, leaving)


def test_a_message_of_no_chat_keeps_it_until_somebody_has_looked(
    app: Flask, leaving: Client, database: Database
) -> None:
    """The service signs that nothing is left, so it must not miss a message whose chat does not exist."""
    tenant_id = leaving.access.tenant_id
    database.messages.insert_one({"_id": message_key(tenant_id, str(uuid.uuid4()), 1), "content": "lost"})
    delete(app, leaving)
    let_held_chats_rest(database)
    work(app, database)
    assert "Being deleted: 0 chats left" in delete(app, leaving)
    list(Checks(database).run(repair=True))
    work(app, database)
    assert "Deleted at 20" in delete(app, leaving)


def test_any_number_of_workers_end_it_once(app: Flask, leaving: Client, database: Database) -> None:
    delete(app, leaving)
    let_held_chats_rest(database)
    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(work, app, database) for _ in range(4)]:
            future.result()
    copy_all_to_ledger(app, database)
    kinds = [entry["kind"] for entry in database.log_entries.find({"_id.tenant_id": leaving.access.tenant_id})]
    assert kinds.count("tenant.deleted") == 1
    assert kinds.count("chat.deleted") == 4


def test_a_restored_backup_does_not_bring_it_back(
    app: Flask, leaving: Client, database: Database, ledger: LedgerFile
) -> None:
    copy_all_to_ledger(app, database)
    backup = Backup(database)
    delete(app, leaving)
    let_held_chats_rest(database)
    work(app, database)
    copy_all_to_ledger(app, database)
    before = [(entry["kind"], entry["chat_id"]) for entry in database.log_entries.find(sort=[("_id", 1)])]
    backup.restore()
    serve(app, database, ledger)
    let_lease_end(database)
    replay(app, database)
    assert leaving.send("GET", CHATS).status_code == 401
    let_held_chats_rest(database)
    work(app, database)
    assert collections_naming(database, leaving.access.tenant_id) <= KEPT
    copy_all_to_ledger(app, database)
    assert database.log_entries.count_documents({"kind": "tenant.deleted"}) == 1
    after = [(entry["kind"], entry["chat_id"]) for entry in database.log_entries.find(sort=[("_id", 1)])]
    assert after[: len(before)] == before
    assert {kind for kind, _ in after[len(before) :]} <= {"chat.purged"}, "the purge is done again"


class TestExport:
    def test_every_chat_comes_back_in_from_it(self, app: Flask, leaving: Client, new_tenant, tmp_path: Path) -> None:
        leaving.send("PATCH", f"{CHATS}/{leaving.new_chat('titled')}", json={"title": "Grüße"})
        file, other_tenant = tmp_path / "all.zip", Client(app, new_tenant())
        assert "3 chats, 1 more in the trash" in run(app, "export", leaving.access.tenant_id, str(file)).output
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            for name in names:
                if name.endswith(".ndjson") and name != "log.ndjson":
                    data = archive.read(name)
                    body = {"data": data, "headers": {"Content-Type": "application/x-ndjson"}}
                    chat = other_tenant.send("POST", f"{CHATS}/import", **body).get_json()
                    assert chat["message_count"] == len(data.splitlines()) - 2
            assert json.loads(archive.read("tenant.json"))["tenant_id"] == leaving.access.tenant_id
            assert [json.loads(line)["seq"] for line in archive.read("log.ndjson").splitlines()] == []
        assert sorted(name.split("/")[0] for name in names) == [*["chats"] * 3, "log.ndjson", "tenant.json", "trash"]

    def test_the_log_is_in_it(self, app: Flask, leaving: Client, database: Database, tmp_path: Path) -> None:
        copy_all_to_ledger(app, database)
        run(app, "export", leaving.access.tenant_id, str(tmp_path / "all.zip"))
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            lines = [json.loads(line) for line in archive.read("log.ndjson").splitlines()]
        assert lines == leaving.send("GET", "/api/v1/log?limit=1000").get_json()["items"]

    def test_one_that_is_deleted_meanwhile_is_not_in_it(
        self, app: Flask, leaving: Client, database: Database, tmp_path: Path, monkeypatch
    ) -> None:
        """The export has it neither whole nor in part."""
        large = next(chat["_id"]["chat_id"] for chat in database.chats.find({"message_count": INLINE_LIMIT * 3}))
        fetch: Callable[..., object] = Exports._later

        def delete_first(self: Exports, *args: object) -> object:
            Deletions(database).delete(leaving.access.tenant_id, large, "key")
            return fetch(self, *args)

        monkeypatch.setattr("chat_service.repository.exports.FIRST_BYTES", 1)
        monkeypatch.setattr("chat_service.repository.exports.GROWTH", 1)
        monkeypatch.setattr(Exports, "_later", delete_first)
        assert (
            "1 chat, 1 more in the trash"
            in run(app, "export", leaving.access.tenant_id, str(tmp_path / "z.zip")).output
        )
        with zipfile.ZipFile(tmp_path / "z.zip") as archive:
            assert f"chats/{large}.ndjson" not in archive.namelist()

    def test_no_file_is_left_of_one_that_failed(self, app: Flask, leaving: Client, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(Exports, "_fetch", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            app.test_cli_runner().invoke(
                args=("tenants", "export", leaving.access.tenant_id, str(tmp_path / "z.zip")), catch_exceptions=False
            )
        assert list(tmp_path.glob("z*")) == []
