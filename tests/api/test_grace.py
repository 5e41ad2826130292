"""Grace: a delete that only a key with `govern` can tell from one for good, and take back."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from chat_service.models import Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.expired import Expired
from chat_service.repository.tenants import Tenants
from tests.client import CHATS, Client, TenantAccess

TRASH, RECEIPTS = "/api/v1/trash", "/api/v1/deletions"


@pytest.fixture
def graced(alice: Client, either_database: Database) -> Client:
    """A tenant whose deletes can be taken back, with a key of the everyday scopes."""
    Tenants(either_database).set_grace(alice.access.tenant_id, timedelta(days=7))
    alice.app.extensions["chat_service"].keys._callers.clear()  # as after its 4 s
    return alice


@pytest.fixture
def governor(app: Flask, graced: Client, either_database: Database) -> Client:
    """The same tenant, with a key of all scopes."""
    key, made = ApiKeys(either_database).create(graced.access.tenant_id, "governor", Scope)
    return Client(app, TenantAccess(graced.access.tenant_id, key, made.id))


def seen(client: Client, chat_id: str) -> list[tuple[int, Any]]:
    """What every route says of a chat, but for what is new in each answer."""
    asked = [
        ("GET", f"{CHATS}/{chat_id}", None),
        ("GET", f"{CHATS}/{chat_id}/messages", None),
        ("POST", f"{CHATS}/{chat_id}/messages", {"content": "x"}),
        ("PATCH", f"{CHATS}/{chat_id}", {"title": "x"}),
        ("GET", f"{CHATS}/{chat_id}/export", None),
        ("DELETE", f"{CHATS}/{chat_id}", None),
        ("POST", f"{CHATS}/{chat_id}/trash", {}),
        ("GET", f"{TRASH}/{chat_id}", None),
        ("GET", TRASH, None),
        ("POST", f"{TRASH}/{chat_id}/restore", None),
        ("DELETE", f"{TRASH}/{chat_id}", None),
        ("POST", CHATS, {"id": chat_id}),
        ("POST", f"{CHATS}/delete", {"chat_ids": [chat_id]}),
        ("POST", f"{TRASH}/restore", {"chat_ids": [chat_id]}),
        ("GET", CHATS, None),
    ]
    found = []
    for method, path, body in asked:
        answer = client.send(method, path, **({} if body is None else {"json": body}))
        told = answer.get_json()
        for name in ("request_id", "deleted_at"):
            told.pop(name, None)
        found.append((answer.status_code, told))
    return found


def test_every_route_answers_as_if_the_chat_were_deleted(graced: Client, bob: Client) -> None:
    """The same, to the word, as of a chat that another tenant has deleted for good."""
    chat_id, of_bob = (client.new_chat("one", "two", title="Parcels") for client in (graced, bob))
    deleted, for_good = (client.send("DELETE", f"{CHATS}/{one}") for client, one in ((graced, chat_id), (bob, of_bob)))
    assert deleted.get_json().keys() == for_good.get_json().keys()
    assert deleted.get_json()["message"] == "Chat deleted successfully"
    expected = [(status, str(told).replace(of_bob, chat_id)) for status, told in seen(bob, of_bob)]
    assert [(status, str(told)) for status, told in seen(graced, chat_id)] == expected
    answer = graced.send("GET", f"{CHATS}/{chat_id}").get_json()
    assert answer["deleted_at"] == deleted.get_json()["deleted_at"]


def test_the_receipt_is_there_and_stays_as_it_is(graced: Client, either_database: Database) -> None:
    """Alone and in the list; and when the time is over, only its purge has changed."""
    ids = [graced.new_chat("one", "two") for _ in range(3)]
    for_good = graced.new_chat()
    graced.send("DELETE", f"{CHATS}/{ids[0]}?export_sha256={'a' * 64}")
    graced.send("POST", f"{CHATS}/delete", json={"chat_ids": ids[1:]})
    Deletions(either_database).delete(graced.access.tenant_id, for_good, "key")
    before = graced.send("GET", f"{RECEIPTS}/{ids[0]}").get_json()
    assert before["purge"] | {"estimated_at": None} == {
        "state": "running", "deleted": 0, "remaining": 2, "completed_at": None, "estimated_at": None,
    }  # fmt: skip
    assert before["export_sha256"] == "a" * 64
    listed = [one["chat_id"] for one in graced.send("GET", RECEIPTS).get_json()["items"]]
    assert sorted(listed) == sorted([*ids, for_good])
    paged, cursor = [], ""
    while cursor is not None:
        page = graced.send("GET", f"{RECEIPTS}?limit=1{cursor and f'&cursor={cursor}'}").get_json()
        paged += [one["chat_id"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert paged == listed
    either_database.trash.update_many({}, {"$set": {"purge_at": either_database.now()}})
    expired = Expired(either_database, Deletions(either_database))
    for tenant_id in expired.tenants():
        expired.take_some(tenant_id, 10)
    after = graced.send("GET", f"{RECEIPTS}/{ids[0]}").get_json()
    assert after["purge"]["state"] == "complete"
    assert {**after, "purge": 0} == {**before, "purge": 0}
    assert after["purge"]["completed_at"][:19] >= after["deleted_at"][:19]
    if type(either_database) is Database:
        assert list(Checks(either_database).run()) == []


def test_a_key_that_governs_sees_it_and_brings_it_back(graced: Client, governor: Client) -> None:
    chat_id, other = (graced.new_chat("one", "two", title="Parcels") for _ in range(2))
    for one in (chat_id, other):
        assert graced.send("DELETE", f"{CHATS}/{one}").status_code == 200
    assert governor.send("GET", f"{TRASH}/{chat_id}").get_json()["message_count"] == 2
    assert len(governor.send("GET", TRASH).get_json()["items"]) == 2
    assert governor.send("GET", f"{CHATS}/{chat_id}").status_code == 404
    assert governor.send("DELETE", f"{CHATS}/{chat_id}").status_code == 404, "it is deleted"
    assert governor.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 200
    assert governor.send("POST", f"{TRASH}/restore", json={"chat_ids": [other]}).get_json()["failed"] == []
    for one in (chat_id, other):
        assert graced.send("GET", f"{CHATS}/{one}/messages").get_json()["items"][1]["content"] == "two"
        assert graced.send("GET", f"{RECEIPTS}/{one}").status_code == 404


def test_a_key_that_governs_ends_the_grace(graced: Client, governor: Client) -> None:
    chat_id = graced.new_chat("one")
    graced.send("DELETE", f"{CHATS}/{chat_id}")
    assert graced.send("DELETE", f"{TRASH}/{chat_id}").status_code == 404
    assert governor.send("DELETE", f"{TRASH}/{chat_id}").status_code == 200
    assert graced.send("GET", f"{RECEIPTS}/{chat_id}").get_json()["purge"]["state"] == "complete"
    assert governor.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 404


def test_what_is_in_the_trash_goes_into_grace(graced: Client, governor: Client) -> None:
    """From there it is hidden too."""
    chat_id = graced.new_chat("one")
    graced.send("POST", f"{CHATS}/{chat_id}/trash", json={})
    assert graced.send("GET", f"{TRASH}/{chat_id}").status_code == 200
    assert graced.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200
    assert graced.send("GET", f"{TRASH}/{chat_id}").status_code == 404
    assert governor.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 200


def test_a_repetition_is_answered_as_the_first(graced: Client) -> None:
    chat_id = graced.new_chat("one")
    key = {"headers": {"Idempotency-Key": "k"}}
    first, second = (graced.send("DELETE", f"{CHATS}/{chat_id}", **key) for _ in range(2))
    assert (first.status_code, first.data) == (200, second.data)
    bulk = graced.new_chat("one")
    first, second = (
        graced.send("POST", f"{CHATS}/delete", json={"chat_ids": [bulk]}, headers={"Idempotency-Key": "b"})
        for _ in range(2)
    )
    assert first.get_json()["successful"][0]["chat_id"] == bulk
    assert first.data == second.data


def test_when_it_is_off_deletes_are_for_good(graced: Client, governor: Client, either_database: Database) -> None:
    """And what was deleted before can still be brought back."""
    before, after = graced.new_chat("one"), graced.new_chat("one")
    graced.send("DELETE", f"{CHATS}/{before}")
    Tenants(either_database).set_grace(graced.access.tenant_id, timedelta())
    graced.app.extensions["chat_service"].keys._callers.clear()
    graced.send("DELETE", f"{CHATS}/{after}")
    assert [one["id"] for one in governor.send("GET", TRASH).get_json()["items"]] == [before]
    assert "deletion" in graced.send("GET", f"{CHATS}/{before}").get_json()
    assert governor.send("POST", f"{TRASH}/{after}/restore").status_code == 404


def test_govern_includes_none_of_the_others(app: Flask, new_tenant) -> None:
    only = Client(app, new_tenant("govern"))
    assert only.send("GET", CHATS).status_code == 403
    assert only.send("GET", TRASH).status_code == 403
    assert only.send("GET", "/api/v1/me").get_json()["scopes"] == ["govern"]


def test_the_command_line_grants_it(app: Flask, alice: Client) -> None:
    def run(*words: str) -> tuple[int, str]:
        result = app.test_cli_runner().invoke(args=["tenants", "grace", *words])
        return result.exit_code, result.output

    assert run(alice.access.tenant_id, "7d") == (0, "Deleted chats can be restored for 7 d.\n")
    assert run(alice.access.tenant_id, "off") == (0, "Deletes are final at once.\n")
    assert run("nobody", "7d")[0] == 1
    for wrong in ("0d", "91d", "7", "x"):
        assert run(alice.access.tenant_id, wrong)[0] == 2
