"""Replay of the ledger on a restored backup: what was deleted since stays deleted, and the log goes on."""

import itertools
from typing import Any

import pytest
from flask import Flask

from chat_service.api.context import Repositories
from chat_service.errors import ClaimLostError
from chat_service.jobs.erasing import Erasing
from chat_service.jobs.lifting import Lifting
from chat_service.jobs.purge import PurgeWorker
from chat_service.jobs.runner import Job
from chat_service.proof.ledger_file import LedgerError, LedgerFile
from chat_service.proof.notes import SigningKey, origin_of
from chat_service.proof.verify import verify, verify_growth
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.replay import Replay
from chat_service.repository.sequencer import Sequencer
from tests.client import CHATS, Client
from tests.numbering import number_all
from tests.recovery.conftest import INLINE_LIMIT, KEY, Backup, copy_all_to_ledger, ledger_of, serve
from tests.recovery.readable import getter_of, log_of, readable

API = "/api/v1"

PERSON = "person-to-forget"


def finish(job: Job) -> None:
    while job.run_once() is not None:
        pass


def work(app: Flask) -> None:
    """Do what the workers do."""
    repositories = Repositories.of(app.extensions)
    for job in (Erasing(repositories.erasures), Lifting(repositories.holds), PurgeWorker(repositories.purges)):
        finish(job)


def send(client: Client, method: str, path: str, status: int = 200, **body: Any) -> Any:
    answer = client.send(method, f"{API}/{path}", **({"json": body} if body else {}))
    assert answer.status_code == status, (method, path, answer.get_data())
    return answer.get_json()


class Tenant:
    """A tenant whose chats get every change that the log records."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.chats = [client.new_chat("one", "two", f"three {number}") for number in range(16)]
        self.large = client.new_chat(*["x"] * (INLINE_LIMIT * 3))
        for chat_id in self.chats[10:13]:
            for sender in (PERSON, "another", PERSON):
                send(client, "POST", f"chats/{chat_id}/messages", 201, content="mine", sender_id=sender)
        send(client, "POST", f"chats/{self.chats[0]}/trash", keep_days=5)
        send(client, "POST", f"chats/{self.chats[11]}/trash", keep_days=80)
        self.earlier_hold = send(client, "POST", "holds", 201, name="before", chat_ids=[self.chats[1]])["id"]

    def go_on(self) -> None:
        """Make all the changes that a replay has to repeat."""
        client, chats = self.client, self.chats
        send(client, "POST", f"trash/{chats[0]}/restore")
        send(client, "POST", f"chats/{chats[2]}/trash", keep_days=9)
        send(client, "DELETE", f"chats/{chats[3]}?export_sha256={'ab' * 32}")
        send(client, "DELETE", f"chats/{self.large}")
        send(client, "POST", f"chats/{chats[4]}/trash", keep_days=1)
        send(client, "DELETE", f"trash/{chats[4]}")
        client.send("DELETE", f"{CHATS}/{chats[5]}/messages")
        client.send("DELETE", f"{CHATS}/{chats[6]}/messages/2")
        hold = send(client, "POST", "holds", 201, name="the case", chat_ids=[chats[7], chats[8]])["id"]
        send(client, "POST", f"holds/{hold}/chats", add=[chats[9]], remove=[chats[8]])
        assert client.send("DELETE", f"{CHATS}/{chats[7]}").status_code == 409
        released_hold = send(client, "POST", "holds", 201, name="released", chat_ids=[chats[8]])["id"]
        send(client, "POST", f"holds/{released_hold}/release")
        send(client, "DELETE", f"chats/{chats[8]}")
        send(client, "POST", f"holds/{self.earlier_hold}/release")
        send(client, "POST", "erasures", 202, sender_id=PERSON, mode="remove")
        work(client.app)
        send(client, "PUT", "retention", delete_after_days=30, action="trash")
        send(client, "DELETE", f"chats/{client.new_chat('made after the backup')}")


@pytest.fixture
def tenant(governor: Client) -> Tenant:
    return Tenant(governor)


def lose_a_delete(app: Flask, tenant: Tenant, database: Database) -> None:
    """Set the database back to before a delete that the ledger has."""
    copy_all_to_ledger(app, database)
    backup = Backup(database)
    send(tenant.client, "DELETE", f"chats/{tenant.chats[3]}")
    copy_all_to_ledger(app, database)
    backup.restore()


def replay(app: Flask, database: Database, steps: int | None = None) -> int:
    """Replay all or only the first `steps` steps, as if it was killed then; return how many steps were made."""
    ledger = ledger_of(app)
    ledger.disable_guard()
    done = 0
    for _ in itertools.islice(Replay(database, ledger).run(), steps):
        done += 1
    return done


def let_lease_end(database: Database) -> None:
    """End the sequencer's lease, as happens within 3 s of a kill."""
    database.log_position.update_one({"_id": "log"}, {"$set": {"lease_until": database.now()}})


def restart(app: Flask, database: Database, ledger: LedgerFile) -> None:
    """Give the application fresh state, as a restart does."""
    serve(app, database, ledger)


@pytest.mark.parametrize("killed_after", [None, 1])
def test_everything_readable_is_as_it_was(
    app: Flask, governor: Client, tenant: Tenant, database: Database, ledger: LedgerFile, monkeypatch, killed_after
) -> None:
    """Also when the replay is killed: earlier proofs still verify, and the log has only grown."""
    monkeypatch.setattr("chat_service.repository.replay.ENTRIES_AT_ONCE", 3)
    copy_all_to_ledger(app, database)
    old_note = governor.send("GET", f"{API}/log/checkpoint").data
    backup = Backup(database)
    tenant.go_on()
    copy_all_to_ledger(app, database)
    before = readable(getter_of(governor))
    proof = governor.send("GET", f"{API}/deletions/{tenant.chats[3]}/proof").data
    backup.restore()
    restart(app, database, ledger)

    refused = governor.send("GET", CHATS)
    assert (refused.status_code, refused.get_json()["code"]) == (503, "ledger_behind")
    assert refused.get_json()["title"] == "Ledger behind"
    ready = governor.send("GET", "/readyz")
    assert (ready.status_code, ready.get_json()["code"]) == (503, "ledger_behind")
    for _ in range(3):
        if killed_after is not None:
            assert replay(app, database, killed_after)
            restart(app, database, ledger)
            let_lease_end(database)
            assert governor.send("GET", CHATS).status_code == 503
    assert replay(app, database)
    restart(app, database, ledger)
    work(app)
    assert governor.send("GET", "/readyz").status_code == 200

    after = readable(getter_of(governor))
    for name, value in before.items():
        assert after[name] == value, name
    copy_all_to_ledger(app, database)
    assert log_of(getter_of(governor))[: len(before["log"])] == before["log"]
    key = SigningKey(KEY).verifier(origin_of(governor.access.tenant_id))
    assert verify(proof, [key], tenant.chats[3]).entry["export_sha256"] == "ab" * 32
    new_proof = governor.send("GET", f"{API}/deletions/{tenant.chats[3]}/proof").data
    assert verify(new_proof, [key], tenant.chats[3]).checkpoint.size >= len(before["log"])
    size = old_note.split(b"\n")[1].decode()
    growth = governor.send("GET", f"{API}/log/consistency?old={size}").data
    verify_growth(growth, old_note, [key])
    assert list(Checks(database).run()) == []
    assert governor.send("DELETE", f"{CHATS}/{tenant.chats[7]}").status_code == 409, "held again"
    assert governor.send("DELETE", f"{CHATS}/{tenant.chats[1]}").status_code == 200, "released again"


def test_what_the_backup_had_committed_is_not_done_twice(
    app: Flask, governor: Client, tenant: Tenant, database: Database, ledger: LedgerFile
) -> None:
    """Its changes had no number yet: messages posted after the emptying stay, and the log has each change once."""
    copy_all_to_ledger(app, database)
    chat_id, deleted = tenant.chats[0], tenant.chats[13]
    send(governor, "POST", f"trash/{chat_id}/restore")
    governor.send("DELETE", f"{CHATS}/{chat_id}/messages")
    send(governor, "DELETE", f"chats/{deleted}")
    send(governor, "POST", f"chats/{chat_id}/messages", 201, content="after it")
    backup = Backup(database)
    copy_all_to_ledger(app, database)
    before = readable(getter_of(governor))
    backup.restore()
    restart(app, database, ledger)
    assert governor.send("GET", CHATS).status_code == 503
    assert replay(app, database) == 1
    restart(app, database, ledger)
    copy_all_to_ledger(app, database)
    assert readable(getter_of(governor)) == before
    assert database.outbox.count_documents({}) == 0


@pytest.mark.usefixtures("tenant")
def test_an_erasure_under_way_counts_each_chat_once(
    app: Flask, governor: Client, database: Database, ledger: LedgerFile, monkeypatch
) -> None:
    """Also a chat whose messages took several transactions; then the erasure goes on, and completes."""
    monkeypatch.setattr("chat_service.repository.erasures.GROUP_MESSAGES", 1)
    send(governor, "POST", "erasures", 202, sender_id=PERSON, mode="remove")
    copy_all_to_ledger(app, database)
    backup = Backup(database)
    assert Erasing(Repositories.of(app.extensions).erasures).run_once() == 6
    copy_all_to_ledger(app, database)
    [before] = readable(getter_of(governor))["erasures"]
    backup.restore()
    restart(app, database, ledger)
    assert replay(app, database)
    restart(app, database, ledger)
    [after] = readable(getter_of(governor))["erasures"]
    assert (after, after["chats"], after["messages"]) == (before, 3, 6)
    work(app)
    [erasure] = readable(getter_of(governor))["erasures"]
    assert (erasure["state"], erasure["chats"], erasure["messages"]) == ("complete", 3, 6)


def test_what_was_edited_since_is_redacted(
    app: Flask, governor: Client, tenant: Tenant, database: Database, ledger: LedgerFile
) -> None:
    """The old content does not come back, and no log has the new content."""
    chat_id = tenant.chats[14]
    copy_all_to_ledger(app, database)
    backup = Backup(database)
    send(governor, "PATCH", f"chats/{chat_id}/messages/1", content="better")
    copy_all_to_ledger(app, database)
    backup.restore()
    restart(app, database, ledger)
    assert replay(app, database) == 1
    restart(app, database, ledger)
    [first, *_] = governor.send("GET", f"{CHATS}/{chat_id}/messages").get_json()["items"]
    assert first["content"] == "[redacted]"


def test_a_replay_does_not_begin_beside_a_worker(app: Flask, tenant: Tenant, database: Database) -> None:
    """A worker would number the replayed changes in another order."""
    lose_a_delete(app, tenant, database)
    ledger_of(app).disable_guard()
    let_lease_end(database)
    assert Sequencer(database, "another").claim() is not None
    with pytest.raises(ClaimLostError):
        replay(app, database)


def test_a_ledger_that_the_log_does_not_go_on_from_takes_nothing(
    app: Flask, governor: Client, tenant: Tenant, database: Database
) -> None:
    """As when a restored database was used without a replay."""
    lose_a_delete(app, tenant, database)
    database.log_position.delete_one({"_id": "log"})  # a restored server does not have this position
    ledger_of(app).disable_guard()
    for chat_id in tenant.chats[4:7]:
        send(governor, "DELETE", f"chats/{chat_id}")
    with pytest.raises(LedgerError, match="does not continue"):
        copy_all_to_ledger(app, database)


def test_proofs_wait_for_the_ledger(app: Flask, governor: Client, tenant: Tenant, database: Database) -> None:
    """A replay must restore every entry that a proof was given for, so a proof waits until the ledger has its entry."""
    copy_all_to_ledger(app, database)
    size = governor.send("GET", f"{API}/log/checkpoint").data.split(b"\n")[1]
    send(governor, "DELETE", f"chats/{tenant.chats[3]}")
    number_all(database)
    assert governor.send("GET", f"{API}/log/checkpoint").data.split(b"\n")[1] == size
    waiting = governor.send("GET", f"{API}/deletions/{tenant.chats[3]}/proof")
    assert (waiting.status_code, waiting.get_json()["code"]) == (404, "proof_not_ready")
    assert waiting.headers["Retry-After"] == "1"
    copy_all_to_ledger(app, database)
    assert governor.send("GET", f"{API}/deletions/{tenant.chats[3]}/proof").status_code == 200
