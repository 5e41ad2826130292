"""The commands that an operator runs from a shell."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from chat_service.app import create_app
from chat_service.embedded.process import free_port
from chat_service.proof.notes import SigningKey
from chat_service.repository.database import REACH_SECONDS, Database
from chat_service.repository.keys import webhook_key
from chat_service.repository.sealing import is_key, new_key
from chat_service.settings import Settings
from tests.client import CHATS, Client, TenantAccess
from tests.numbering import numbering


def run(app: Flask, *command: str, code: int = 0) -> Result:
    result = app.test_cli_runner().invoke(args=command)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def tenant_id(app: Flask) -> str:
    return run(app, "tenants", "create", "A customer").stdout.strip()


def test_a_tenant_with_a_key_can_call(app: Flask, tenant_id: str) -> None:
    """From nothing to the first request. The key is on a line of its own, so that it can be piped."""
    made = run(app, "keys", "create", tenant_id, "--label", "first", "--scope", "read")
    key = made.stdout.strip()
    assert re.fullmatch(r"chat_[A-Za-z0-9_-]{43}", key)
    client = Client(app, TenantAccess(tenant_id, key, ""))
    assert client.send("GET", CHATS).status_code == 200
    assert client.send("POST", CHATS, json={}).status_code == 403
    assert tenant_id in run(app, "tenants", "list").stdout


def test_a_key_is_shown_once(app: Flask, tenant_id: str, either_database: Database) -> None:
    """Neither the list nor the database has the key; only its digest and its first characters are stored."""
    key = run(app, "keys", "create", tenant_id, "--label", "first").stdout.strip()
    listed = run(app, "keys", "list", tenant_id).stdout
    assert key not in listed
    assert key[:10] in listed
    assert "delete,read,write" in listed
    assert key not in str(list(either_database.api_keys.find({})))


def test_a_revoked_key_is_listed_as_such(app: Flask, tenant_id: str) -> None:
    made = run(app, "keys", "create", tenant_id)
    key_id = made.stderr.strip().rsplit(" ", 1)[1]
    run(app, "keys", "revoke", tenant_id, key_id)
    assert "revoked" in run(app, "keys", "list", tenant_id).stdout
    client = Client(app, TenantAccess(tenant_id, made.stdout.strip(), key_id))
    assert client.send("GET", CHATS).status_code == 401


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "create", "nobody"),
        ("tenants", "limit", "nobody"),
        ("tenants", "limit", "nobody", "--read", "1:2"),
        ("keys", "revoke", "nobody", "0123456789ab"),
        ("keys", "rotate", "nobody", "0123456789ab"),
        ("keys", "revoke", "nobody", ".*"),
        ("chats", "import", "nobody", __file__),
    ],
)
def test_what_is_not_there_is_said_plainly(app: Flask, command: tuple[str, ...]) -> None:
    """One sentence with what to do, and no traceback."""
    error = run(app, *command, code=1).stderr
    assert error.startswith("Error: ")
    assert "list" in error
    assert "Traceback" not in error


class TestKeysThatEnd:
    def test_made_with_an_end_and_listed_with_it(self, app: Flask, tenant_id: str) -> None:
        made = run(app, "keys", "create", tenant_id, "--expires", "90d")
        assert "It expires" in made.stderr
        listed = run(app, "keys", "list", tenant_id).stdout
        assert "live until" in listed
        assert "used never" in listed
        Client(app, TenantAccess(tenant_id, made.stdout.strip(), "")).send("GET", CHATS)
        assert re.search(r"used 20\d\d-", run(app, "keys", "list", tenant_id).stdout)

    def test_rotated(self, app: Flask, tenant_id: str) -> None:
        old = run(app, "keys", "create", tenant_id, "--label", "back end", "--scope", "read")
        key_id = old.stderr.strip().rsplit(" ", 1)[1]
        new = run(app, "keys", "rotate", tenant_id, key_id)
        assert f"{key_id} stays valid until" in new.stderr
        for made in (old, new):
            client = Client(app, TenantAccess(tenant_id, made.stdout.strip(), ""))
            assert client.send("GET", CHATS).status_code == 200
        lines = run(app, "keys", "list", tenant_id).stdout.splitlines()
        # Not by their order, for both may have been made in the same millisecond.
        assert ["live until" in line for line in sorted(lines, key=lambda line: key_id not in line)] == [True, False]
        run(app, "keys", "rotate", tenant_id, key_id, "--overlap", "0h")
        assert "expired" in run(app, "keys", "list", tenant_id).stdout

    @pytest.mark.parametrize("span", ["90", "90m", "-1d", "1.5d", "", "4000d"])
    def test_what_is_no_span_is_said_plainly(self, app: Flask, tenant_id: str, span: str) -> None:
        assert "is not in hours or days" in run(app, "keys", "create", tenant_id, "--expires", span, code=2).output


@pytest.mark.parametrize("either_database", ["mongod"], indirect=True)
def test_check_says_how_far_the_oplog_reaches(app: Flask) -> None:
    """The oplog still has what was deleted, as docs/proof.md says."""
    assert re.search(r"The oplog reaches back \d+\.\d h\. Until it has rolled over", run(app, "check").stdout)


def test_a_signing_key_is_one(app: Flask) -> None:
    key = run(app, "keys", "signing").stdout.strip()
    assert SigningKey(key).verifier("log") == SigningKey(key).verifier("log")
    assert run(app, "keys", "signing").stdout.strip() != key


def test_another_tenants_key_cannot_be_revoked(app: Flask, tenant_id: str) -> None:
    key_id = run(app, "keys", "create", tenant_id).stderr.strip().rsplit(" ", 1)[1]
    other = run(app, "tenants", "create", "Another").stdout.strip()
    run(app, "keys", "revoke", other, key_id, code=1)
    assert "live" in run(app, "keys", "list", tenant_id).stdout


@pytest.mark.parametrize("either_database", ["mongod"], indirect=True)
def test_an_export_of_any_size_comes_back_in(app: Flask, tenant_id: str, tmp_path: Path, monkeypatch) -> None:
    """Also an export that is too large for HTTP; an incomplete one creates nothing."""
    monkeypatch.setitem(app.config, "MAX_IMPORT_BYTES", 1)
    client = Client(app, TenantAccess(tenant_id, run(app, "keys", "create", tenant_id).stdout.strip(), ""))
    chat_id = client.new_chat("first", "second")
    file = tmp_path / "chat.ndjson"
    file.write_bytes(client.send("GET", f"{CHATS}/{chat_id}/export?format=ndjson").data)
    made = run(app, "chats", "import", tenant_id, str(file)).stdout.split()[-1]
    assert client.send("GET", f"{CHATS}/{made}").get_json()["message_count"] == 2
    file.write_bytes(file.read_bytes().replace(b"first", b"forged"))
    error = run(app, "chats", "import", tenant_id, str(file), code=1).stderr
    assert "Error: Nothing was created: this is not a complete export. Line 4: Its SHA-256" in error
    assert len(client.send("GET", CHATS).get_json()["items"]) == 2


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (("--help",), 0, "Customers of the service."),
        (("tenants", "limit", "--help"), 0, "--write"),
        (("db", "init"), 1, "MONGODB_URI: Environment variable not set."),
        (("run",), 1, "MONGODB_URI: Environment variable not set."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_help_needs_no_settings(command: tuple[str, ...], code: int, text: str, project: Path) -> None:
    """Commands that do need settings name those that are missing."""
    environment = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
    flask = [sys.executable, "-m", "flask", "--app", "wsgi", *command]
    done = subprocess.run(flask, cwd=project, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, text in done.stdout + done.stderr) == (code, True), done.stderr
    assert command == ("run",) or "Traceback" not in done.stderr


def test_a_database_that_is_away_is_said_soon(caplog: pytest.LogCaptureFixture) -> None:
    """Within 5 s, as the command line promises; a separate process would take a second more to start."""
    database = Database(f"mongodb://127.0.0.1:{free_port()}/chat?replicaSet=rs0")
    app = create_app(Settings("unused", 2**20, threads=1, log_format="json"), database)
    began = time.monotonic()
    output = run(app, "tenants", "list", code=1).output
    assert time.monotonic() - began < REACH_SECONDS + 1
    assert output == "Error: The database could not be reached in time, and nothing was changed.\n"
    assert "No primary of the replica set in MONGODB_URI answers at 127.0.0.1." in caplog.text
    database.close()


def test_a_sound_database_has_no_findings(app: Flask) -> None:
    assert run(app, "jobs", "status").stdout == "0 purges open, 0 messages left\n"


@pytest.mark.parametrize("either_database", ["mongod"], indirect=True)
def test_the_status_of_the_log(app: Flask, either_database: Database) -> None:
    """The command exits with 1 while no process writes the log."""
    never = app.test_cli_runner().invoke(args=["log", "status"])
    assert (never.exit_code, "never written" in never.output) == (1, True)
    with numbering(either_database):
        status = app.test_cli_runner().invoke(args=["log", "status"])
        assert (status.exit_code, "Written by" in status.output) == (0, True), status.output
    stopped = app.test_cli_runner().invoke(args=["log", "status"])
    assert (stopped.exit_code, "No worker writes it" in stopped.output) == (1, True)


class TestStatus:
    @pytest.fixture
    def either_database(self, database: Database) -> Database:
        """Only a real server answers these commands."""
        return database

    def test_all_is_well(self, app: Flask, either_database: Database) -> None:
        with numbering(either_database):
            shown = run(app, "status").stdout
        assert "!" not in shown
        assert re.search(r"database +MongoDB 6\.0\.\d, primary 127\S+, 1 member, the majority 0 s behind", shown)
        assert re.search(r"oplog +reaches back \d+\.\d h", shown)
        assert re.search(r"log +\d\.\d s behind, written by \S+", shown)

    def test_what_needs_a_look_is_said_with_what_to_do(self, app: Flask, tenant_id: str, either_database) -> None:
        key = run(app, "keys", "create", tenant_id, "--expires", "48h").stdout.strip()
        chat_id = Client(app, TenantAccess(tenant_id, key, "")).new_chat("a")
        ago = either_database.now() - timedelta(minutes=6)
        either_database.chats.update_one({"_id.chat_id": chat_id}, {"$set": {"expires_at": ago}})
        either_database.webhooks.insert_one({"_id": webhook_key(tenant_id, "w"), "enabled": True})
        place = {"tenant_id": tenant_id, "webhook_id": "w", "delivery_id": "d"}
        either_database.deliveries.insert_one(
            {"_id": place, "state": "pending", "due_at": ago, "created_at": ago, "reason": None}
        )
        either_database.database.drop_collection("outbox")
        shown = run(app, "status", code=1).stdout
        either_database.prepare()
        for row, text, advice in (
            ("log", "never written", "No worker writes it"),
            ("expiry", "1 overdue by five minutes", "No worker deletes them"),
            ("webhooks", r"1 due, the oldest for 3[56]\d s", "No worker sends them"),
            ("collections", "1 wrong", "The collection outbox is missing"),
        ):
            assert re.search(rf"^! {row} +{text}.*\n +{advice}", shown, re.MULTILINE), shown
        assert re.search(r"^  keys +1 will expire within 7 days", shown, re.MULTILINE)


def test_limits_of_a_tenant_are_set_taken_back_and_shown(app: Flask, tenant_id: str) -> None:
    """Each scope is independent; scopes that are not named stay unchanged."""
    run(app, "tenants", "limit", tenant_id, "--read", "100:200", "--write", "off")
    shown = run(app, "tenants", "limit", tenant_id, "--delete", "0.5:10").stdout.splitlines()
    assert [line.split(maxsplit=2) for line in shown] == [
        ["read", "100:200", "(its own)"],
        ["write", "off", "(its own)"],
        ["delete", "0.5:10", "(its own)"],
    ]
    run(app, "tenants", "limit", tenant_id, "--read", "default", "--write", "1:1")
    assert run(app, "tenants", "limit", tenant_id).stdout.splitlines()[:2] == [
        "read    off  (default)",
        "write   1:1  (its own)",
    ]
    other = run(app, "tenants", "create", "Another").stdout.strip()
    assert run(app, "tenants", "limit", other).stdout.count("off  (default)") == 3


def test_what_is_no_limit_is_said_plainly(app: Flask, tenant_id: str) -> None:
    error = run(app, "tenants", "limit", tenant_id, "--read", "lots", code=2).stderr
    assert "'lots' is not a limit. Write `default`, `off`, or requests per second and burst" in error


class TestHolds:
    def test_placed_listed_released(self, app: Flask, tenant_id: str) -> None:
        key = run(app, "keys", "create", tenant_id).stdout.strip()
        client = Client(app, TenantAccess(tenant_id, key, ""))
        chat_id = client.new_chat("x")
        hold_id = run(app, "holds", "place", tenant_id, "Inquiry 42", chat_id).stdout.strip()
        assert client.send("DELETE", f"{CHATS}/{chat_id}").get_json()["code"] == "not_deletable"
        listed = run(app, "holds", "list", tenant_id).stdout
        assert hold_id in listed
        assert "1 chat  in force  Inquiry 42" in listed
        assert "Released: 1 chat." in run(app, "holds", "release", tenant_id, hold_id).stdout
        assert "released" in run(app, "holds", "list", tenant_id).stdout
        assert client.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200

    def test_on_everything(self, app: Flask, tenant_id: str) -> None:
        placed = run(app, "holds", "place", tenant_id, "Inquiry", "--everything")
        assert "on nothing that it covers can be deleted" in placed.stderr
        assert "everything  in force" in run(app, "holds", "list", tenant_id).stdout

    def test_what_is_wrong_is_said(self, app: Flask, tenant_id: str) -> None:
        unknown = "11111111-2222-4333-8444-555555555555"
        assert unknown in run(app, "holds", "place", tenant_id, "n", unknown, code=1).stderr
        assert "no tenant" in run(app, "holds", "place", unknown, "n", "--everything", code=1).stderr
        assert "no hold" in run(app, "holds", "release", tenant_id, unknown, code=1).stderr
        assert "either" in run(app, "holds", "place", tenant_id, "n", code=2).stderr


class TestRetention:
    def test_set_shown_previewed_ended(self, app: Flask, tenant_id: str) -> None:
        assert "No policy" in run(app, "retention", "show", tenant_id).stdout
        words = "trash after 90 days without activity, at most 500 chats a day; in force from"
        shown = run(app, "retention", "set", tenant_id, "90", "--action", "trash", "--max-per-day", "500").stdout
        assert words in shown
        assert words in run(app, "retention", "show", tenant_id).stdout
        assert run(app, "retention", "preview", tenant_id, "30").stdout == (
            "0 chats with 0 messages; holds keep 0 more.\n"
        )
        assert "Ended" in run(app, "retention", "end", tenant_id).stdout
        assert "no retention policy" in run(app, "retention", "end", tenant_id, code=1).stderr

    def test_a_change_says_what_holds_until_then(self, app: Flask, tenant_id: str, either_database: Database) -> None:
        run(app, "retention", "set", tenant_id, "90")
        either_database.tenants.update_one({}, {"$set": {"retention.active_from": either_database.now()}})
        run(app, "retention", "set", tenant_id, "30")
        shown = run(app, "retention", "show", tenant_id).stdout
        assert "delete after 30 days" in shown
        assert "Until then it removes only what the earlier policy also removes: delete after 90 days" in shown

    def test_what_is_wrong_is_said(self, app: Flask, tenant_id: str) -> None:
        unknown = "11111111-2222-4333-8444-555555555555"
        assert "no tenant" in run(app, "retention", "set", unknown, "9", code=1).stderr
        assert "no tenant" in run(app, "retention", "show", unknown, code=1).stderr
        run(app, "retention", "set", tenant_id, "0", code=2)

    def test_what_is_overdue_is_a_finding(self, app: Flask, tenant_id: str, database: Database) -> None:
        key = run(app, "keys", "create", tenant_id).stdout.strip()
        Client(app, TenantAccess(tenant_id, key, "")).new_chat("x")
        run(app, "retention", "set", tenant_id, "10")
        long_ago = database.now() - timedelta(days=20)
        database.chats.update_many({}, {"$set": {"updated_at": long_ago}})
        database.tenants.update_one({}, {"$set": {"retention.active_from": long_ago}})
        database.rules._tenants.clear()
        assert f"retention_overdue  tenant {tenant_id}  1 chats" in run(app, "check", code=1).stdout
        assert app.extensions["chat_service"].retention.take_some(tenant_id, None, 10)[0] == 1
        run(app, "check")

    @pytest.fixture
    def either_database(self, database: Database) -> Database:
        """A real database: `check` reads from snapshots."""
        return database


class TestInit:
    @pytest.fixture
    def either_database(self, database: Database) -> Database:
        """A real database: mongomock's indexes have other names."""
        return database

    def test_an_index_of_the_version_before_is_named_until_it_is_dropped(self, app: Flask, database: Database) -> None:
        database.presence.create_index([("tenant_id", 1), ("chat_id", 1), ("expires_at", 1)])
        assert "used by the version before only; see --drop-old-indexes" in run(app, "db", "init").stdout
        assert "version before" not in run(app, "db", "init", "--drop-old-indexes").stdout
        assert database.old_indexes() == []


class TestErasures:
    def test_requested_and_listed(self, app: Flask, tenant_id: str) -> None:
        erasure_id = run(app, "erasures", "request", tenant_id, "ada.lovelace", "--mode", "redact").stdout.strip()
        listed = run(app, "erasures", "list", tenant_id).stdout
        assert erasure_id in listed
        assert "under way  redact: 0 messages in 0 chats" in listed
        assert "ada.lovelace" not in listed

    def test_what_is_wrong_is_said(self, app: Flask, tenant_id: str) -> None:
        unknown = "11111111-2222-4333-8444-555555555555"
        assert "no tenant" in run(app, "erasures", "request", unknown, "ada", "--mode", "redact", code=1).stderr
        run(app, "erasures", "request", tenant_id, "ada", code=2)


class TestWebhooks:
    def test_listed_replayed_disabled(self, tenant_id: str, either_database: Database) -> None:
        key = new_key()
        assert is_key(key)
        settings = Settings("unused", 2**20, threads=8, log_format="json", webhook_keys=(key,))
        app = create_app(replace(settings, webhook_private_networks=True), either_database)
        assert is_key(run(app, "webhooks", "key").stdout.strip())
        webhooks = app.extensions["chat_service"].webhooks
        webhook, secret = webhooks.create(tenant_id, "https://example.com/hook", None, "key")
        listed = run(app, "webhooks", "list", tenant_id).stdout
        assert f"{webhook.id}  enabled  up to entry 0  all kinds  https://example.com/hook" in listed
        assert secret not in listed
        assert "will be delivered again" in run(app, "webhooks", "replay", tenant_id, webhook.id, "0").stdout
        assert "Disabled" in run(app, "webhooks", "disable", tenant_id, webhook.id).stdout
        assert "disabled by operator" in run(app, "webhooks", "list", tenant_id).stdout

    def test_what_is_wrong_is_said(self, app: Flask, tenant_id: str) -> None:
        unknown = "11111111-2222-4333-8444-555555555555"
        assert "no such webhook" in run(app, "webhooks", "replay", tenant_id, unknown, "0", code=1).stderr
        assert "no such webhook" in run(app, "webhooks", "disable", tenant_id, unknown, code=1).stderr
