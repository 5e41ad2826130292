"""Proofs over HTTP: they verify, and only the tenant itself gets them."""

from collections.abc import Callable

import pytest
from flask import Flask
from proofbundle.tlogproof import verify_tlog_proof

from chat_service.app import create_app
from chat_service.jobs.purge import PurgeWorker
from chat_service.proof.notes import SigningKey, VerifierKey, origin_of, parse_proof
from chat_service.proof.verify import NotProvedError, verify, verify_growth
from chat_service.repository.database import Database
from chat_service.repository.keys import message_key
from chat_service.repository.purges import Purges
from chat_service.settings import Settings
from tests.client import CHATS, Client, TenantAccess
from tests.conftest import begin
from tests.numbering import number_all

API = "/api/v1"
OLD, NEW = SigningKey.new(), SigningKey.new()


@pytest.fixture
def either_database(database: Database) -> Database:
    """Only mongod: the log is written from a change stream."""
    return database


@pytest.fixture
def app(routes: Flask, database: Database) -> Flask:
    begin(database, inline_limit=3, signing_keys=[SigningKey(key) for key in (NEW, OLD)]).install(routes.extensions)
    return routes


def key_of(client: Client) -> VerifierKey:
    return VerifierKey.of(client.send("GET", f"{API}/log/key").get_json()["key"])


def deleted(client: Client, database: Database, *contents: str) -> str:
    chat_id = client.new_chat(*contents)
    assert client.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200
    number_all(database)
    return chat_id


def test_a_deletion_is_proved(alice: Client, database: Database) -> None:
    """The proof verifies with our implementation and with an independent one."""
    chat_id = deleted(alice, database, "a", "b")
    answer = alice.send("GET", f"{API}/deletions/{chat_id}/proof")
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    assert answer.headers["Content-Disposition"].endswith(f'"chat.deleted-{chat_id}.tlog-proof"')
    entry = verify(answer.data, [key_of(alice)], chat_id).entry
    assert (entry["kind"], entry["message_count"], entry["covers"]) == ("chat.deleted", 2, ["api"])
    shown = alice.send("GET", f"{API}/log").get_json()["items"][0]
    assert entry == {**shown, "tenant_id": alice.access.tenant_id}
    leaf = parse_proof(answer.get_data(as_text=True)).leaf
    theirs = verify_tlog_proof(answer.get_data(as_text=True), leaf, str(key_of(alice)))
    assert theirs["ok"] is True


def test_a_purge_is_proved(alice: Client, database: Database) -> None:
    """The proof that nothing is left exists at once for a small chat, and for a large one after its purge."""
    small, large = deleted(alice, database, "a"), deleted(alice, database, *"abcdef")
    path = f"{API}/deletions/{small}/proof?kind=chat.purged"
    assert verify(alice.send("GET", path).data, [key_of(alice)], small).entry["covers"] == ["api", "collection"]
    path = f"{API}/deletions/{large}/proof?kind=chat.purged"
    waiting = alice.send("GET", path)
    assert (waiting.status_code, waiting.get_json()["code"]) == (404, "proof_not_ready")
    worker = PurgeWorker(Purges(database))
    while worker.run_once() is not None:
        pass
    number_all(database)
    assert verify(alice.send("GET", path).data, [key_of(alice)], large).entry["message_count"] == 6


def test_a_message_that_a_purge_overlooked_is_removed_before_the_proof(alice: Client, database: Database) -> None:
    """The transaction that completes a purge checks again that no message is left."""
    chat_id = deleted(alice, database, *"abcdef")
    worker = PurgeWorker(Purges(database))
    database.messages.insert_one({"_id": message_key(alice.access.tenant_id, chat_id, 0), "content": "overlooked"})
    while worker.run_once() is not None:
        pass
    assert database.messages.count_documents({}) == 0
    number_all(database)
    purged = alice.send("GET", f"{API}/deletions/{chat_id}/proof?kind=chat.purged").data
    assert verify(purged, [key_of(alice)], chat_id).entry["message_count"] == 7


def test_the_log_only_grows(alice: Client, database: Database) -> None:
    for _ in range(3):
        deleted(alice, database, "a")
    old = alice.send("GET", f"{API}/log/checkpoint").data
    deleted(alice, database)
    proof = alice.send("GET", f"{API}/log/consistency?old=6").data
    before, now = verify_growth(proof, old, [key_of(alice)])
    assert (before.size, now.size) == (6, 8)
    assert alice.send("GET", f"{API}/log/consistency?old=8").status_code == 200
    refused = alice.send("GET", f"{API}/log/consistency?old=9")
    assert (refused.status_code, refused.get_json()["code"], refused.get_json()["size"]) == (404, "unknown_size", 8)
    assert alice.send("GET", f"{API}/log/consistency").status_code == 422


def test_the_key_ring_has_the_old_key(alice: Client) -> None:
    shown = alice.send("GET", f"{API}/log/key").get_json()
    origin = origin_of(alice.access.tenant_id)
    assert shown["origin"] == origin
    assert shown["keys"] == [str(SigningKey(key).verifier(origin)) for key in (NEW, OLD)]
    assert shown["key"] == shown["keys"][0]


def test_tenants_have_logs_of_their_own(alice: Client, bob: Client, database: Database) -> None:
    """Bob gets no proof of Alice's chat, and hers does not verify with his key."""
    chat_id = deleted(alice, database, "a")
    proof = alice.send("GET", f"{API}/deletions/{chat_id}/proof").data
    foreign = bob.send("GET", f"{API}/deletions/{chat_id}/proof")
    assert (foreign.status_code, foreign.get_json()["code"]) == (404, "not_found")
    with pytest.raises(NotProvedError):
        verify(proof, [key_of(bob)])


def test_without_a_key_nothing_is_signed(database: Database, new_tenant: Callable[..., TenantAccess]) -> None:
    plain = Client(create_app(Settings("unused", 2**20, threads=8, log_format="json"), database), new_tenant())
    chat_id = deleted(plain, database, "a")
    for path in ("log/key", "log/checkpoint", "log/consistency?old=1", f"deletions/{chat_id}/proof"):
        answer = plain.send("GET", f"{API}/{path}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_signed")
    assert plain.send("GET", f"{API}/log").get_json()["head"] == 2


def test_checkpoints_and_consistency_proofs_are_only_text(alice: Client) -> None:
    for path in ("log/checkpoint", "log/consistency?old=0"):
        assert alice.send("GET", f"{API}/{path}", headers={"Accept": "text/*"}).status_code == 200
        assert alice.send("GET", f"{API}/{path}", headers={"Accept": "application/pdf"}).status_code == 406
