"""Receipts, bulk deletes, previews, and safe retries."""

import time

import pytest
from flask import Flask

from chat_service.repository.database import Database
from chat_service.repository.presence import Presence
from tests.api.test_routes import BODIES, ON_A_CHAT, path
from tests.client import CHATS, Client

DELETIONS = "/api/v1/deletions"
UNKNOWN = "11111111-2222-4333-8444-555555555555"

REAL = pytest.mark.parametrize("either_database", ["mongod"], indirect=True)
"""For what mongomock cannot do: sizes of documents, and rollbacks."""


def delete(client: Client, chat_id: str, **headers: str):
    return client.send("DELETE", f"{CHATS}/{chat_id}", headers={k.replace("_", "-"): v for k, v in headers.items()})


class TestReceipts:
    def test_of_a_deleted_chat(self, alice: Client) -> None:
        """It says what was deleted, when and by whom, and that the purge is complete; it has no content."""
        chat_id = alice.new_chat("one", "two", title="secret")
        deleted_at = delete(alice, chat_id).get_json()["deleted_at"]
        receipt = alice.send("GET", f"{DELETIONS}/{chat_id}").get_json()
        assert receipt["purge"].pop("completed_at").startswith(deleted_at[:-1])
        assert receipt == {
            "chat_id": chat_id,
            "deleted_at": deleted_at,
            "message_count": 2,
            "purge": {"state": "complete", "deleted": 2, "remaining": 0, "estimated_at": None},
            "requested_by": alice.access.key_id,
        }

    def test_of_an_existing_chat_is_404(self, alice: Client) -> None:
        """Only deleted chats have receipts."""
        answer = alice.send("GET", f"{DELETIONS}/{alice.new_chat()}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")

    def test_are_listed_latest_first(self, alice: Client, bob: Client) -> None:
        """Pages are linked by cursors, and have no receipt of another tenant."""
        ids = [alice.new_chat() for _ in range(5)]
        for chat_id in ids:
            delete(alice, chat_id)
            time.sleep(0.002)  # receipts of the same millisecond are sorted by id
        delete(bob, bob.new_chat())
        listed, cursor = [], ""
        for _ in range(3):
            page = alice.send("GET", f"{DELETIONS}?limit=2{cursor}").get_json()
            listed += [receipt["chat_id"] for receipt in page["items"]]
            cursor = f"&cursor={page['next_cursor']}"
        assert listed == ids[::-1]
        assert page["next_cursor"] is None

    def test_since(self, alice: Client) -> None:
        """`since` limits the list to receipts from that time on."""
        first, second = alice.new_chat(), alice.new_chat()
        delete(alice, first)
        time.sleep(0.002)
        delete(alice, second)
        since = alice.send("GET", f"{DELETIONS}/{second}").get_json()["purge"]["completed_at"]
        page = alice.send("GET", f"{DELETIONS}?since={since}").get_json()
        assert [receipt["chat_id"] for receipt in page["items"]] == [second]
        assert alice.send("GET", f"{DELETIONS}?since=yesterday").status_code == 422

    def test_a_cursor_of_another_list_is_400(self, alice: Client) -> None:
        """A cursor of the list of chats is refused."""
        alice.new_chat(), alice.new_chat()
        cursor = alice.send("GET", f"{CHATS}?limit=1").get_json()["next_cursor"]
        answer = alice.send("GET", f"{DELETIONS}?cursor={cursor}")
        assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_cursor")


class TestPreview:
    def test_is_404_for_another_tenant(self, alice: Client, bob: Client) -> None:
        """The response is the one for a chat that never existed."""
        assert bob.send("GET", f"{CHATS}/{alice.new_chat()}/deletion-preview").status_code == 404

    @REAL
    def test_says_what_would_be_deleted(self, alice: Client) -> None:
        """It has messages, bytes and connections; a delete with its ETag fails if the chat has changed since."""
        chat_id = alice.new_chat("one", "two")
        answer = alice.send("GET", f"{CHATS}/{chat_id}/deletion-preview")
        preview = answer.get_json()
        assert 200 < preview.pop("bytes") < 1_000
        assert preview == {
            "chat_id": chat_id,
            "message_count": 2,
            "active_connections": 0,
            "bytes_estimated": False,
            "mode": "inline",
            "deletable": True,
        }
        alice.send("POST", f"{CHATS}/{chat_id}/messages", json={"content": "three"})
        assert delete(alice, chat_id, If_Match=answer.headers["ETag"]).status_code == 412


class TestBulk:
    def test_each_has_a_result(self, alice: Client, bob: Client, either_database: Database) -> None:
        """Own chats are deleted; another tenant's, unknown, connected and malformed ones fail, and stop no other."""
        own = [alice.new_chat("x"), alice.new_chat()]
        busy, foreign = alice.new_chat(), bob.new_chat("stays")
        Presence(either_database).open(alice.access.tenant_id, busy, "connection", "worker")
        requested_ids = [own[0], foreign, UNKNOWN, busy, "no-uuid", own[1].upper(), own[0]]
        answer = alice.send("POST", f"{CHATS}/delete", json={"chat_ids": requested_ids})
        assert answer.status_code == 200
        results = answer.get_json()
        assert [done["chat_id"] for done in results["successful"]] == own
        assert {(failure["chat_id"], failure["status"], failure["code"]) for failure in results["failed"]} == {
            (foreign, 404, "chat_not_found"),
            (UNKNOWN, 404, "chat_not_found"),
            (busy, 409, "active_connections"),
            ("no-uuid", 400, "invalid_chat_id"),
        }
        assert bob.send("GET", f"{CHATS}/{foreign}").get_json()["message_count"] == 1
        assert alice.send("GET", f"{CHATS}/{busy}").status_code == 200
        assert alice.send("GET", f"{DELETIONS}/{own[0]}").get_json()["message_count"] == 1
        assert either_database.messages.count_documents({"_id.tenant_id": alice.access.tenant_id}) == 0

    @pytest.mark.parametrize("ids", [[], [UNKNOWN] * 1_001, "x", [1], None])
    def test_of_none_or_too_many_is_422(self, alice: Client, ids: object) -> None:
        """A bulk delete takes 1 to 1,000 ids."""
        answer = alice.send("POST", f"{CHATS}/delete", json={"chat_ids": ids})
        assert (answer.status_code, answer.get_json()["code"]) == (422, "validation_error")

    def test_more_than_a_group(self, alice: Client, either_database: Database) -> None:
        """Every chat of several groups is deleted, and has its own receipt."""
        ids = [alice.new_chat("x") for _ in range(60)]
        results = alice.send("POST", f"{CHATS}/delete", json={"chat_ids": ids}).get_json()
        assert [done["chat_id"] for done in results["successful"]] == ids
        assert either_database.deletions.count_documents({"message_count": 1}) == 60
        assert either_database.messages.count_documents({}) == either_database.chats.count_documents({}) == 0

    def test_a_large_chat_is_left_to_a_purge(self, alice: Client) -> None:
        """Its receipt says that the purge is running."""
        chat_id = alice.new_chat(*["x"] * 101)
        alice.send("POST", f"{CHATS}/delete", json={"chat_ids": [chat_id, alice.new_chat("x")]})
        purge = alice.send("GET", f"{DELETIONS}/{chat_id}").get_json()["purge"]
        assert (purge["state"], purge["remaining"]) == ("running", 101)

    @REAL
    def test_a_wrong_message_count_is_not_used(self, alice: Client, either_database: Database) -> None:
        """The receipts have the numbers of messages that were really removed."""
        ids = [alice.new_chat("x", "y"), alice.new_chat("x")]
        either_database.chats.update_many({}, {"$set": {"message_count": 3}})
        alice.send("POST", f"{CHATS}/delete", json={"chat_ids": ids})
        counts = [alice.send("GET", f"{DELETIONS}/{chat_id}").get_json()["message_count"] for chat_id in ids]
        assert counts == [2, 1]


class TestIdempotencyKey:
    def test_a_repeated_delete_gets_the_first_answer(self, alice: Client) -> None:
        """It is the same byte for byte; with another key, or none, the response is 404."""
        chat_id = alice.new_chat("x")
        first = delete(alice, chat_id, Idempotency_Key="k")
        assert first.status_code == 200
        time.sleep(1.01)  # `deleted_at` is in whole seconds
        assert delete(alice, chat_id, Idempotency_Key="k").data == first.data
        assert delete(alice, chat_id, Idempotency_Key="other").status_code == 404
        assert delete(alice, chat_id).status_code == 404

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("", {"title": "a chat", "metadata": {"a": 1}}),
            ("", {"id": UNKNOWN}),
            ("/{}/messages", {"messages": [{"content": "one"}, {"content": "two", "role": "tool"}]}),
        ],
    )
    def test_a_repeated_post_does_nothing(self, alice: Client, either_database: Database, path, body) -> None:
        """The response is the first one, byte for byte, and nothing more is stored."""
        target = CHATS + path.format(alice.new_chat())
        sent = {"json": body, "headers": {"Idempotency-Key": "k"}}
        first = alice.send("POST", target, **sent)
        assert first.status_code == 201
        stored = [collection.count_documents({}) for collection in (either_database.chats, either_database.messages)]
        again = alice.send("POST", target, **sent)
        assert (again.status_code, again.data) == (201, first.data)
        assert again.headers.get("Location") == first.headers.get("Location")
        assert stored == [c.count_documents({}) for c in (either_database.chats, either_database.messages)]

    def test_a_repeated_bulk_gets_the_first_answer(self, alice: Client) -> None:
        """It is the same byte for byte, although the chats are already deleted."""
        sent = {"json": {"chat_ids": [alice.new_chat(), UNKNOWN]}, "headers": {"Idempotency-Key": "k"}}
        first = alice.send("POST", f"{CHATS}/delete", **sent)
        assert [len(listed) for listed in first.get_json().values()] == [1, 1]
        assert alice.send("POST", f"{CHATS}/delete", **sent).data == first.data

    def test_a_bulk_that_was_cut_off_goes_on(self, alice: Client, either_database: Database) -> None:
        """Chats that the first run deleted count as deleted, even if that run never returned a response."""
        ids = [alice.new_chat() for _ in range(3)]
        sent = {"json": {"chat_ids": ids}, "headers": {"Idempotency-Key": "k"}}
        alice.send("POST", f"{CHATS}/delete", **sent)
        either_database.idempotency.delete_many({})
        results = alice.send("POST", f"{CHATS}/delete", **sent).get_json()
        assert [done["chat_id"] for done in results["successful"]] == ids

    def test_another_request_with_the_key_is_422(self, alice: Client) -> None:
        """The second request changes nothing."""
        first, other = alice.new_chat(), alice.new_chat()
        delete(alice, first, Idempotency_Key="k")
        answer = delete(alice, other, Idempotency_Key="k")
        assert (answer.status_code, answer.get_json()["code"]) == (422, "idempotency_key_reused")
        assert alice.send("GET", f"{CHATS}/{other}").status_code == 200

    def test_belongs_to_the_tenant(self, alice: Client, bob: Client) -> None:
        """The same Idempotency-Key of another tenant is another key."""
        assert delete(alice, alice.new_chat(), Idempotency_Key="k").status_code == 200
        assert delete(bob, bob.new_chat(), Idempotency_Key="k").status_code == 200

    def test_a_refusal_is_not_kept(self, alice: Client, either_database: Database) -> None:
        """A retry is decided anew: the reason for a 409 may be gone."""
        chat_id = alice.new_chat()
        presence = Presence(either_database)
        presence.open(alice.access.tenant_id, chat_id, "connection", "worker")
        assert delete(alice, chat_id, Idempotency_Key="k").status_code == 409
        presence.close("worker", ["connection"])
        assert delete(alice, chat_id, Idempotency_Key="k").status_code == 200

    def test_keeps_no_content(self, alice: Client, either_database: Database) -> None:
        """Idempotency records contain no content, so that none outlives its chat."""
        body = {"content": "secret words", "metadata": {"secret": 1}}
        path = f"{CHATS}/{alice.new_chat()}/messages"
        alice.send("POST", path, json=body, headers={"Idempotency-Key": "k"})
        (record,) = either_database.idempotency.find()
        assert "secret" not in str(record)

    @pytest.mark.parametrize("key", ["", "x" * 256, "a b", "é"])
    def test_a_wrong_key_is_400(self, alice: Client, key: str) -> None:
        """A key has 1 to 255 visible ASCII characters."""
        chat_id = alice.new_chat()
        answer = delete(alice, chat_id, Idempotency_Key=key)
        assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_idempotency_key")
        assert alice.send("GET", f"{CHATS}/{chat_id}").status_code == 200


def test_a_repetition_is_answered_as_before_the_chat_was_deleted(app: Flask, alice: Client) -> None:
    """A retry of a post that succeeded gets its first response; a post with another key is refused."""
    chat_id = alice.new_chat()
    path, key = f"{CHATS}/{chat_id}/messages", {"Idempotency-Key": "post"}
    first = alice.send("POST", path, json={"content": "x"}, headers=key)
    assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200
    app.extensions["chat_service"].receipts._without.clear()  # as in a process that has served no request for this chat
    again = alice.send("POST", path, json={"content": "x"}, headers=key)
    assert (again.status_code, again.get_json()) == (201, first.get_json())
    assert alice.send("POST", path, json={"content": "x"}, headers={"Idempotency-Key": "other"}).status_code == 404


class TestRestored:
    """A restored backup has brought a chat back beside its receipt: to every route it is deleted."""

    @pytest.fixture
    def restored(self, app: Flask, either_database: Database, alice: Client) -> str:
        chat_id = alice.new_chat("a", "b")
        kept = {name: list(either_database.database[name].find({})) for name in ("chats", "messages")}
        assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200
        for name, documents in kept.items():
            either_database.database[name].insert_many(documents)
        app.extensions["chat_service"].receipts._without.clear()  # as after the 30 s for which it is cached
        return chat_id

    def test_every_route_says_so(self, alice: Client, restored: str) -> None:
        for method, rule in ON_A_CHAT:
            if rule.endswith("/proof"):  # a proof needs a log entry, and no sequencer runs in this test
                continue
            body = {"json": BODIES[method, rule]} if (method, rule) in BODIES else {}
            answer = alice.send(method, path(rule, restored), **body)
            is_receipt = rule.startswith("/api/v1/deletions")
            assert answer.status_code == (200 if is_receipt else 404), (method, rule)
            assert is_receipt or answer.get_json()["code"] == "chat_not_found", (method, rule)

    @pytest.mark.usefixtures("restored")
    def test_no_list_shows_it(self, alice: Client) -> None:
        """It takes up no place of a page either."""
        others = [alice.new_chat() for _ in range(3)]
        alice.send("PATCH", f"{CHATS}/{others[0]}", json={"title": "latest"})
        listed = alice.send("GET", f"{CHATS}?limit=2").get_json()
        more = alice.send("GET", f"{CHATS}?limit=2&cursor={listed['next_cursor']}").get_json()
        assert {chat["id"] for chat in listed["items"] + more["items"]} == set(others)
        assert more["next_cursor"] is None

    def test_its_id_stays_retired(self, alice: Client, restored: str) -> None:
        assert alice.send("POST", CHATS, json={"id": restored}).get_json()["code"] == "chat_id_retired"

    def test_a_delete_finishes_it(self, either_database: Database, alice: Client, restored: str) -> None:
        assert alice.send("DELETE", f"{CHATS}/{restored}").status_code == 404
        assert either_database.chats.count_documents({}) == 0
        assert alice.send("GET", f"/api/v1/deletions/{restored}").status_code == 200
