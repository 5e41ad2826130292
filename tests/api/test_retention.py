"""Retention: chats without activity are removed, not too early, and not while a hold or a connection keeps them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from chat_service.jobs.retaining import Retaining
from chat_service.models import Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.holds import Holds
from chat_service.repository.presence import Presence
from chat_service.repository.tenants import Tenants
from tests.client import CHATS, Client, TenantAccess

RETENTION = "/api/v1/retention"

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def governor(app: Flask, alice: Client, either_database: Database) -> Client:
    """The tenant of alice, with a key of all scopes."""
    key, made = ApiKeys(either_database).create(alice.access.tenant_id, "governor", Scope)
    return Client(app, TenantAccess(alice.access.tenant_id, key, made.id))


@pytest.fixture
def pass_time(alice: Client, either_database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Return a function that sets the database's clock, and clears the caches of keys and tenants' rules."""
    now = either_database.now()

    def move(by: timedelta) -> None:
        monkeypatch.setattr(either_database, "now", lambda: now + by)
        forget(alice)

    move(timedelta())
    return move


def forget(client: Client) -> None:
    """Clear the caches of keys and tenants' rules."""
    service = client.app.extensions["chat_service"]
    service.keys._callers.clear()
    service.database.rules._tenants.clear()


def put(governor: Client, days: int, **more: Any) -> dict[str, Any]:
    answer = governor.send("PUT", RETENTION, json={"delete_after_days": days, **more})
    assert answer.status_code == 200, answer.get_data()
    forget(governor)
    policy: dict[str, Any] = answer.get_json()
    return policy


def run_job(client: Client) -> int:
    """Run the retention job until it has nothing to do; return how many chats it removed."""
    job, removed = Retaining(client.app.extensions["chat_service"].retention), 0
    while (number := job.run_once()) is not None:
        removed += number
    return removed


def status(client: Client, chat_id: str) -> int:
    return client.send("GET", f"{CHATS}/{chat_id}").status_code


class TestThePolicy:
    def test_the_response(self, governor: Client, alice: Client) -> None:
        none = governor.send("GET", RETENTION)
        assert (none.status_code, none.get_json()["code"]) == (404, "no_retention")
        policy = put(governor, 90)
        assert list(policy) == [
            "delete_after_days",
            "action",
            "max_per_day",
            "active_from",
            "changed_at",
            "changed_by",
            "before",
        ]
        assert (policy["delete_after_days"], policy["action"], policy["max_per_day"]) == (90, "delete", 100_000)
        assert (policy["changed_by"], policy["before"]) == (governor.access.key_id, None)
        assert governor.send("GET", RETENTION).get_json() == policy
        assert put(governor, 90) == policy, "the same again is no change"
        assert alice.send("GET", RETENTION).get_json()["required_scope"] == "govern"
        assert governor.send("DELETE", RETENTION).status_code == 204
        assert governor.send("DELETE", RETENTION).status_code == 404
        assert governor.send("GET", RETENTION).status_code == 404

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"delete_after_days": 0},
            {"delete_after_days": 3_651},
            {"delete_after_days": "90"},
            {"delete_after_days": True},
            {"delete_after_days": 90, "action": "archive"},
            {"delete_after_days": 90, "max_per_day": 0},
            {"delete_after_days": 90, "max_per_day": 100_001},
        ],
    )
    def test_an_invalid_body_is_422(self, governor: Client, body: dict[str, Any]) -> None:
        assert governor.send("PUT", RETENTION, json=body).status_code == 422
        assert governor.send("GET", RETENTION).status_code == 404

    def test_a_retry_gets_the_first_response(self, governor: Client) -> None:
        request = {"json": {"delete_after_days": 9}, "headers": {"Idempotency-Key": "k"}}
        first, again = (governor.send("PUT", RETENTION, **request) for _ in range(2))
        assert first.get_json() == again.get_json()

    def test_expires_at_follows_the_policy(self, alice: Client, governor: Client, pass_time) -> None:
        """A chat shows its end and whether it is its own or the policy's; a new policy changes the ETag for reads."""
        chat_id = alice.new_chat("x")
        own = alice.new_chat(expires_at="2100-01-01T00:00:00.000Z")
        before = alice.send("GET", f"{CHATS}/{chat_id}")
        assert (before.get_json()["expires_at"], before.get_json()["expires_by"]) == (None, None)
        put(governor, 90)
        seen = {"headers": {"If-None-Match": before.headers["ETag"]}}
        after = alice.send("GET", f"{CHATS}/{chat_id}", **seen)
        assert after.status_code == 200
        shown = after.get_json()
        assert shown["expires_by"] == "policy"
        assert shown["expires_at"] > shown["updated_at"]
        assert {chat["expires_by"] for chat in alice.send("GET", CHATS).get_json()["items"]} == {"chat", "policy"}
        assert alice.send("GET", f"{CHATS}/{own}").get_json()["expires_at"] == "2100-01-01T00:00:00.000Z"
        etag = {"headers": {"If-Match": after.headers["ETag"]}}
        assert alice.send("PATCH", f"{CHATS}/{chat_id}", json={"title": "t"}, **etag).status_code == 200
        assert alice.send("PATCH", f"{CHATS}/{chat_id}", json={"title": "t"}, **etag).status_code == 412
        del pass_time


class TestRemoval:
    def test_after_its_days_and_not_before(self, alice: Client, governor: Client, pass_time) -> None:
        """The job deletes a chat as a request does, with a receipt; a chat with later activity stays."""
        chat_id, active = alice.new_chat("x", "y"), alice.new_chat("x")
        put(governor, 10)
        pass_time(10 * DAY - HOUR)
        assert run_job(alice) == 0
        alice.send("POST", f"{CHATS}/{active}/messages", json={"content": "y"})
        pass_time(10 * DAY + HOUR)
        assert (status(alice, chat_id), status(alice, active)) == (200, 200)
        assert run_job(alice) == 1
        assert (status(alice, chat_id), status(alice, active)) == (404, 200)
        receipt = alice.send("GET", f"/api/v1/deletions/{chat_id}").get_json()
        assert (receipt["requested_by"], receipt["message_count"]) == ("retention", 2)
        assert run_job(alice) == 0

    def test_a_changed_policy_has_effect_after_a_day(self, alice: Client, governor: Client, pass_time) -> None:
        chat_id = alice.new_chat("x")
        pass_time(20 * DAY)
        put(governor, 10)
        pass_time(21 * DAY - HOUR)
        assert run_job(alice) == 0
        pass_time(21 * DAY + HOUR)
        assert run_job(alice) == 1
        assert status(alice, chat_id) == 404

    def test_until_then_both_policies_must_agree(self, alice: Client, governor: Client, pass_time) -> None:
        """In the day after a change the longer time counts, and the trash comes before a delete."""
        old = alice.new_chat("x")
        put(governor, 20)
        pass_time(10 * DAY)
        young = alice.new_chat("x")
        pass_time(25 * DAY)
        changed = put(governor, 5, action="trash")
        assert changed["before"] == {"delete_after_days": 20, "action": "delete", "max_per_day": 100_000}
        assert run_job(alice) == 1
        assert alice.send("GET", f"/api/v1/trash/{old}").status_code == 200, "to the trash, by the stricter of the two"
        assert status(alice, young) == 200
        pass_time(26 * DAY + HOUR)
        assert run_job(alice) == 1
        assert alice.send("GET", f"/api/v1/trash/{young}").get_json()["trashed_by"] == "retention"

    def test_the_end_of_a_policy_has_effect_at_once(self, alice: Client, governor: Client, pass_time) -> None:
        chat_id = alice.new_chat("x")
        put(governor, 10)
        pass_time(30 * DAY)
        governor.send("DELETE", RETENTION)
        assert run_job(alice) == 0
        assert status(alice, chat_id) == 200

    def test_a_chat_with_connections_is_skipped(
        self, alice: Client, governor: Client, either_database: Database, pass_time
    ) -> None:
        put(governor, 10)
        chat_id, other = alice.new_chat("x"), alice.new_chat("x")
        pass_time(11 * DAY)
        Presence(either_database).open(alice.access.tenant_id, chat_id, "connection", "worker")
        assert run_job(alice) == 1
        assert (status(alice, chat_id), status(alice, other)) == (200, 404)
        Presence(either_database).close("worker", ["connection"])
        assert run_job(alice) == 1

    def test_a_chats_own_end_overrides_the_policy(
        self, alice: Client, governor: Client, either_database, pass_time
    ) -> None:
        """Even a later one does; when it is removed, the policy applies again."""
        later = (either_database.now() + 50 * DAY).isoformat()
        chat_id = alice.new_chat("x", expires_at=later)
        put(governor, 10)
        pass_time(20 * DAY)
        assert run_job(alice) == 0
        alice.send("PATCH", f"{CHATS}/{chat_id}", json={"expires_at": None})
        pass_time(31 * DAY)
        assert run_job(alice) == 1

    @pytest.mark.parametrize("everything", [False, True], ids=["a chat", "everything"])
    def test_a_held_chat_stays(
        self, alice: Client, governor: Client, either_database: Database, pass_time, everything: bool
    ) -> None:
        chat_id = alice.new_chat("x")
        put(governor, 10)
        holds = Holds(either_database)
        hold = holds.place(alice.access.tenant_id, "n", None if everything else [chat_id], "key")
        pass_time(11 * DAY)
        assert run_job(alice) == 0
        assert governor.send("GET", f"{RETENTION}/preview?delete_after_days=10").get_json()["chats"] == everything
        holds.release(alice.access.tenant_id, hold.id, "key")
        holds.lift_some()
        pass_time(12 * DAY - HOUR)
        assert run_job(alice) == 0, "24 h after the release"
        pass_time(12 * DAY + HOUR)
        assert run_job(alice) == 1

    def test_a_restore_counts_as_activity(self, alice: Client, governor: Client, pass_time) -> None:
        """Otherwise the chat would be in the trash again within a minute."""
        chat_id = alice.new_chat("x")
        put(governor, 10, action="trash")
        pass_time(11 * DAY)
        assert run_job(alice) == 1
        restored = alice.send("POST", f"/api/v1/trash/{chat_id}/restore").get_json()
        assert restored["expires_by"] == "policy"
        assert run_job(alice) == 0
        assert alice.send("GET", f"{CHATS}/{chat_id}").get_json()["expires_at"] == restored["expires_at"]
        pass_time(22 * DAY)
        assert run_job(alice) == 1

    def test_with_grace_the_removal_can_be_taken_back(
        self, alice: Client, governor: Client, either_database, pass_time
    ) -> None:
        Tenants(either_database).set_grace(alice.access.tenant_id, 7 * DAY)
        chat_id = alice.new_chat("x")
        put(governor, 10)
        pass_time(11 * DAY)
        assert run_job(alice) == 1
        assert status(alice, chat_id) == 404
        assert governor.send("POST", f"/api/v1/trash/{chat_id}/restore").status_code == 200

    def test_no_more_than_max_per_day(self, alice: Client, governor: Client, pass_time) -> None:
        for _ in range(12):
            alice.new_chat("x")
        put(governor, 10, max_per_day=5)
        for day in range(3):
            pass_time((11 + day) * DAY)
            assert run_job(alice) == [5, 5, 2][day]
            assert run_job(alice) == 0

    def test_skipped_chats_do_not_count(self, alice: Client, governor: Client, either_database, pass_time) -> None:
        chats = [alice.new_chat("x") for _ in range(6)]
        put(governor, 10, max_per_day=5)
        pass_time(11 * DAY)
        for number in range(3):
            Presence(either_database).open(alice.access.tenant_id, chats[number], f"connection-{number}", "worker")
        assert sum(run_job(alice) for _ in range(2)) == 3

    def test_tenants_take_turns(self, app: Flask, alice: Client, governor: Client, new_tenant, pass_time) -> None:
        """No tenant waits for another, and one without a policy keeps all its chats."""
        others = [Client(app, new_tenant(*Scope)) for _ in range(2)]
        for client in (alice, *others):
            client.new_chat("x")
        put(governor, 10)
        put(others[0], 10)
        pass_time(11 * DAY)
        assert run_job(alice) == 2
        assert len(others[1].send("GET", CHATS).get_json()["items"]) == 1


def test_the_preview_counts(alice: Client, governor: Client, either_database: Database, pass_time) -> None:
    for _ in range(3):
        alice.new_chat("x", "y")
    held = alice.new_chat("x")
    Holds(either_database).place(alice.access.tenant_id, "n", [held], "key")
    alice.new_chat("x", expires_at=(either_database.now() + 90 * DAY).isoformat())
    pass_time(20 * DAY)
    alice.new_chat("x")
    preview = governor.send("GET", f"{RETENTION}/preview?delete_after_days=10").get_json()
    as_of = preview.pop("as_of")
    assert as_of > "2026"
    assert preview == {"delete_after_days": 10, "chats": 3, "messages": 6, "held": 1}
    none = governor.send("GET", f"{RETENTION}/preview?delete_after_days=30").get_json()
    assert (none["chats"], none["messages"], none["held"]) == (0, 0, 0)
    assert governor.send("GET", f"{RETENTION}/preview").status_code == 422
    put(governor, 10)
    pass_time(21 * DAY + HOUR)
    assert run_job(alice) == 3, "as the preview said"


def test_overdue_chats_are_reported(app: Flask, alice: Client, governor: Client, either_database, pass_time) -> None:
    """Chats that are two days late are counted for each tenant and in all, except held and connected ones."""
    chats = [alice.new_chat("x") for _ in range(4)]
    put(governor, 10)
    policies = alice.app.extensions["chat_service"].retention
    pass_time(11 * DAY)
    assert policies.overdue() == {}
    pass_time(13 * DAY)
    assert policies.overdue() == {alice.access.tenant_id: 4}
    Holds(either_database).place(alice.access.tenant_id, "n", [chats[0]], "key")
    Presence(either_database).open(alice.access.tenant_id, chats[1], "connection", "worker")
    assert policies.overdue() == {alice.access.tenant_id: 2}
    assert policies.overdue_in_all(1.0) == 2
    run_job(alice)
    assert policies.overdue() == {}
    del app
