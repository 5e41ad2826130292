"""Erasures: every message of a sender, wherever it is stored, is erased once and counted."""

import json
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from chat_service.jobs.erasing import Erasing
from chat_service.models import Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.erasures import REDACTED
from chat_service.repository.holds import Holds
from tests.client import CHATS, Client, TenantAccess
from tests.numbering import wait_for_head
from tests.purging import purge_all

ERASURES, TRASH = "/api/v1/erasures", "/api/v1/trash"

UNKNOWN = "11111111-2222-4333-8444-555555555555"

PERSON, OTHER = "canary-person@example.org", "somebody else"


@pytest.fixture
def either_database(database: Database) -> Database:
    """Only mongod: erasures need pipelines over keys, and transactions, which mongomock does not have."""
    return database


@pytest.fixture
def governor(app: Flask, alice: Client, either_database: Database) -> Client:
    """The tenant of alice, with a key of all scopes."""
    key, made = ApiKeys(either_database).create(alice.access.tenant_id, "governor", Scope)
    return Client(app, TenantAccess(alice.access.tenant_id, key, made.id))


def new_chat(client: Client, *senders: str | None) -> str:
    """Make a chat with one message of each sender."""
    chat_id = client.new_chat()
    messages = [
        {"content": f"canary-content {number}", "sender_id": sender, "role": "assistant", "metadata": {"n": number}}
        for number, sender in enumerate(senders, 1)
    ]
    assert client.send("POST", f"{CHATS}/{chat_id}/messages", json={"messages": messages}).status_code == 201
    return chat_id


def messages_of(client: Client, chat_id: str) -> list[tuple[int, str, str | None]]:
    messages = client.send("GET", f"{CHATS}/{chat_id}/messages").get_json()["items"]
    return [(message["seq"], message["content"], message["sender_id"]) for message in messages]


def request(governor: Client, mode: str, sender_id: str = PERSON) -> dict[str, Any]:
    answer = governor.send("POST", ERASURES, json={"sender_id": sender_id, "mode": mode})
    assert answer.status_code == 202, answer.get_data()
    erasure: dict[str, Any] = answer.get_json()
    assert answer.headers["Location"] == f"{ERASURES}/{erasure['id']}"
    return erasure


def work(client: Client) -> int:
    """Run the job until it has nothing to do; return how many messages were erased."""
    job, erased = Erasing(client.app.extensions["chat_service"].erasures), 0
    while (number := job.run_once()) is not None:
        erased += number
    return erased


def look(governor: Client, erasure: dict[str, Any]) -> dict[str, Any]:
    current: dict[str, Any] = governor.send("GET", f"{ERASURES}/{erasure['id']}").get_json()
    return current


class TestRedact:
    def test_removes_content_and_sender(self, alice: Client, governor: Client) -> None:
        """Number, role and times stay, other senders' messages do not change, and the chat's ETag changes."""
        chat_id = new_chat(alice, PERSON, OTHER, PERSON, None)
        before = alice.send("GET", f"{CHATS}/{chat_id}/messages").get_json()["items"]
        etag = alice.send("GET", f"{CHATS}/{chat_id}").headers["ETag"]
        erasure = request(governor, "redact")
        assert work(alice) == 2
        after = alice.send("GET", f"{CHATS}/{chat_id}/messages").get_json()["items"]
        for old, new in zip(before, after, strict=True):
            if old["sender_id"] == PERSON:
                assert new == {**old, "content": REDACTED, "sender_id": None, "metadata": {}}
            else:
                assert new == old
        assert alice.send("GET", f"{CHATS}/{chat_id}").headers["ETag"] != etag
        done = look(governor, erasure)
        assert (done["state"], done["chats"], done["messages"], done["deferred_chats"]) == ("complete", 1, 2, 0)
        exported = alice.send("GET", f"{CHATS}/{chat_id}/export?format=ndjson").data
        imported = alice.send("POST", f"{CHATS}/import", data=exported, content_type="application/x-ndjson")
        assert imported.status_code == 201, "an export of it can be imported"


class TestRemove:
    def test_removes_the_messages(self, alice: Client, governor: Client, either_database: Database) -> None:
        chat_id, emptied = new_chat(alice, PERSON, OTHER, PERSON), new_chat(alice, PERSON)
        erasure = request(governor, "remove")
        assert work(alice) == 3
        assert messages_of(alice, chat_id) == [(2, "canary-content 2", OTHER)]
        assert messages_of(alice, emptied) == []
        assert alice.send("GET", f"{CHATS}/{chat_id}").get_json()["message_count"] == 1
        done = look(governor, erasure)
        assert (done["state"], done["chats"], done["messages"]) == ("complete", 2, 3)
        assert list(Checks(either_database).run()) == []


class TestWhere:
    @pytest.mark.parametrize("mode", ["redact", "remove"])
    def test_in_the_trash_too(self, alice: Client, governor: Client, either_database: Database, mode: str) -> None:
        chat_id = new_chat(alice, PERSON, OTHER)
        alice.send("POST", f"{CHATS}/{chat_id}/trash", json={})
        erasure = request(governor, mode)
        assert work(alice) == 1
        assert alice.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 200
        assert PERSON not in str(messages_of(alice, chat_id))
        assert "canary-content 1" not in str(messages_of(alice, chat_id))
        assert look(governor, erasure)["state"] == "complete"
        assert list(Checks(either_database).run()) == []

    def test_only_in_this_tenant(self, alice: Client, bob: Client, governor: Client) -> None:
        foreign = new_chat(bob, PERSON)
        request(governor, "remove")
        assert work(alice) == 0
        assert len(messages_of(bob, foreign)) == 1

    @pytest.mark.parametrize("sender", ["$content", "", " canary", "ada\u202e", "x" * 100])
    def test_with_any_sender_id(self, alice: Client, governor: Client, sender: str) -> None:
        """The sender is always compared as a value, even if it looks like a field path."""
        chat_id = new_chat(alice, sender or "x", OTHER)
        answer = governor.send("POST", ERASURES, json={"sender_id": sender, "mode": "remove"})
        assert answer.status_code == (202 if sender else 422)
        assert work(alice) == bool(sender)
        assert len(messages_of(alice, chat_id)) == 2 - bool(sender)

    def test_many_in_one_chat_and_many_chats(self, alice: Client, governor: Client, either_database: Database) -> None:
        """All messages are erased, even if they need several transactions and several scans."""
        large = new_chat(alice, *[PERSON, OTHER] * 500)
        for _ in range(2):
            messages = {"messages": [{"content": "x", "sender_id": PERSON}] * 1_000}
            alice.send("POST", f"{CHATS}/{large}/messages", json=messages)
        small = [new_chat(alice, OTHER, PERSON) for _ in range(30)]
        erasure = request(governor, "remove")
        assert work(alice) == 2_530
        done = look(governor, erasure)
        assert (done["state"], done["chats"], done["messages"]) == ("complete", 31, 2_530)
        assert [len(messages_of(alice, chat_id)) for chat_id in small] == [1] * 30
        assert either_database.messages.count_documents({"sender_id": PERSON}) == 0
        assert list(Checks(either_database).run()) == []

    def test_messages_that_wait_for_a_purge(self, alice: Client, governor: Client, either_database: Database) -> None:
        """They are left to the purge, and the erasure is not complete before it."""
        alice.app.extensions["chat_service"].messages._inline_limit = 0
        chat_id = new_chat(alice, PERSON, PERSON)
        alice.send("DELETE", f"{CHATS}/{chat_id}/messages")
        erasure = request(governor, "remove")
        assert work(alice) == 0
        assert look(governor, erasure)["state"] == "running"
        purge_all(either_database)
        assert either_database.messages.count_documents({}) == 0
        either_database.erasures.update_many({}, {"$set": {"lease_until": either_database.now()}})
        assert work(alice) == 0
        assert (look(governor, erasure)["state"], look(governor, erasure)["messages"]) == ("complete", 0)


class TestHolds:
    @pytest.mark.parametrize("everything", [False, True], ids=["a chat", "everything"])
    def test_a_held_chat_waits_for_the_release(
        self, alice: Client, governor: Client, either_database: Database, everything: bool
    ) -> None:
        held, free = new_chat(alice, PERSON), new_chat(alice, PERSON)
        holds = Holds(either_database)
        hold = holds.place(alice.access.tenant_id, "n", None if everything else [held], "key")
        either_database.rules._tenants.clear()
        erasure = request(governor, "remove")
        assert work(alice) == (0 if everything else 1)
        seen = look(governor, erasure)
        assert (seen["state"], seen["deferred_chats"]) == ("deferred", 0 if everything else 1)
        assert (len(messages_of(alice, held)), len(messages_of(alice, free))) == (1, int(everything))
        holds.release(alice.access.tenant_id, hold.id, "key")
        for lift in (lambda: None, holds.lift_some):  # the hold's mark stays on the chats for a while
            lift()
            self.pass_time(either_database, timedelta())
            assert work(alice) == 0, "not before 24 h have passed"
        assert look(governor, erasure)["state"] == "deferred"
        self.pass_time(either_database, timedelta(hours=24))
        assert work(alice) == (2 if everything else 1)
        done = look(governor, erasure)
        assert (done["state"], done["chats"], done["messages"], done["deferred_chats"]) == ("complete", 2, 2, 0)

    def pass_time(self, database: Database, by: timedelta) -> None:
        """Make the next run due, and move the time of the release back by `by`."""
        database.erasures.update_many({}, {"$set": {"lease_until": database.now() - timedelta(seconds=1)}})
        for collection, field in (database.chats, "hold_released_at"), (database.tenants, "hold_released_at"):
            for document in collection.find({field: {"$exists": True}}):
                collection.update_one({"_id": document["_id"]}, {"$set": {field: document[field] - by}})
        database.rules._tenants.clear()


class TestTheRecord:
    def test_the_response(self, alice: Client, governor: Client) -> None:
        erasure = request(governor, "redact")
        assert list(erasure) == [
            "id",
            "mode",
            "state",
            "requested_at",
            "requested_by",
            "chats",
            "messages",
            "deferred_chats",
            "completed_at",
        ]
        assert (erasure["state"], erasure["requested_by"]) == ("running", governor.access.key_id)
        assert governor.send("GET", ERASURES).get_json() == {"items": [erasure], "next_cursor": None}
        for path in (UNKNOWN, "no-uuid"):
            answer = governor.send("GET", f"{ERASURES}/{path}")
            assert (answer.status_code, answer.get_json()["code"]) == (404, "erasure_not_found")
        assert alice.send("GET", ERASURES).status_code == 403

    def test_a_repetition_gets_the_first_answer(self, governor: Client) -> None:
        body = {"json": {"sender_id": PERSON, "mode": "remove"}, "headers": {"Idempotency-Key": "k"}}
        first, again = (governor.send("POST", ERASURES, **body) for _ in range(2))
        assert first.get_json() == again.get_json()
        assert len(governor.send("GET", ERASURES).get_json()["items"]) == 1

    @pytest.mark.parametrize("body", [{}, {"sender_id": "x"}, {"sender_id": "x", "mode": "hide"}, {"mode": "redact"}])
    def test_an_invalid_body_is_422(self, governor: Client, body: dict[str, Any]) -> None:
        assert governor.send("POST", ERASURES, json=body).status_code == 422

    @pytest.mark.usefixtures("sequencer")
    def test_the_sender_is_stored_nowhere_afterwards(
        self, alice: Client, governor: Client, either_database: Database, caplog
    ) -> None:
        """No collection and no log line has the sender's id or content."""
        chat_id = new_chat(alice, PERSON, OTHER)
        erasure = request(governor, "redact")
        work(alice)
        wait_for_head(either_database, alice.access.tenant_id, 2)
        entry, end = alice.send("GET", "/api/v1/log").get_json()["items"]
        assert (entry["kind"], entry["chat_id"], entry["message_count"]) == ("sender.erased", chat_id, 1)
        assert entry["message_seqs"] == [1]
        assert ("chat_id" in end, end["kind"], end["chat_count"], end["message_count"]) == (False, entry["kind"], 1, 1)
        assert (entry["erasure_id"], entry["mode"], entry["actor"]) == (
            erasure["id"],
            "redact",
            governor.access.key_id,
        )
        database = either_database.database
        everything = {name: list(database[name].find()) for name in database.list_collection_names()}
        stored = json.dumps(everything, default=str)
        assert PERSON not in stored
        assert "canary-content 1" not in stored
        assert OTHER in stored
        assert PERSON not in caplog.text

    def test_two_at_once_count_each_message_once(self, alice: Client, governor: Client) -> None:
        """Of two erasures of the same sender, the first to reach a message erases and counts it."""
        for _ in range(5):
            new_chat(alice, PERSON, PERSON)
        erasures = [request(governor, mode) for mode in ("remove", "redact")]
        assert work(alice) == 10
        done = [look(governor, erasure) for erasure in erasures]
        assert sum(erasure["messages"] for erasure in done) == 10
        assert {erasure["state"] for erasure in done} == {"complete"}
