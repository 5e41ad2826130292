"""The trash over HTTP: chats in it are hidden from all other routes, can be restored, and are deleted for good."""

import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from chat_service.errors import InvalidApiKeyError
from chat_service.repository.presence import Presence
from tests.api.test_routes import BODIES, ON_A_CHAT, path
from tests.client import CHATS, Client

TRASH = "/api/v1/trash"


def trash(client: Client, chat_id: str, **kwargs: Any) -> Any:
    return client.send("POST", f"{CHATS}/{chat_id}/trash", **kwargs)


def due(database: Any, chat_id: str) -> None:
    """End a chat's time in the trash."""
    database.trash.update_one({"_id.chat_id": chat_id}, {"$set": {"purge_at": database.now()}})


@pytest.fixture
def trashed(alice: Client) -> str:
    chat_id = alice.new_chat("one", "two", title="Parcels", metadata={"customer": 42})
    assert trash(alice, chat_id, json={}).status_code == 200
    return chat_id


ELSEWHERE = [
    operation
    for operation in ON_A_CHAT
    if operation not in {("DELETE", "/api/v1/chats/<chat_id>"), ("POST", "/api/v1/chats/<chat_id>/trash")}
    and not operation[1].startswith(TRASH)
]


class TestHidden:
    @pytest.mark.parametrize(("method", "rule"), ELSEWHERE)
    def test_every_route_answers_as_if_it_had_never_existed(
        self, alice: Client, trashed: str, method: str, rule: str
    ) -> None:
        same = {"headers": {"X-Request-ID": "same"}, "json": BODIES.get((method, rule))}
        hidden = alice.send(method, path(rule, trashed), **same)
        absent = alice.send(method, path(rule, str(uuid.uuid4())), **same)
        assert hidden.status_code == 404
        assert (hidden.data, hidden.headers) == (absent.data, absent.headers)

    @pytest.mark.parametrize(
        ("method", "rule"), [(method, rule) for method, rule in ON_A_CHAT if not rule.startswith("/api/v1/deletions/")]
    )
    def test_a_deleted_chat_differs_only_by_its_receipt(
        self, alice: Client, trashed: str, method: str, rule: str
    ) -> None:
        """The 404 for a chat that the tenant itself has deleted names the receipt, and is otherwise the same."""
        deleted_at = alice.send("DELETE", f"{CHATS}/{trashed}").get_json()["deleted_at"]
        same = {"headers": {"X-Request-ID": "same"}, "json": BODIES.get((method, rule))}
        deleted = alice.send(method, path(rule, trashed), **same)
        absent = alice.send(method, path(rule, str(uuid.uuid4())), **same)
        problem = deleted.get_json()
        if problem["code"] == "chat_not_found":
            assert problem.pop("deleted_at") == deleted_at
            assert problem.pop("deletion") == f"/api/v1/deletions/{trashed}"
        assert (deleted.status_code, problem) == (404, absent.get_json())

    def test_it_is_in_no_list(self, alice: Client, trashed: str) -> None:
        del trashed
        assert alice.send("GET", CHATS).get_json()["items"] == []
        assert alice.send("GET", "/api/v1/deletions").get_json()["items"] == []

    def test_its_id_is_still_in_use(self, alice: Client, trashed: str) -> None:
        """Creating a chat never restores one."""
        answer = alice.send("POST", CHATS, json={"id": trashed})
        assert (answer.status_code, answer.get_json()["code"]) == (409, "chat_in_trash")

    def test_another_tenant_sees_nothing_of_it(self, alice: Client, bob: Client, trashed: str) -> None:
        assert bob.send("GET", TRASH).get_json()["items"] == []
        for method, at in ("GET", ""), ("DELETE", ""), ("POST", "/restore"):
            assert bob.send(method, f"{TRASH}/{trashed}{at}").get_json()["code"] == "not_in_trash"
        assert bob.send("DELETE", f"{CHATS}/{trashed}").status_code == 404
        assert trash(bob, trashed, json={}).status_code == 404
        assert alice.send("GET", f"{TRASH}/{trashed}").status_code == 200


class TestMoving:
    def test_the_response(self, alice: Client) -> None:
        chat_id = alice.new_chat("x")
        answer = trash(alice, chat_id, json={"keep_days": 7}).get_json()
        assert list(answer) == ["success", "message", "trashed_at", "purge_at"]
        assert (answer["success"], answer["message"]) == (True, "Chat moved to trash")
        assert trash(alice, chat_id, json={"keep_days": 90}).get_json() == answer, "trashing it again changes nothing"
        shown = alice.send("GET", f"{TRASH}/{chat_id}").get_json()
        assert shown == {
            "id": chat_id,
            "title": None,
            "message_count": 1,
            "trashed_at": answer["trashed_at"],
            "purge_at": answer["purge_at"],
            "trashed_by": alice.access.key_id,
            "held": False,
        }
        assert alice.send("GET", TRASH).get_json() == {"items": [shown], "next_cursor": None}

    @pytest.mark.parametrize("body", [{"data": b""}, {"json": {}}, {}], ids=["empty", "an object", "none"])
    def test_by_default_it_is_kept_for_30_days(self, alice: Client, either_database, body: dict[str, Any]) -> None:
        chat_id = alice.new_chat()
        assert trash(alice, chat_id, **body).status_code == 200
        kept = either_database.trash.find_one({})
        assert kept["purge_at"] - kept["trashed_at"] == timedelta(days=30)

    def test_a_whole_number_may_have_a_fraction_of_zero(self, alice: Client, either_database) -> None:
        assert trash(alice, alice.new_chat(), json={"keep_days": 2.0}).status_code == 200
        kept = either_database.trash.find_one({})
        assert kept["purge_at"] - kept["trashed_at"] == timedelta(days=2)

    @pytest.mark.parametrize("days", [0, 91, "7", 1.5, True, None, [7]])
    def test_invalid_keep_days_are_refused(self, alice: Client, days: object) -> None:
        chat_id = alice.new_chat()
        assert trash(alice, chat_id, json={"keep_days": days}).status_code == 422
        assert alice.send("GET", f"{CHATS}/{chat_id}").status_code == 200

    def test_if_match_must_be_the_current_etag(self, alice: Client) -> None:
        chat_id = alice.new_chat("x")
        assert trash(alice, chat_id, json={}, headers={"If-Match": '"1"'}).status_code == 412
        tag = alice.send("GET", f"{CHATS}/{chat_id}").headers["ETag"]
        assert trash(alice, chat_id, json={}, headers={"If-Match": tag}).status_code == 200

    def test_live_connections_refuse_it_unless_it_evicts_them(self, alice: Client, either_database) -> None:
        """A wrong ETag is refused first, so that nobody waits in vain for connections to close."""
        chat_id = alice.new_chat("x")
        Presence(either_database).open(alice.access.tenant_id, chat_id, "connection", "worker")
        for send in (trash, lambda client, chat_id, **more: client.send("DELETE", f"{CHATS}/{chat_id}", **more)):
            assert send(alice, chat_id, headers={"If-Match": '"1"'}).status_code == 412
            assert send(alice, chat_id).get_json()["code"] == "active_connections"
        assert alice.send("POST", f"{CHATS}/{chat_id}/trash?on_active=evict").status_code == 200
        assert either_database.presence.count_documents({}) == 0

    def test_a_retry_with_a_key_gets_the_same_response_and_does_nothing(self, alice: Client) -> None:
        """A late retry does not trash a chat again that was restored in between."""
        chat_id = alice.new_chat("x")
        key = {"headers": {"Idempotency-Key": "k"}}
        first = trash(alice, chat_id, **key).get_json()
        assert alice.send("POST", f"{TRASH}/{chat_id}/restore").status_code == 200
        assert trash(alice, chat_id, **key).get_json() == first
        assert alice.send("GET", f"{CHATS}/{chat_id}").status_code == 200


class TestRestoring:
    def test_it_is_as_it_was(self, alice: Client, trashed: str) -> None:
        """Everything is the same except the revision: an ETag from before no longer matches."""
        other = alice.new_chat("one", "two", title="Parcels")
        seen = [alice.send("GET", f"{CHATS}/{other}{at}") for at in ("", "/messages")]
        tag = seen[0].headers["ETag"]
        trash(alice, other)
        restored = alice.send("POST", f"{TRASH}/{other}/restore")
        assert restored.status_code == 200
        now = [alice.send("GET", f"{CHATS}/{other}{at}") for at in ("", "/messages")]
        assert [answer.data for answer in now] == [answer.data for answer in seen]
        assert restored.data == now[0].data
        assert restored.headers["ETag"] == now[0].headers["ETag"] != tag
        assert alice.send("DELETE", f"{CHATS}/{other}", headers={"If-Match": tag}).status_code == 412
        posted = alice.send("POST", f"{CHATS}/{other}/messages", json={"content": "three"}).get_json()
        assert posted["messages"][0]["seq"] == 3
        assert alice.send("GET", f"{CHATS}/{trashed}").status_code == 404

    def test_of_a_chat_that_is_not_in_the_trash(self, alice: Client, trashed: str) -> None:
        assert alice.send("POST", f"{TRASH}/{trashed}/restore").status_code == 200
        for chat_id in (trashed, alice.new_chat(), str(uuid.uuid4())):
            answer = alice.send("POST", f"{TRASH}/{chat_id}/restore")
            assert (answer.status_code, answer.get_json()["code"]) == (404, "not_in_trash")

    def test_a_retry_with_a_key_gets_the_chat(self, alice: Client, trashed: str) -> None:
        key = {"headers": {"Idempotency-Key": "k"}}
        first = alice.send("POST", f"{TRASH}/{trashed}/restore", **key)
        again = alice.send("POST", f"{TRASH}/{trashed}/restore", **key)
        assert (first.status_code, again.get_json()) == (200, first.get_json())

    def test_a_ticket_from_before_is_not_valid(self, app: Flask, alice: Client) -> None:
        """A restore brings back the chat, but no ticket from before it."""
        chat_id, tickets = alice.new_chat(), app.extensions["chat_service"].tickets
        before = alice.send("POST", f"{CHATS}/{chat_id}/tickets").get_json()["ticket"]
        trash(alice, chat_id)
        alice.send("POST", f"{TRASH}/{chat_id}/restore")
        time.sleep(0.002)  # tickets and restores are told apart by milliseconds, and in doubt a ticket is refused
        after = alice.send("POST", f"{CHATS}/{chat_id}/tickets").get_json()["ticket"]
        with pytest.raises(InvalidApiKeyError):
            tickets.redeem(before, chat_id)
        assert tickets.redeem(after, chat_id).tenant_id == alice.access.tenant_id


class TestItsEnd:
    def test_a_delete_of_the_chat_is_for_good(self, alice: Client, trashed: str) -> None:
        answer = alice.send("DELETE", f"{CHATS}/{trashed}")
        assert (answer.status_code, list(answer.get_json())) == (200, ["success", "message", "deleted_at"])
        assert alice.send("GET", f"{TRASH}/{trashed}").status_code == 404
        assert alice.send("GET", f"/api/v1/deletions/{trashed}").get_json()["message_count"] == 2
        assert alice.send("POST", CHATS, json={"id": trashed}).get_json()["code"] == "chat_id_retired"

    def test_a_delete_in_the_trash_is_for_good_too(self, alice: Client, trashed: str) -> None:
        """It deletes only what is in the trash: a chat outside is not touched."""
        alive = alice.new_chat()
        assert alice.send("DELETE", f"{TRASH}/{alive}").get_json()["code"] == "not_in_trash"
        assert alice.send("GET", f"{CHATS}/{alive}").status_code == 200
        assert alice.send("DELETE", f"{TRASH}/{trashed}").status_code == 200
        assert alice.send("DELETE", f"{TRASH}/{trashed}").status_code == 404

    def test_when_its_time_is_over_no_route_finds_it(self, alice: Client, either_database, trashed: str) -> None:
        """It is gone even before a job has deleted it."""
        due(either_database, trashed)
        assert alice.send("GET", TRASH).get_json()["items"] == []
        assert alice.send("GET", f"{TRASH}/{trashed}").status_code == 404
        assert alice.send("POST", f"{TRASH}/{trashed}/restore").status_code == 404
        assert alice.send("DELETE", f"{TRASH}/{trashed}").status_code == 404
        assert alice.send("DELETE", f"{CHATS}/{trashed}").status_code == 404
        assert trash(alice, trashed).status_code == 404
        assert alice.send("POST", CHATS, json={"id": trashed}).status_code == 409

    def test_its_404_says_that_it_was_deleted(self, alice: Client, bob: Client, trashed: str) -> None:
        """Every route says so to its own tenant; to another tenant it looks like a chat that never existed."""
        at = alice.send("DELETE", f"{CHATS}/{trashed}").get_json()["deleted_at"]
        for method, address in ("GET", ""), ("DELETE", ""), ("GET", "/messages"), ("POST", "/trash"):
            answer = alice.send(method, f"{CHATS}/{trashed}{address}").get_json()
            assert (answer["deleted_at"], answer["deletion"]) == (at, f"/api/v1/deletions/{trashed}")
            assert alice.send("GET", answer["deletion"]).status_code == 200
            assert "deleted_at" not in bob.send(method, f"{CHATS}/{trashed}{address}").get_json()


class TestManyAtOnce:
    def test_each_has_a_result(self, alice: Client) -> None:
        ids = [alice.new_chat("x") for _ in range(10)]
        requested_ids = [*ids, "no uuid", str(uuid.uuid4()), ids[0]]
        done = alice.send("POST", f"{CHATS}/trash", json={"chat_ids": requested_ids, "keep_days": 1}).get_json()
        assert [success["chat_id"] for success in done["successful"]] == ids
        assert [failure["code"] for failure in done["failed"]] == ["chat_not_found", "invalid_chat_id"]
        assert len(alice.send("GET", TRASH).get_json()["items"]) == 10
        done = alice.send("POST", f"{TRASH}/restore", json={"chat_ids": requested_ids}).get_json()
        assert done["successful"] == [{"chat_id": chat_id, "message_count": 1} for chat_id in ids]
        assert [failure["code"] for failure in done["failed"]] == ["not_in_trash", "invalid_chat_id"]
        assert len(alice.send("GET", CHATS).get_json()["items"]) == 10

    def test_a_retry_with_a_key_continues(self, alice: Client) -> None:
        """Chats that the first run trashed count as done, even if they were restored since."""
        ids = [alice.new_chat("x") for _ in range(3)]
        key = {"headers": {"Idempotency-Key": "k"}, "json": {"chat_ids": ids}}
        first = alice.send("POST", f"{CHATS}/trash", **key).get_json()
        alice.send("POST", f"{TRASH}/{ids[1]}/restore")
        assert alice.send("POST", f"{CHATS}/trash", **key).get_json() == first
        assert alice.send("GET", f"{CHATS}/{ids[1]}").status_code == 200

    def test_pages(self, alice: Client) -> None:
        ids = [alice.new_chat() for _ in range(5)]
        alice.send("POST", f"{CHATS}/trash", json={"chat_ids": ids})
        listed, cursor = [], None
        while True:
            page = alice.send("GET", f"{TRASH}?limit=2{f'&cursor={cursor}' if cursor else ''}").get_json()
            listed += [chat["id"] for chat in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert sorted(listed) == sorted(ids)
