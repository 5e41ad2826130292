"""Messages over HTTP, on mongomock and on mongod."""

import pytest

from chat_service.api.cursors import next_cursor
from chat_service.models import Span
from chat_service.repository.messages import PAGE_BYTES
from tests.client import CHATS, Client

UNKNOWN = "11111111-2222-4333-8444-555555555555"


def contents(page) -> list[str]:
    return [message["content"] for message in page.get_json()["items"]]


class TestPost:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked before the chat and the body."""
        path = f"{CHATS}/{alice.new_chat()}/messages"
        assert alice.send("POST", path, headers={"X-API-Key": "wrong"}, json={"content": "x"}).status_code == 401

    def test_to_another_tenants_chat_is_404_and_changes_nothing(self, alice: Client, bob: Client) -> None:
        """The response is identical to that for a chat that never existed."""
        chat_id = alice.new_chat()
        same = {"headers": {"X-Request-ID": "same"}, "json": {"content": "x"}}
        foreign = bob.send("POST", f"{CHATS}/{chat_id}/messages", **same)
        assert foreign.status_code == 404
        assert foreign.data == bob.send("POST", f"{CHATS}/{UNKNOWN}/messages", **same).data
        assert alice.send("GET", f"{CHATS}/{chat_id}").get_json()["message_count"] == 0

    def test_one(self, alice: Client) -> None:
        """The response is 201 with the message as it is stored."""
        path = f"{CHATS}/{alice.new_chat()}/messages"
        sent = {"role": "tool", "content": "שלום\n🎉", "sender_id": "me", "metadata": {"k": 1.5}}
        answer = alice.send("POST", path, json=sent)
        assert answer.status_code == 201
        (message,) = answer.get_json()["messages"]
        assert message.items() >= {**sent, "seq": 1, "edited_at": None}.items()
        assert alice.send("GET", path).get_json()["items"] == [message]

    def test_a_batch_is_numbered_without_gaps(self, alice: Client) -> None:
        """The numbers continue where the last post ended."""
        path = f"{CHATS}/{alice.new_chat('one')}/messages"
        batch = {"messages": [{"content": "two"}, {"content": "three"}]}
        answer = alice.send("POST", path, json=batch)
        assert [message["seq"] for message in answer.get_json()["messages"]] == [2, 3]
        assert contents(alice.send("GET", path)) == ["one", "two", "three"]

    def test_a_batch_with_one_wrong_message_posts_none(self, alice: Client) -> None:
        """A batch is stored completely or not at all, and the response names the invalid message."""
        chat_id = alice.new_chat()
        batch = {"messages": [{"content": "fine"}, {"content": ""}]}
        answer = alice.send("POST", f"{CHATS}/{chat_id}/messages", json=batch)
        assert answer.status_code == 422
        assert list(answer.get_json()["errors"]["messages"]) == ["1"]
        assert alice.send("GET", f"{CHATS}/{chat_id}").get_json()["message_count"] == 0

    def test_a_thousand_at_once(self, alice: Client) -> None:
        """In the largest batch every message gets its number."""
        path = f"{CHATS}/{alice.new_chat()}/messages"
        answer = alice.send("POST", path, json={"messages": [{"content": str(n)} for n in range(1, 1001)]})
        kept = answer.get_json()["messages"]
        assert [(message["seq"], message["content"]) for message in kept] == [(n, str(n)) for n in range(1, 1001)]


class TestPage:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked first."""
        assert alice.send("GET", f"{CHATS}/{alice.new_chat()}/messages", headers={"X-API-Key": ""}).status_code == 401

    def test_of_another_tenants_chat_is_404(self, alice: Client, bob: Client) -> None:
        """The response is the one for a chat that never existed, even if the chat has messages."""
        answer = bob.send("GET", f"{CHATS}/{alice.new_chat('secret')}/messages")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "chat_not_found")

    @pytest.mark.parametrize("order", ["asc", "desc"])
    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
    def test_cursors_lead_through_the_whole_chat(self, alice: Client, limit: int, order: str) -> None:
        """Each message comes once, in order, in pages of the requested size, and the last page has no cursor."""
        texts = [str(number) for number in range(7)]
        path = f"{CHATS}/{alice.new_chat(*texts)}/messages"
        seen: list[str] = []
        query = f"limit={limit}&order={order}"
        while query:
            page = alice.send("GET", f"{path}?{query}")
            assert len(contents(page)) == min(limit, 7 - len(seen))
            seen += contents(page)
            cursor = page.get_json()["next_cursor"]
            query = f"limit={limit}&cursor={cursor}" if cursor else ""
        assert seen == (texts if order == "asc" else texts[::-1])

    def test_bounds_are_exclusive(self, alice: Client) -> None:
        """The messages at `after` and `before` are not in the page: the caller has them already."""
        path = f"{CHATS}/{alice.new_chat(*'abcde')}/messages"
        assert contents(alice.send("GET", f"{path}?after=1&before=5")) == ["b", "c", "d"]
        assert contents(alice.send("GET", f"{path}?after=1&before=5&order=desc&limit=2")) == ["d", "c"]
        assert contents(alice.send("GET", f"{path}?after=5")) == []

    def test_a_cursor_belongs_to_its_chat(self, alice: Client) -> None:
        """A cursor of another chat is refused."""
        first, second = (f"{CHATS}/{alice.new_chat('a', 'b')}/messages" for _ in range(2))
        cursor = alice.send("GET", f"{first}?limit=1").get_json()["next_cursor"]
        answer = alice.send("GET", f"{second}?cursor={cursor}")
        assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_cursor")


class TestOne:
    @pytest.mark.parametrize(("method", "body"), [("GET", None), ("PATCH", {"content": "x"}), ("DELETE", None)])
    def test_that_is_not_there_is_404(self, alice: Client, method: str, body) -> None:
        """The number was never assigned, is deleted, or is not a number; the chat's ETag stays."""
        chat_id = alice.new_chat("a")
        alice.send("DELETE", f"{CHATS}/{chat_id}/messages/1")
        before = alice.send("GET", f"{CHATS}/{chat_id}").headers["ETag"]
        for seq in ("1", "2", "0", "-1", "x", "1.0", "9" * 18, "9" * 40):
            answer = alice.send(method, f"{CHATS}/{chat_id}/messages/{seq}", json=body)
            assert (answer.status_code, answer.get_json()["code"]) == (404, "message_not_found")
        assert alice.send("GET", f"{CHATS}/{chat_id}").headers["ETag"] == before

    def test_can_be_looked_up(self, alice: Client) -> None:
        """It is the same as in the page."""
        path = f"{CHATS}/{alice.new_chat('a', 'b')}/messages"
        assert alice.send("GET", f"{path}/2").get_json() == alice.send("GET", path).get_json()["items"][1]

    def test_can_be_edited(self, alice: Client) -> None:
        """Fields that are not in the body stay, and edited_at is set."""
        path = f"{CHATS}/{alice.new_chat('a')}/messages/1"
        before = alice.send("GET", path).get_json()
        edited = alice.send("PATCH", path, json={"content": "A"}).get_json()
        assert before["edited_at"] is None
        assert edited["edited_at"] >= before["created_at"]
        assert edited == {**before, "content": "A", "edited_at": edited["edited_at"]}
        assert alice.send("GET", path).get_json() == edited

    def test_can_be_deleted_and_its_number_is_not_used_again(self, alice: Client) -> None:
        """message_count goes down, and the next message gets a new seq."""
        chat_id = alice.new_chat("a", "b")
        assert alice.send("DELETE", f"{CHATS}/{chat_id}/messages/2").status_code == 204
        assert alice.send("GET", f"{CHATS}/{chat_id}").get_json()["message_count"] == 1
        posted = alice.send("POST", f"{CHATS}/{chat_id}/messages", json={"content": "c"}).get_json()
        assert posted["messages"][0]["seq"] == 3


def test_a_chat_can_be_emptied(alice: Client) -> None:
    """The chat stays, its messages are deleted, and their numbers are not used again."""
    chat_id = alice.new_chat("a", "b", title="t")
    assert alice.send("DELETE", f"{CHATS}/{chat_id}/messages").get_json() == {"success": True, "deleted": 2}
    chat = alice.send("GET", f"{CHATS}/{chat_id}").get_json()
    assert (chat["title"], chat["message_count"], chat["last_message_at"]) == ("t", 0, None)
    assert contents(alice.send("GET", f"{CHATS}/{chat_id}/messages")) == []
    posted = alice.send("POST", f"{CHATS}/{chat_id}/messages", json={"content": "c"}).get_json()
    assert posted["messages"][0]["seq"] == 3


@pytest.mark.parametrize("after", [2**63 - 1, 2**63 - 2, 10**18, -1])
@pytest.mark.parametrize("before", [2**63 - 1, 0, -1])
def test_a_forged_cursor_is_no_server_error(alice, after, before) -> None:
    """The response to any forged cursor is 400 or an empty page."""
    chat_id = alice.new_chat("x")
    # The cursor contains the seq of the page's last message unchanged.
    forged = next_cursor(Span(before=before), after, alice.access.tenant_id, chat_id)
    answer = alice.send("GET", f"{CHATS}/{chat_id}/messages?cursor={forged}")
    assert answer.status_code in {200, 400}
    assert answer.json.get("items", []) == []


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_of_long_messages_is_short_and_says_that_there_are_more(alice, order) -> None:
    """A page has about 1 MiB, whatever the limit; the pages together have each message once and in order."""
    chat_id = alice.new_chat()
    for number in range(30):
        content = f"{number}" + "🎉" * 32_000
        assert alice.send("POST", f"{CHATS}/{chat_id}/messages", json={"content": content}).status_code == 201
    seen: list[int] = []
    query, pages = f"limit=200&order={order}", 0
    while query:
        answer = alice.send("GET", f"{CHATS}/{chat_id}/messages?{query}")
        assert len(answer.data) < 2 * PAGE_BYTES
        page = answer.get_json()
        seen += [message["seq"] for message in page["items"]]
        pages += 1
        query = page["next_cursor"] and f"limit=200&cursor={page['next_cursor']}"
    assert seen == sorted(range(1, 31), reverse=order == "desc")
    assert pages > 3
