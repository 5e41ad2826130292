"""Holds: no request destroys a held chat; a key without `govern` learns nothing about the hold itself."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from chat_service.models import Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.expired import Expired
from chat_service.repository.holds import Holds
from chat_service.repository.presence import Presence
from chat_service.repository.tenants import Tenants
from tests.client import CHATS, Client, TenantAccess
from tests.numbering import wait_for_head

HOLDS, TRASH = "/api/v1/holds", "/api/v1/trash"

UNKNOWN = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def governor(app: Flask, alice: Client, either_database: Database) -> Client:
    """The tenant of alice, with a key of all scopes."""
    key, made = ApiKeys(either_database).create(alice.access.tenant_id, "governor", Scope)
    return Client(app, TenantAccess(alice.access.tenant_id, key, made.id))


def place(governor: Client, *chat_ids: str, **more: Any) -> dict[str, Any]:
    """Place a hold on the chats, or on everything, and clear the caches so that it is known."""
    body = {"name": "inquiry", **({"chat_ids": list(chat_ids)} if chat_ids else {"everything": True}), **more}
    answer = governor.send("POST", HOLDS, json=body)
    assert answer.status_code == 201, answer.get_data()
    forget(governor)
    hold: dict[str, Any] = answer.get_json()
    return hold


def release(governor: Client, hold: dict[str, Any]) -> dict[str, Any]:
    answer = governor.send("POST", f"{HOLDS}/{hold['id']}/release")
    assert answer.status_code == 200
    forget(governor)
    released: dict[str, Any] = answer.get_json()
    return released


def forget(client: Client) -> None:
    """Clear the caches of keys and tenants' rules, as after the 4 s for which they are valid."""
    service = client.app.extensions["chat_service"]
    service.keys._callers.clear()
    service.database.rules._tenants.clear()


def shown(client: Client, chat_id: str) -> list[Any]:
    chat, messages = (client.send("GET", f"{CHATS}/{chat_id}{path}") for path in ("", "/messages"))
    return [chat.headers["ETag"], chat.get_json(), messages.get_json()]


DOORS: dict[str, tuple[str, str, Any]] = {
    "delete": ("DELETE", f"{CHATS}/{{}}", None),
    "evict": ("DELETE", f"{CHATS}/{{}}?on_active=evict", None),
    "empty": ("DELETE", f"{CHATS}/{{}}/messages", None),
    "delete a message": ("DELETE", f"{CHATS}/{{}}/messages/1", None),
    "edit a message": ("PATCH", f"{CHATS}/{{}}/messages/1", {"content": "y"}),
}


@pytest.mark.parametrize("everything", [False, True], ids=["a chat", "everything"])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_is_closed_until_the_release(alice: Client, governor: Client, door: str, everything: bool) -> None:
    """The response is 409, with the hold's id for a key that governs, and nothing changes; later it succeeds."""
    chat_id = alice.new_chat("x", "y")
    before = shown(alice, chat_id)
    hold = place(governor) if everything else place(governor, chat_id)
    method, path, body = DOORS[door]
    body = {} if body is None else {"json": body}
    refused = governor.send(method, path.format(chat_id), **body)
    assert (refused.status_code, refused.get_json()["code"]) == (409, "legal_hold")
    assert refused.get_json()["holds"] == [hold["id"]]
    refused = alice.send(method, path.format(chat_id), **body)
    assert (refused.status_code, refused.get_json()["code"]) == (409, "not_deletable")
    assert hold["id"] not in refused.get_data(as_text=True)
    assert shown(alice, chat_id) == before
    release(governor, hold)
    assert alice.send(method, path.format(chat_id), **body).status_code in {200, 204}


@pytest.mark.parametrize("everything", [False, True], ids=["a chat", "everything"])
def test_a_held_chat_is_not_removed_from_the_trash(alice: Client, governor: Client, everything: bool) -> None:
    """It can be trashed and restored, and stays held; no delete removes it, neither of the trash nor of the chat."""
    chat_id = alice.new_chat("x")
    hold = place(governor) if everything else place(governor, chat_id)
    assert alice.send("POST", f"{CHATS}/{chat_id}/trash", json={}).status_code == 200
    assert alice.send("GET", f"{TRASH}/{chat_id}").get_json()["held"] is True
    for path in (f"{TRASH}/{chat_id}", f"{CHATS}/{chat_id}"):
        assert governor.send("DELETE", path).get_json()["code"] == "legal_hold"
    assert alice.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 200
    assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 409
    alice.send("POST", f"{CHATS}/{chat_id}/trash", json={})
    release(governor, hold)
    assert alice.send("GET", f"{TRASH}/{chat_id}").get_json()["held"] is False
    assert alice.send("DELETE", f"{TRASH}/{chat_id}").status_code == 200


def test_a_trashed_chat_can_be_put_under_a_hold(alice: Client, governor: Client) -> None:
    chat_id = alice.new_chat("x")
    alice.send("POST", f"{CHATS}/{chat_id}/trash", json={})
    hold = place(governor, chat_id)
    assert alice.send("DELETE", f"{TRASH}/{chat_id}").status_code == 409
    release(governor, hold)
    assert alice.send("DELETE", f"{TRASH}/{chat_id}").status_code == 200


def test_a_bulk_delete_refuses_only_the_held_chats(alice: Client, governor: Client) -> None:
    held, other = alice.new_chat("x"), alice.new_chat("x")
    place(governor, held)
    for client, code in ((alice, "not_deletable"), (governor, "legal_hold")):
        results = client.send("POST", f"{CHATS}/delete", json={"chat_ids": [held, other]}).get_json()
        assert {"chat_id": held, "status": 409, "code": code} in results["failed"]
        assert len(results["successful"]) == (client is alice)
    trashed = alice.send("POST", f"{CHATS}/trash", json={"chat_ids": [held]}).get_json()
    assert len(trashed["successful"]) == 1, "hiding is allowed"


def test_additions_are_not_refused(alice: Client, governor: Client) -> None:
    chat_id = alice.new_chat("x")
    place(governor, chat_id)
    assert alice.send("POST", f"{CHATS}/{chat_id}/messages", json={"content": "y"}).status_code == 201
    assert alice.send("PATCH", f"{CHATS}/{chat_id}", json={"title": "t"}).status_code == 200


def test_a_delete_with_grace_is_refused_too(alice: Client, governor: Client, either_database: Database) -> None:
    """A 200 says that the chat is gone, so a hold refuses the delete even if it would only hide the chat."""
    Tenants(either_database).set_grace(alice.access.tenant_id, timedelta(days=7))
    chat_id, later = alice.new_chat("x"), alice.new_chat("x")
    place(governor, chat_id)
    assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 409
    assert alice.send("DELETE", f"{CHATS}/{later}").status_code == 200
    place(governor, later)
    assert governor.send("DELETE", f"{TRASH}/{later}").status_code == 409, "a chat in grace can be held"


class TestTheRecord:
    def test_the_response(self, alice: Client, governor: Client) -> None:
        chat_ids = [alice.new_chat("x") for _ in range(3)]
        answer = governor.send("POST", HOLDS, json={"name": "inquiry", "chat_ids": [*chat_ids, chat_ids[0].upper()]})
        hold = answer.get_json()
        assert list(hold) == [
            "id",
            "name",
            "everything",
            "chat_count",
            "placed_at",
            "active_from",
            "placed_by",
            "released_at",
        ]
        assert (hold["name"], hold["everything"], hold["chat_count"]) == ("inquiry", False, 3)
        assert (hold["placed_by"], hold["released_at"]) == (governor.access.key_id, None)
        assert hold["active_from"] == hold["placed_at"]
        assert governor.send("GET", f"{HOLDS}/{hold['id']}").get_json() == hold
        assert governor.send("GET", HOLDS).get_json() == {"items": [hold], "next_cursor": None}
        released = release(governor, hold)
        assert released["released_at"] is not None
        assert governor.send("POST", f"{HOLDS}/{hold['id']}/release").get_json() == released, "once"

    def test_a_hold_on_everything_says_from_when_on(self, governor: Client) -> None:
        hold = place(governor)
        placed, active = (datetime.fromisoformat(hold[name]) for name in ("placed_at", "active_from"))
        assert timedelta(seconds=17) < active - placed <= timedelta(seconds=20)
        assert (hold["everything"], hold["chat_count"]) == (True, 0)

    def test_all_or_nothing(self, alice: Client, bob: Client, governor: Client) -> None:
        """The error names each chat that is unknown, deleted or another tenant's, and no chat is held."""
        there, deleted, foreign = alice.new_chat("x"), alice.new_chat("x"), bob.new_chat("x")
        alice.send("DELETE", f"{CHATS}/{deleted}")
        missing = [deleted, foreign, UNKNOWN]
        answer = governor.send("POST", HOLDS, json={"name": "n", "chat_ids": [there, *missing]})
        assert (answer.status_code, answer.get_json()["code"]) == (422, "validation_error")
        messages = answer.get_json()["errors"]["chat_ids"]
        assert [chat_id for chat_id in [there, *missing] if any(chat_id in message for message in messages)] == missing
        assert alice.send("DELETE", f"{CHATS}/{there}").status_code == 200
        assert governor.send("GET", HOLDS).get_json()["items"] == []

    def test_a_chat_whose_time_is_over_cannot_be_held(
        self, alice: Client, governor: Client, either_database: Database
    ) -> None:
        """A chat after its own end, or its time in the trash, is gone even before a job has deleted it."""
        ended, trashed = alice.new_chat("x"), alice.new_chat("x")
        alice.send("POST", f"{CHATS}/{trashed}/trash", json={})
        over = either_database.now()
        either_database.chats.update_many({}, {"$set": {"expires_at": over}})
        either_database.trash.update_many({}, {"$set": {"purge_at": over}})
        for chat_id in (ended, trashed):
            assert governor.send("POST", HOLDS, json={"name": "n", "chat_ids": [chat_id]}).status_code == 422

    @pytest.mark.parametrize(
        "body",
        [
            {"name": "n"},
            {"name": "n", "chat_ids": []},
            {"name": "n", "everything": False},
            {"name": "n", "everything": 1},
            {"name": "n", "everything": True, "chat_ids": [UNKNOWN]},
            {"name": "", "everything": True},
            {"everything": True},
            {"name": "n", "chat_ids": ["x"]},
            {"name": "n", "chat_ids": [UNKNOWN] * 1001},
        ],
    )
    def test_an_invalid_body_is_422(self, governor: Client, body: dict[str, Any]) -> None:
        assert governor.send("POST", HOLDS, json=body).status_code == 422
        assert governor.send("GET", HOLDS).get_json()["items"] == []

    def test_it_can_be_changed(self, alice: Client, governor: Client) -> None:
        """Chats can be added and removed, but not after its release, and never if it is on everything."""
        first, second = alice.new_chat("x"), alice.new_chat("x")
        hold = place(governor, first)
        chats = f"{HOLDS}/{hold['id']}/chats"
        changed = governor.send("POST", chats, json={"add": [second, first], "remove": []})
        assert changed.status_code == 422, "an empty list is invalid"
        assert governor.send("POST", chats, json={"add": [second, first]}).get_json()["chat_count"] == 2
        assert alice.send("DELETE", f"{CHATS}/{second}").status_code == 409
        assert governor.send("POST", chats, json={"remove": [first, UNKNOWN]}).get_json()["chat_count"] == 1
        assert alice.send("DELETE", f"{CHATS}/{first}").status_code == 200
        assert governor.send("POST", chats, json={"add": [UNKNOWN]}).status_code == 422
        assert governor.send("POST", chats, json={"add": [second], "remove": [second]}).status_code == 422
        release(governor, hold)
        everything = place(governor)
        for unchangeable in (hold, everything):
            answer = governor.send("POST", f"{HOLDS}/{unchangeable['id']}/chats", json={"remove": [second]})
            assert (answer.status_code, answer.get_json()["code"]) == (409, "hold_unchangeable")

    def test_a_retry_gets_the_first_response(self, alice: Client, governor: Client) -> None:
        body = {"json": {"name": "n", "chat_ids": [alice.new_chat("x")]}, "headers": {"Idempotency-Key": "k"}}
        first, again = (governor.send("POST", HOLDS, **body) for _ in range(2))
        assert first.get_json() == again.get_json()
        assert len(governor.send("GET", HOLDS).get_json()["items"]) == 1

    def test_the_list_has_pages(self, governor: Client) -> None:
        ids = [place(governor)["id"] for _ in range(5)]
        listed, cursor = [], ""
        while cursor is not None:
            page = governor.send("GET", f"{HOLDS}?limit=2{f'&cursor={cursor}' if cursor else ''}").get_json()
            listed += [hold["id"] for hold in page["items"]]
            cursor = page["next_cursor"]
        assert sorted(listed) == sorted(ids)

    def test_another_tenants_hold_is_404(self, app: Flask, governor: Client, new_tenant) -> None:
        other = Client(app, new_tenant("govern"))
        hold = place(governor)
        for method, path in (("GET", ""), ("POST", "/release")):
            answers = [other.send(method, f"{HOLDS}/{hold_id}{path}") for hold_id in (hold["id"], UNKNOWN, "no-uuid")]
            assert {(answer.status_code, answer.get_json()["code"]) for answer in answers} == {(404, "hold_not_found")}


def test_two_holds_keep_a_chat_until_both_are_released(alice: Client, governor: Client) -> None:
    chat_id = alice.new_chat("x")
    first, second = place(governor, chat_id), place(governor, chat_id)
    assert set(governor.send("DELETE", f"{CHATS}/{chat_id}").get_json()["holds"]) == {first["id"], second["id"]}
    release(governor, first)
    assert governor.send("DELETE", f"{CHATS}/{chat_id}").get_json()["holds"] == [second["id"]]
    release(governor, second)
    assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200


class TestPreview:
    @pytest.fixture
    def either_database(self, database: Database) -> Database:
        """Only mongod: mongomock does not know the sizes of documents."""
        return database

    def test_it_says_that_the_chat_is_held(self, alice: Client, governor: Client) -> None:
        """`deletable` is false, and a key that governs sees the hold."""
        chat_id = alice.new_chat("x")
        hold = place(governor, chat_id)
        preview = governor.send("GET", f"{CHATS}/{chat_id}/deletion-preview").get_json()
        assert (preview["deletable"], preview["holds"]) == (False, [hold["id"]])
        preview = alice.send("GET", f"{CHATS}/{chat_id}/deletion-preview").get_json()
        assert (preview["deletable"], "holds" in preview) == (False, False)
        release(governor, hold)
        assert alice.send("GET", f"{CHATS}/{chat_id}/deletion-preview").get_json()["deletable"] is True


@pytest.mark.parametrize("lifted", [False, True], ids=["before its mark is gone", "after"])
def test_a_release_has_effect_at_once(alice: Client, governor: Client, either_database: Database, lifted: bool) -> None:
    """The chats can be changed although they still have its mark, which a job removes later."""
    chat_ids = [alice.new_chat("x") for _ in range(3)]
    alice.send("POST", f"{CHATS}/{chat_ids[2]}/trash", json={})
    hold = place(governor, *chat_ids)
    release(governor, hold)
    holds = Holds(either_database)
    if lifted:
        assert holds.lift_some() == 3
        assert holds.lift_some() == 0
        assert holds.are_lifted()
        assert either_database.chats.find_one({"holds.0": {"$exists": True}}) is None
        assert either_database.trash.find_one({"chat.holds.0": {"$exists": True}}) is None
    assert holds.are_lifted() is lifted
    assert alice.send("PATCH", f"{CHATS}/{chat_ids[0]}/messages/1", json={"content": "y"}).status_code == 200
    deleted = alice.send("POST", f"{CHATS}/delete", json={"chat_ids": chat_ids[:2]}).get_json()
    assert len(deleted["successful"]) == 2
    assert alice.send("DELETE", f"{TRASH}/{chat_ids[2]}").status_code == 200


def test_a_held_chat_that_a_restored_backup_has_brought_back(
    alice: Client, governor: Client, either_database: Database
) -> None:
    """It stays deleted for every caller, but its document is not removed before the hold is released."""
    chat_id = alice.new_chat("x")
    chat = either_database.chats.find_one({})
    alice.send("DELETE", f"{CHATS}/{chat_id}")
    either_database.chats.insert_one(chat)
    hold = place(governor, chat_id)
    assert alice.send("DELETE", f"{CHATS}/{chat_id}").get_json()["code"] == "not_deletable"
    Deletions(either_database).delete_again(alice.access.tenant_id, chat_id)
    assert either_database.chats.find_one({}) is not None
    release(governor, hold)
    assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 404
    assert either_database.chats.find_one({}) is None


class TestOrderOfRefusals:
    def test_the_revision_comes_before_the_hold(self, alice: Client, governor: Client) -> None:
        chat_id = alice.new_chat("x")
        place(governor, chat_id)
        stale = alice.send("DELETE", f"{CHATS}/{chat_id}", headers={"If-Match": '"99"'})
        assert stale.status_code == 412

    def test_the_hold_comes_before_connections(self, alice: Client, governor: Client, either_database) -> None:
        """So nobody waits for the connections of a chat that cannot be deleted."""
        chat_id = alice.new_chat("x")
        Presence(either_database).open(alice.access.tenant_id, chat_id, "connection", "worker")
        assert alice.send("DELETE", f"{CHATS}/{chat_id}").get_json()["code"] == "active_connections"
        place(governor, chat_id)
        assert alice.send("DELETE", f"{CHATS}/{chat_id}").get_json()["code"] == "not_deletable"
        assert alice.send("DELETE", f"{CHATS}/{chat_id}", headers={"If-Match": '"99"'}).status_code == 412


class TestWhatIsDue:
    """Jobs skip a held chat, and delete it 24 h after its release."""

    @pytest.fixture
    def expired(self, alice: Client) -> Expired:
        repository: Expired = alice.app.extensions["chat_service"].expired
        return repository

    @pytest.mark.parametrize("everything", [False, True], ids=["a chat", "everything"])
    def test_a_day_after_the_release(
        self, alice: Client, governor: Client, either_database: Database, expired: Expired, everything: bool
    ) -> None:
        tenant_id = alice.access.tenant_id
        ended, trashed = alice.new_chat("x"), alice.new_chat("x")
        alice.send("POST", f"{CHATS}/{trashed}/trash", json={})
        hold = place(governor) if everything else place(governor, ended, trashed)
        over = either_database.now() - timedelta(minutes=1)
        either_database.chats.update_many({}, {"$set": {"expires_at": over}})
        either_database.trash.update_many({}, {"$set": {"purge_at": over}})
        if not everything:
            assert expired.tenants() == [tenant_id], "the deferral is still to be logged, once"
            assert expired.take_some(tenant_id, 10) == 0
        assert expired.tenants() == []
        release(governor, hold)
        Holds(either_database).lift_some()
        assert expired.tenants() == [], "not before 24 h have passed"
        day_before = either_database.now() - timedelta(hours=24)
        either_database.chats.update_many({}, {"$set": {"hold_released_at": day_before}})
        either_database.trash.update_many({}, {"$set": {"chat.hold_released_at": day_before}})
        either_database.tenants.update_many({}, {"$set": {"hold_released_at": day_before}})
        forget(alice)
        assert expired.tenants() == [tenant_id]
        assert expired.take_some(tenant_id, 10) == 2
        receipts = alice.send("GET", "/api/v1/deletions").get_json()["items"]
        assert {receipt["chat_id"] for receipt in receipts} == {ended, trashed}


class TestTheLog:
    @pytest.fixture
    def either_database(self, database: Database) -> Database:
        """Only mongod: the log is written from a change stream."""
        return database

    @pytest.mark.usefixtures("sequencer")
    def test_only_a_key_that_governs_reads_entries_about_holds(
        self, alice: Client, governor: Client, either_database: Database
    ) -> None:
        chat_id, other = alice.new_chat("x"), alice.new_chat("x")
        hold = place(governor, chat_id)
        governor.send("POST", f"{HOLDS}/{hold['id']}/chats", json={"add": [other]})
        alice.send("DELETE", f"{CHATS}/{chat_id}")
        alice.send("PATCH", f"{CHATS}/{chat_id}/messages/1", json={"content": "y"})
        alice.send("POST", f"{CHATS}/delete", json={"chat_ids": [chat_id, other]})
        release(governor, hold)
        alice.send("DELETE", f"{CHATS}/{chat_id}")
        wait_for_head(either_database, alice.access.tenant_id, 9)
        entries = governor.send("GET", "/api/v1/log").get_json()["items"]
        assert [entry["kind"] for entry in entries] == [
            "hold.placed",
            "hold.changed",
            *["deletion.refused"] * 4,
            "hold.released",
            "chat.deleted",
            "chat.purged",
        ]
        placed, changed, refused = entries[:3]
        assert (placed["hold_id"], placed["chat_ids"], placed["everything"]) == (hold["id"], [chat_id], False)
        assert (changed["added"], changed["removed"], changed["chat_count"]) == ([other], [], 2)
        assert (refused["chat_id"], refused["actor"], refused["hold_ids"]) == (
            chat_id,
            alice.access.key_id,
            [hold["id"]],
        )
        assert "chat_id" not in placed
        withheld = alice.send("GET", "/api/v1/log").get_json()["items"]
        assert [entry["seq"] for entry in withheld] == [entry["seq"] for entry in entries], "without gaps"
        assert [entry["kind"] for entry in withheld] == [*["withheld"] * 7, "chat.deleted", "chat.purged"]
        assert all(set(entry) == {"seq", "kind", "at"} for entry in withheld[:7])
        refused = alice.send("GET", "/api/v1/log?kind=hold.placed")
        assert (refused.status_code, refused.get_json()["required_scope"]) == (403, "govern")
        assert len(governor.send("GET", "/api/v1/log?kind=hold.placed").get_json()["items"]) == 1
        live = {"headers": {"Accept": "text/event-stream"}}
        streams = [client.send("GET", "/api/v1/log", **live) for client in (alice, governor)]
        texts = [answer.get_data(as_text=True) for answer in streams]
        assert [hold["id"] in text for text in texts] == [False, True]
        assert texts[0].count("event: withheld") == 7
