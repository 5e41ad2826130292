"""Grace: a delete that a key with `govern` can take back; for all other keys the chat is deleted for good."""

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
    """A tenant whose deletes can be taken back, with a key of the default scopes."""
    Tenants(either_database).set_grace(alice.access.tenant_id, timedelta(days=7))
    alice.app.extensions["chat_service"].keys._callers.clear()  # as after the 4 s for which it is cached
    return alice


@pytest.fixture
def governor(app: Flask, graced: Client, either_database: Database) -> Client:
    """The same tenant, with a key of all scopes."""
    key, made = ApiKeys(either_database).create(graced.access.tenant_id, "governor", Scope)
    return Client(app, TenantAccess(graced.access.tenant_id, key, made.id))


def responses(client: Client, chat_id: str) -> list[tuple[int, Any]]:
    """Return the response of every route about a chat, without the fields that differ in each response."""
    requests = [
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
    received = []
    for method, path, body in requests:
        answer = client.send(method, path, **({} if body is None else {"json": body}))
        payload = answer.get_json()
        for name in ("request_id", "deleted_at"):
            payload.pop(name, None)
        received.append((answer.status_code, payload))
    return received


def test_every_route_answers_as_if_the_chat_were_deleted(graced: Client, bob: Client) -> None:
    """The responses are the same as for a chat that another tenant has deleted for good."""
    in_grace, of_bob = (client.new_chat("one", "two", title="Parcels") for client in (graced, bob))
    deleted = graced.send("DELETE", f"{CHATS}/{in_grace}")
    for_good = bob.send("DELETE", f"{CHATS}/{of_bob}")
    assert deleted.get_json().keys() == for_good.get_json().keys()
    assert deleted.get_json()["message"] == "Chat deleted successfully"
    expected = [(status, str(payload).replace(of_bob, in_grace)) for status, payload in responses(bob, of_bob)]
    assert [(status, str(payload)) for status, payload in responses(graced, in_grace)] == expected
    answer = graced.send("GET", f"{CHATS}/{in_grace}").get_json()
    assert answer["deleted_at"] == deleted.get_json()["deleted_at"]


def test_the_receipt_exists_at_once_and_does_not_change(graced: Client, either_database: Database) -> None:
    """It can be read alone and in the list; when the grace is over, only its `purge` has changed."""
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
    listed = [receipt["chat_id"] for receipt in graced.send("GET", RECEIPTS).get_json()["items"]]
    assert sorted(listed) == sorted([*ids, for_good])
    paged, cursor = [], ""
    while cursor is not None:
        page = graced.send("GET", f"{RECEIPTS}?limit=1{cursor and f'&cursor={cursor}'}").get_json()
        paged += [receipt["chat_id"] for receipt in page["items"]]
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
    chat_id, other = chat_ids = [graced.new_chat("one", "two", title="Parcels") for _ in range(2)]
    for each in chat_ids:
        assert graced.send("DELETE", f"{CHATS}/{each}").status_code == 200
    assert governor.send("GET", f"{TRASH}/{chat_id}").get_json()["message_count"] == 2
    assert len(governor.send("GET", TRASH).get_json()["items"]) == 2
    assert governor.send("GET", f"{CHATS}/{chat_id}").status_code == 404
    assert governor.send("DELETE", f"{CHATS}/{chat_id}").status_code == 404, "it is deleted"
    assert governor.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 200
    assert governor.send("POST", f"{TRASH}/restore", json={"chat_ids": [other]}).get_json()["failed"] == []
    for each in chat_ids:
        assert graced.send("GET", f"{CHATS}/{each}/messages").get_json()["items"][1]["content"] == "two"
        assert graced.send("GET", f"{RECEIPTS}/{each}").status_code == 404


def test_a_key_that_governs_ends_the_grace(graced: Client, governor: Client) -> None:
    chat_id = graced.new_chat("one")
    graced.send("DELETE", f"{CHATS}/{chat_id}")
    assert graced.send("DELETE", f"{TRASH}/{chat_id}").status_code == 404
    assert governor.send("DELETE", f"{TRASH}/{chat_id}").status_code == 200
    assert graced.send("GET", f"{RECEIPTS}/{chat_id}").get_json()["purge"]["state"] == "complete"
    assert governor.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 404


def test_a_delete_out_of_the_trash_has_a_grace_too(graced: Client, governor: Client) -> None:
    """The chat is then hidden in the trash, except from a key that governs."""
    chat_id = graced.new_chat("one")
    graced.send("POST", f"{CHATS}/{chat_id}/trash", json={})
    assert graced.send("GET", f"{TRASH}/{chat_id}").status_code == 200
    assert graced.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200
    assert graced.send("GET", f"{TRASH}/{chat_id}").status_code == 404
    assert governor.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 200


def test_a_retry_gets_the_first_response(graced: Client) -> None:
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
    """A chat that was deleted before can still be restored."""
    before, after = graced.new_chat("one"), graced.new_chat("one")
    graced.send("DELETE", f"{CHATS}/{before}")
    Tenants(either_database).set_grace(graced.access.tenant_id, timedelta())
    graced.app.extensions["chat_service"].keys._callers.clear()
    graced.send("DELETE", f"{CHATS}/{after}")
    assert [chat["id"] for chat in governor.send("GET", TRASH).get_json()["items"]] == [before]
    assert "deletion" in graced.send("GET", f"{CHATS}/{before}").get_json()
    assert governor.send("POST", f"{TRASH}/{after}/restore").status_code == 404


def test_govern_includes_no_other_scope(app: Flask, new_tenant) -> None:
    governor = Client(app, new_tenant("govern"))
    assert governor.send("GET", CHATS).status_code == 403
    assert governor.send("GET", TRASH).status_code == 403
    assert governor.send("GET", "/api/v1/me").get_json()["scopes"] == ["govern"]


def test_the_command_line_sets_it(app: Flask, alice: Client) -> None:
    def run(*words: str) -> tuple[int, str]:
        result = app.test_cli_runner().invoke(args=["tenants", "grace", *words])
        return result.exit_code, result.output

    assert run(alice.access.tenant_id, "7d") == (0, "Deleted chats can be restored for 7 d.\n")
    assert run(alice.access.tenant_id, "off") == (0, "Deletes are final at once.\n")
    assert run("nobody", "7d")[0] == 1
    for wrong in ("0d", "91d", "7", "x"):
        assert run(alice.access.tenant_id, wrong)[0] == 2
