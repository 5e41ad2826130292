"""Chats over HTTP, on mongomock and on mongod."""

import re

import pytest

from chat_service.repository.database import Database
from chat_service.repository.presence import Presence
from tests.client import CHATS, Client

UNKNOWN = "11111111-2222-4333-8444-555555555555"


class TestDelete:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked first, and without one nothing is said about the chat."""
        chat_id = alice.new_chat("hello")
        answer = alice.send("DELETE", f"{CHATS}/{chat_id}", headers={"X-API-Key": ""})
        assert (answer.status_code, answer.get_json()["code"]) == (401, "invalid_api_key")
        assert alice.send("GET", f"{CHATS}/{chat_id}").get_json()["message_count"] == 1

    def test_of_another_tenants_chat_is_404_and_changes_nothing(self, alice: Client, bob: Client) -> None:
        """The response for another tenant's chat is identical to that for a chat that never existed."""
        chat_id = alice.new_chat("hello")
        request_id = {"X-Request-ID": "same"}
        foreign = bob.send("DELETE", f"{CHATS}/{chat_id}", headers=request_id)
        absent = bob.send("DELETE", f"{CHATS}/{UNKNOWN}", headers=request_id)
        assert foreign.status_code == 404
        assert (foreign.data, foreign.headers) == (absent.data, absent.headers)
        assert alice.send("GET", f"{CHATS}/{chat_id}").get_json()["message_count"] == 1

    def test_response_is_as_published_and_everything_is_removed(self, alice: Client, either_database: Database) -> None:
        """The response is 200 with exactly the three published fields; no document of the chat is left."""
        chat_id = alice.new_chat("one", "two")
        other = alice.new_chat("stays")
        answer = alice.send("DELETE", f"{CHATS}/{chat_id}")
        assert answer.status_code == 200
        assert answer.mimetype == "application/json"
        assert re.fullmatch(
            r'\{"success": true, "message": "Chat deleted successfully", '
            r'"deleted_at": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"\}',
            answer.get_data(as_text=True),
        )
        assert alice.send("GET", f"{CHATS}/{chat_id}").status_code == 404
        assert alice.send("GET", f"{CHATS}/{chat_id}/messages").status_code == 404
        assert [chat["_id"]["chat_id"] for chat in either_database.chats.find()] == [other]
        assert [message["content"] for message in either_database.messages.find()] == ["stays"]

    def test_writes_a_receipt_without_content(self, alice: Client, either_database: Database) -> None:
        """The receipt says what was deleted, when and with which key, and contains no title and no message."""
        chat_id = alice.new_chat("secret words", title="secret title")
        alice.send("DELETE", f"{CHATS}/{chat_id}")
        (receipt,) = either_database.deletions.find()
        assert receipt.pop("deleted_at")
        assert receipt.pop("operation")
        assert receipt == {
            "_id": {"tenant_id": alice.access.tenant_id, "chat_id": chat_id},
            "message_count": 1,
            "staged": False,
            "requested_by": alice.access.key_id,
        }

    def test_twice_is_404(self, alice: Client) -> None:
        """A chat can be deleted only once."""
        chat_id = alice.new_chat()
        assert [alice.send("DELETE", f"{CHATS}/{chat_id}").status_code for _ in range(2)] == [200, 404]

    def test_with_live_connections_is_409_and_changes_nothing(self, alice: Client, either_database: Database) -> None:
        """The response has the number of connections; once they are closed, the delete succeeds."""
        chat_id = alice.new_chat("hello")
        presence = Presence(either_database)
        for connection in ("a", "b"):
            presence.open(alice.access.tenant_id, chat_id, connection, "worker")
        answer = alice.send("DELETE", f"{CHATS}/{chat_id}")
        assert answer.status_code == 409
        assert answer.headers["Retry-After"].isdecimal()
        body = answer.get_json()
        assert (body["code"], body["active_connections"], body["success"]) == ("active_connections", 2, False)
        chat = alice.send("GET", f"{CHATS}/{chat_id}").get_json()
        assert (chat["message_count"], chat["active_connections"]) == (1, 2)
        for connection in ("a", "b"):
            presence.close("worker", [connection])
        assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200

    def test_accepts_the_uuid_in_upper_case(self, alice: Client) -> None:
        """RFC 9562: hexadecimal digits are accepted in either case."""
        chat_id = alice.new_chat()
        assert alice.send("DELETE", f"{CHATS}/{chat_id.upper()}").status_code == 200

    @pytest.mark.parametrize("scopes", [("read",), ("write",), ("read", "write")])
    def test_without_the_scope_is_403(self, app, new_tenant, scopes) -> None:
        """Reading and writing do not include deleting."""
        answer = Client(app, new_tenant(*scopes)).send("DELETE", f"{CHATS}/{UNKNOWN}")
        assert (answer.status_code, answer.get_json()["code"]) == (403, "insufficient_scope")
        assert answer.get_json()["required_scope"] == "delete"


class TestCreate:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked before the body: the response is 401 even if the body is invalid."""
        assert alice.send("POST", CHATS, headers={"X-API-Key": ""}, data=b"{").status_code == 401

    def test_under_another_tenants_id_is_201(self, alice: Client, bob: Client) -> None:
        """Ids are separate for each tenant, so nobody can find out which ids another tenant uses."""
        chat_id = alice.new_chat()
        assert bob.send("POST", CHATS, json={"id": chat_id}).status_code == 201

    def test_returns_the_chat_and_its_location(self, alice: Client) -> None:
        """The response is 201 with Location, and a GET of that address returns the same chat."""
        answer = alice.send("POST", CHATS, json={"title": "Hi 🎉", "metadata": {"a": [1, {"b": None}]}})
        assert answer.status_code == 201
        chat = answer.get_json()
        assert answer.headers["Location"] == f"{CHATS}/{chat['id']}"
        assert alice.send("GET", answer.headers["Location"]).get_json() == chat
        assert (chat["title"], chat["metadata"]) == ("Hi 🎉", {"a": [1, {"b": None}]})
        assert (chat["message_count"], chat["active_connections"], chat["last_message_at"]) == (0, 0, None)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", chat["created_at"])

    def test_under_an_id_in_use_is_409(self, alice: Client) -> None:
        """The existing chat does not change."""
        chat_id = alice.new_chat(title="first")
        answer = alice.send("POST", CHATS, json={"id": chat_id.upper(), "title": "second"})
        assert (answer.status_code, answer.get_json()["code"]) == (409, "chat_exists")
        assert alice.send("GET", f"{CHATS}/{chat_id}").get_json()["title"] == "first"

    def test_under_a_deleted_id_is_409(self, alice: Client) -> None:
        """The id of a deleted chat is never used again."""
        chat_id = alice.new_chat()
        alice.send("DELETE", f"{CHATS}/{chat_id}")
        answer = alice.send("POST", CHATS, json={"id": chat_id})
        assert (answer.status_code, answer.get_json()["code"]) == (409, "chat_id_retired")
        assert alice.send("GET", f"{CHATS}/{chat_id}").status_code == 404


class TestGet:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked first."""
        assert alice.send("GET", f"{CHATS}/{alice.new_chat()}", headers={"X-API-Key": "wrong"}).status_code == 401

    def test_of_another_tenants_chat_is_404(self, alice: Client, bob: Client) -> None:
        """The response is the one for a chat that never existed."""
        answer = bob.send("GET", f"{CHATS}/{alice.new_chat()}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "chat_not_found")

    def test_counts_messages(self, alice: Client) -> None:
        """message_count and last_message_at change with each message."""
        chat = alice.send("GET", f"{CHATS}/{alice.new_chat('a', 'b')}").get_json()
        assert chat["message_count"] == 2
        assert chat["last_message_at"] == chat["updated_at"]

    def test_etag_changes_with_every_change(self, alice: Client) -> None:
        """A change of the chat or of its messages changes the ETag."""
        chat_id = alice.new_chat("a")
        tags = [alice.send("GET", f"{CHATS}/{chat_id}").headers["ETag"]]
        for method, path, body in (
            ("POST", "/messages", {"content": "b"}),
            ("PATCH", "/messages/1", {"content": "A"}),
            ("DELETE", "/messages/1", None),
            ("PATCH", "", {"title": "t"}),
            ("DELETE", "/messages", None),
        ):
            alice.send(method, f"{CHATS}/{chat_id}{path}", json=body)
            tags.append(alice.send("GET", f"{CHATS}/{chat_id}").headers["ETag"])
        assert len(set(tags)) == len(tags)

    def test_with_a_matching_if_none_match_is_304(self, alice: Client) -> None:
        """A 304 has no body and the same ETag; with any other If-None-Match the whole chat is returned."""
        path = f"{CHATS}/{alice.new_chat()}"
        seen = alice.send("GET", path).headers["ETag"]
        for tags in (seen, f"W/{seen}", f'"x", {seen}', "*"):
            answer = alice.send("GET", path, headers={"If-None-Match": tags})
            assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", seen)
            assert answer.headers["Cache-Control"] == "private, no-cache"
        for tags in ('"0"', '"', "", '""', "x", f"{seen}x"):
            answer = alice.send("GET", path, headers={"If-None-Match": tags})
            assert (answer.status_code, answer.headers["ETag"]) == (200, seen)
        alice.send("PATCH", path, json={"title": "t"})
        assert alice.send("GET", path, headers={"If-None-Match": seen}).get_json()["title"] == "t"

    def test_with_a_changed_number_of_connections_is_not_304(self, alice: Client, either_database: Database) -> None:
        """The body has their number, so 304 would be wrong; but for If-Match they are no change."""
        chat_id = alice.new_chat()
        path = f"{CHATS}/{chat_id}"
        tags = [alice.send("GET", path).headers["ETag"]]
        for number in range(2):
            Presence(either_database).open(alice.access.tenant_id, chat_id, f"connection {number}", "worker")
            answer = alice.send("GET", path, headers={"If-None-Match": ", ".join(tags)})
            assert (answer.status_code, answer.get_json()["active_connections"]) == (200, number + 1)
            tags.append(answer.headers["ETag"])
        assert alice.send("GET", path, headers={"If-None-Match": tags[-1]}).status_code == 304
        for seen, status in ((tags[0], 200), (tags[1], 412), (tags[2], 412)):
            assert alice.send("PATCH", path, json={"title": "t"}, headers={"If-Match": seen}).status_code == status
        changed = alice.send("GET", path).headers["ETag"]
        assert alice.send("PATCH", path, json={"title": "u"}, headers={"If-Match": changed}).status_code == 200


class TestUpdate:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked first."""
        assert alice.send("PATCH", f"{CHATS}/{UNKNOWN}", headers={"X-API-Key": ""}).status_code == 401

    def test_changes_only_the_given_fields(self, alice: Client) -> None:
        """The response is 200 with the whole chat; fields that are not in the body stay."""
        chat_id = alice.new_chat("hello", title="old", metadata={"a": 1})
        before = alice.send("GET", f"{CHATS}/{chat_id}").get_json()
        changed = alice.send("PATCH", f"{CHATS}/{chat_id}", json={"title": None}).get_json()
        assert changed.pop("updated_at") >= before.pop("updated_at")
        assert changed == {**before, "title": None}

    def test_with_an_outdated_etag_is_412(self, alice: Client) -> None:
        """A change that the caller has not seen is not overwritten; with the new ETag, or *, the update succeeds."""
        chat_id = alice.new_chat(title="first")
        path = f"{CHATS}/{chat_id}"
        seen = alice.send("GET", path).headers["ETag"]
        second = alice.send("PATCH", path, json={"title": "second"}, headers={"If-Match": seen})
        assert second.status_code == 200
        for stale in (seen, 'W/"2"', '"rubbish"', '""', 'W/""', '"x", "" ,W/"2"', '"2,"'):
            answer = alice.send("PATCH", path, json={"title": "third"}, headers={"If-Match": stale})
            assert (answer.status_code, answer.get_json()["code"]) == (412, "precondition_failed")
        assert alice.send("GET", path).get_json()["title"] == "second"
        for fresh in (f'"0", {second.headers["ETag"]}', "*"):
            assert alice.send("PATCH", path, json={"title": "x"}, headers={"If-Match": fresh}).status_code == 200

    def test_delete_honours_if_match_too(self, alice: Client) -> None:
        """A chat that has got a message since the caller read it is not deleted."""
        chat_id = alice.new_chat()
        path = f"{CHATS}/{chat_id}"
        seen = alice.send("GET", path).headers["ETag"]
        alice.send("POST", f"{path}/messages", json={"content": "wait"})
        assert alice.send("DELETE", path, headers={"If-Match": seen}).status_code == 412
        now = alice.send("GET", path)
        assert now.get_json()["message_count"] == 1
        assert alice.send("DELETE", path, headers={"If-Match": now.headers["ETag"]}).status_code == 200
        assert alice.send("DELETE", path, headers={"If-Match": now.headers["ETag"]}).status_code == 404


class TestList:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked first."""
        assert alice.send("GET", CHATS, headers={"X-API-Key": ""}).status_code == 401

    def test_shows_the_tenants_own_chats_only(self, alice: Client, bob: Client) -> None:
        """The list has no chat of another tenant."""
        chat_id = alice.new_chat(title="mine")
        bob.new_chat(title="yours")
        (item,) = alice.send("GET", CHATS).get_json()["items"]
        assert item == alice.send("GET", f"{CHATS}/{chat_id}").get_json()

    @pytest.mark.parametrize("limit", [1, 2, 3, 7])
    def test_runs_from_the_latest_activity_to_the_earliest(self, alice: Client, limit: int) -> None:
        """Each chat is listed once, in pages of the requested size, although chats are added and deleted meanwhile."""
        ids = [alice.new_chat() for _ in range(7)]
        alice.send("POST", f"{CHATS}/{ids[2]}/messages", json={"content": "bump"})
        seen: list[tuple[str, str]] = []
        query = f"limit={limit}"
        while query:
            page = alice.send("GET", f"{CHATS}?{query}").get_json()
            seen += [(chat["updated_at"], chat["id"]) for chat in page["items"]]
            assert len(page["items"]) <= limit
            alice.new_chat()  # at the top of the list, which this loop has passed already
            alice.send("DELETE", f"{CHATS}/{page['items'][-1]['id']}")
            query = f"limit={limit}&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        times, seen_ids = zip(*seen, strict=True)
        assert sorted(seen_ids) == sorted(ids)
        assert list(times) == sorted(times, reverse=True)
        assert (max(times), ids[2]) in seen

    def test_counts_live_connections(self, alice: Client, either_database: Database) -> None:
        """Each chat in the list has the number of its own connections."""
        ids = [alice.new_chat() for _ in range(3)]
        for number, chat_id in enumerate(ids):
            for connection in range(number):
                Presence(either_database).open(alice.access.tenant_id, chat_id, f"{number}-{connection}", "worker")
        items = alice.send("GET", CHATS).get_json()["items"]
        assert {item["id"]: item["active_connections"] for item in items} == dict(zip(ids, range(3), strict=True))

    def test_a_cursor_belongs_to_its_tenant(self, alice: Client, bob: Client) -> None:
        """The cursor of another tenant is refused."""
        alice.new_chat(), alice.new_chat()
        cursor = alice.send("GET", f"{CHATS}?limit=1").get_json()["next_cursor"]
        assert bob.send("GET", f"{CHATS}?cursor={cursor}").get_json()["code"] == "invalid_cursor"
