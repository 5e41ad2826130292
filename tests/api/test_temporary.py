"""Temporary chats: at the millisecond of their end they are gone for everybody, even before a job deletes them."""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from chat_service.jobs.turns import Expiry
from chat_service.repository.database import Database
from chat_service.repository.presence import Presence
from tests.api.test_routes import BODIES, ON_A_CHAT, path
from tests.client import CHATS, Client

HOUR = timedelta(hours=1)


def at(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture
def soon(either_database: Database) -> str:
    return at(either_database.now() + HOUR)


@pytest.fixture
def pass_time(either_database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Return a function that sets the database's clock."""
    now = either_database.now()

    def move(by: timedelta) -> None:
        monkeypatch.setattr(either_database, "now", lambda: now + by)

    move(timedelta())
    return move


@pytest.fixture
def expired(alice: Client, either_database: Database, pass_time: Callable[[timedelta], None]) -> str:
    chat_id = alice.new_chat("one", title="Parcels", expires_at=at(either_database.now() + HOUR))
    pass_time(HOUR)
    return chat_id


class TestItsEnd:
    def test_is_shown(self, alice: Client, soon: str) -> None:
        plain, ending = alice.new_chat(), alice.new_chat(expires_at=soon)
        shown = [alice.send("GET", f"{CHATS}/{chat_id}").get_json() for chat_id in (plain, ending)]
        assert [(chat["expires_at"], chat["expires_by"]) for chat in shown] == [(None, None), (soon, "chat")]

    def test_can_be_set_moved_and_removed(self, alice: Client, soon: str) -> None:
        chat_id = alice.new_chat()
        for end in (soon, soon.replace("Z", "+00:00"), None):
            answer = alice.send("PATCH", f"{CHATS}/{chat_id}", json={"expires_at": end})
            assert (answer.status_code, answer.get_json()["expires_at"]) == (200, end and soon)

    @pytest.mark.parametrize("end", ["2020-01-01T00:00:00Z", "tomorrow", 7, "now"])
    def test_must_be_in_the_future(self, alice: Client, either_database: Database, pass_time: object, end: Any) -> None:
        del pass_time  # it stops the clock, so that "now" is still now when the request comes
        expires_at = at(either_database.now()) if end == "now" else end
        chat_id = alice.new_chat()
        for method, address in ("POST", CHATS), ("PATCH", f"{CHATS}/{chat_id}"):
            answer = alice.send(method, address, json={"expires_at": expires_at})
            assert (answer.status_code, list(answer.get_json()["errors"])) == (422, ["expires_at"])

    def test_is_to_the_millisecond(self, alice: Client, either_database: Database, pass_time) -> None:
        chat_id = alice.new_chat("x", expires_at=at(either_database.now() + HOUR))
        for by, status in (HOUR - timedelta(milliseconds=2), 200), (HOUR + timedelta(milliseconds=1), 404):
            pass_time(by)
            assert alice.send("GET", f"{CHATS}/{chat_id}").status_code == status
            assert alice.send("GET", f"{CHATS}/{chat_id}/messages").status_code == status


class TestAfterIt:
    @pytest.mark.parametrize(("method", "rule"), ON_A_CHAT)
    def test_every_route_answers_as_if_it_had_never_existed(
        self, alice: Client, expired: str, method: str, rule: str
    ) -> None:
        same = {"headers": {"X-Request-ID": "same"}, "json": BODIES.get((method, rule))}
        ended = alice.send(method, path(rule, expired), **same)
        absent = alice.send(method, path(rule, str(uuid.uuid4())), **same)
        assert ended.status_code == 404
        assert (ended.data, ended.headers) == (absent.data, absent.headers)

    def test_live_connections_change_nothing(
        self, alice: Client, either_database: Database, soon: str, pass_time
    ) -> None:
        """Nobody is asked to wait for the connections of a chat that is gone."""
        chat_id = alice.new_chat(expires_at=soon)
        Presence(either_database).open(alice.access.tenant_id, chat_id, "connection", "worker")
        pass_time(HOUR)
        either_database.presence.update_many({}, {"$set": {"expires_at": either_database.now() + HOUR}})
        assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 404
        bulk = alice.send("POST", f"{CHATS}/delete", json={"chat_ids": [chat_id, str(uuid.uuid4())]}).get_json()
        assert [failure["code"] for failure in bulk["failed"]] == ["chat_not_found"] * 2

    def test_it_is_in_no_list_and_its_id_is_retired(self, alice: Client, expired: str) -> None:
        assert alice.send("GET", CHATS).get_json()["items"] == []
        answer = alice.send("POST", CHATS, json={"id": expired})
        assert (answer.status_code, answer.get_json()["code"]) == (409, "chat_id_retired")

    def test_a_job_deletes_it_as_a_request_does(self, app: Flask, alice: Client, expired: str) -> None:
        kept = alice.new_chat("stays")
        job = Expiry(app.extensions["chat_service"].expired)
        assert (job.run_once(), job.run_once(), job.is_done()) == (1, None, True)
        receipt = alice.send("GET", f"/api/v1/deletions/{expired}").get_json()
        assert (receipt["message_count"], receipt["requested_by"]) == (1, "expiry")
        assert alice.send("GET", f"{CHATS}/{expired}").get_json()["deletion"] == f"/api/v1/deletions/{expired}"
        assert alice.send("GET", f"{CHATS}/{kept}").status_code == 200

    def test_the_job_leaves_a_chat_whose_end_was_changed(self, app: Flask, alice: Client, soon: str, pass_time) -> None:
        chat_id = alice.new_chat(expires_at=soon)
        alice.send("PATCH", f"{CHATS}/{chat_id}", json={"expires_at": None})
        pass_time(HOUR * 2)
        assert Expiry(app.extensions["chat_service"].expired).run_once() is None
        assert alice.send("GET", f"{CHATS}/{chat_id}").status_code == 200


class TestInTheTrash:
    def test_it_is_not_kept_beyond_its_end(self, alice: Client, soon: str, pass_time) -> None:
        chat_id = alice.new_chat("x", expires_at=soon)
        assert alice.send("POST", f"{CHATS}/{chat_id}/trash").get_json()["purge_at"] == soon
        pass_time(HOUR)
        assert alice.send("POST", f"/api/v1/trash/{chat_id}/restore").status_code == 404

    def test_a_restore_keeps_its_end(self, alice: Client, soon: str) -> None:
        chat_id = alice.new_chat("x", expires_at=soon)
        alice.send("POST", f"{CHATS}/{chat_id}/trash")
        assert alice.send("POST", f"/api/v1/trash/{chat_id}/restore").get_json()["expires_at"] == soon
