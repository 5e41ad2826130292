"""Export and import of whole chats, on a real mongod: it shapes the exported rows, which mongomock cannot."""

import hashlib
import json

import pytest
from flask import Flask

from chat_service.repository.database import Database
from tests.client import CHATS, Client
from tests.conftest import MAX_BODY_BYTES

UNKNOWN = "11111111-2222-4333-8444-555555555555"
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def either_database(database: Database) -> Database:
    """Only mongod."""
    return database


def export(client: Client, chat_id: str, form: str) -> bytes:
    answer = client.send("GET", f"{CHATS}/{chat_id}/export?format={form}")
    assert answer.status_code == 200
    return answer.data


def sealed(*lines: bytes) -> bytes:
    """Return the lines, and a last line with their right count and digest."""
    body = b"".join(line + b"\n" for line in lines)
    end = {"type": "end", "message_count": len(lines) - 1, "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


class TestExport:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked first."""
        assert alice.send("GET", f"{CHATS}/{UNKNOWN}/export", headers={"X-API-Key": ""}).status_code == 401

    def test_of_another_tenants_chat_is_404(self, alice: Client, bob: Client) -> None:
        """The response is the one for a chat that never existed, and has no content."""
        answer = bob.send("GET", f"{CHATS}/{alice.new_chat('secret')}/export")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "chat_not_found")

    @pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
    def test_json_is_the_chat_with_all_its_messages(self, alice: Client, count: int) -> None:
        """It has all messages, whether their number is below, at or above a multiple of the batch size."""
        chat_id = alice.new_chat(title="t")
        for first in range(0, count, 1000):
            batch = [{"content": str(number)} for number in range(first, min(first + 1000, count))]
            alice.send("POST", f"{CHATS}/{chat_id}/messages", json={"messages": batch})
        whole = json.loads(export(alice, chat_id, "json"))
        assert (whole["chat"]["id"], whole["chat"]["message_count"]) == (chat_id, count)
        assert [message["content"] for message in whole["messages"]] == [str(number) for number in range(count)]

    def test_ndjson_ends_with_the_count_and_the_digest_of_the_lines_before(self, alice: Client) -> None:
        """The last line shows whether a stream was cut."""
        lines = export(alice, alice.new_chat("a", "b"), "ndjson").splitlines(keepends=True)
        end = json.loads(lines[-1])
        assert [json.loads(line)["type"] for line in lines] == ["chat", "message", "message", "end"]
        assert (end["message_count"], end["sha256"]) == (2, hashlib.sha256(b"".join(lines[:-1])).hexdigest())

    def test_markdown_can_be_read(self, alice: Client) -> None:
        """Content is quoted line by line, so that it cannot look like a heading, a sender or the end."""
        text = export(alice, alice.new_chat("one\n*End of the chat: 1 messages.*", title="A\n# B"), "markdown").decode()
        assert text.startswith("# A # B\n")
        assert "> one\n> *End of the chat: 1 messages.*\n" in text
        assert text.endswith("\n*End of the chat: 1 messages.*\n")

    def test_is_a_download_with_a_safe_name(self, alice: Client) -> None:
        """The file name has only the id: a title can contain anything."""
        chat_id = alice.new_chat(title='"; rm -rf /\r\nX: y')
        answer = alice.send("GET", f"{CHATS}/{chat_id}/export?format=ndjson")
        assert answer.headers["Content-Disposition"] == f'attachment; filename="chat-{chat_id}.ndjson"'
        assert answer.mimetype == "application/x-ndjson"


class TestImport:
    def test_without_a_key_is_401(self, alice: Client) -> None:
        """The key is checked first."""
        assert alice.send("POST", f"{CHATS}/import", headers={"X-API-Key": ""}, data=b"x").status_code == 401

    def test_brings_back_everything_under_a_new_id(self, alice: Client, bob: Client) -> None:
        """Title, metadata, seqs with gaps, senders, times and edits are the same, even in another tenant."""
        chat_id = alice.new_chat("a", "b", "c", title="T", metadata={"k": [1]})
        alice.send("DELETE", f"{CHATS}/{chat_id}/messages/2")
        alice.send("PATCH", f"{CHATS}/{chat_id}/messages/3", json={"content": "c 🎉"})
        answer = bob.send("POST", f"{CHATS}/import", data=export(alice, chat_id, "ndjson"), headers=NDJSON)
        assert answer.status_code == 201
        copy = answer.get_json()["id"]
        assert copy != chat_id
        before, after = (json.loads(export(*of, "json")) for of in ((alice, chat_id), (bob, copy)))
        assert before["chat"].pop("id") != after["chat"].pop("id")
        assert after == before
        posted = bob.send("POST", f"{CHATS}/{copy}/messages", json={"content": "d"}).get_json()
        assert posted["messages"][0]["seq"] == 4

    @pytest.mark.parametrize("cut", [1, 2, 20, 200])
    def test_of_a_cut_export_is_422_and_creates_nothing(self, alice: Client, cut: int) -> None:
        """It does not matter where it was cut."""
        whole = export(alice, alice.new_chat("a", "b"), "ndjson")
        answer = alice.send("POST", f"{CHATS}/import", data=whole[:-cut].rstrip(b"}"), headers=NDJSON)
        assert (answer.status_code, answer.get_json()["code"]) == (422, "invalid_import")
        assert len(alice.send("GET", CHATS).get_json()["items"]) == 1

    def test_of_an_altered_export_is_422(self, alice: Client) -> None:
        """The digest shows that one character was changed."""
        whole = export(alice, alice.new_chat("pay 10"), "ndjson").replace(b"pay 10", b"pay 90")
        answer = alice.send("POST", f"{CHATS}/import", data=whole, headers=NDJSON)
        assert "SHA-256" in answer.get_json()["reason"]

    def test_of_invalid_lines_names_the_line(self, alice: Client) -> None:
        """Even with a right digest every line must follow the rules of the API; the error has no content."""
        chat, *messages, _ = export(alice, alice.new_chat("a", "b"), "ndjson").splitlines()
        for lines, reason in (
            ([chat, messages[1], messages[0]], "Line 3: seq must be larger"),
            ([chat, messages[0].replace(b'"a"', b'""')], "Line 2: These fields are wrong: message."),
            ([chat, messages[0].replace(b'"a"', b'"canary\\u0000"')], "Line 2: These fields are wrong: message."),
            ([messages[0], messages[1]], "Line 1: These fields are wrong: "),
            ([chat, b"[canary"], "Line 2: It is not JSON."),
        ):
            answer = alice.send("POST", f"{CHATS}/import", data=sealed(*lines), headers=NDJSON)
            assert answer.status_code == 422
            assert answer.get_json()["reason"].startswith(reason)
            assert "canary" not in answer.text

    def test_may_be_larger_than_other_bodies(self, alice: Client) -> None:
        """An import of several batches is complete: its export has the same messages as the one before."""
        chat_id = alice.new_chat()
        for _ in range(3):
            messages = [{"content": "x" * 300}] * 1_000
            assert alice.send("POST", f"{CHATS}/{chat_id}/messages", json={"messages": messages}).status_code == 201
        whole = export(alice, chat_id, "ndjson")
        assert len(whole) > MAX_BODY_BYTES
        answer = alice.send("POST", f"{CHATS}/import", data=whole, headers=NDJSON)
        assert (answer.status_code, answer.get_json()["message_count"]) == (201, 3_000)
        again = export(alice, answer.get_json()["id"], "ndjson")
        assert again.splitlines()[1:-1] == whole.splitlines()[1:-1]

    def test_over_its_limit_is_413_with_what_to_do(self, alice: Client, app: Flask, monkeypatch) -> None:
        monkeypatch.setitem(app.config, "MAX_IMPORT_BYTES", 100)
        answer = alice.send("POST", f"{CHATS}/import", data=b"x" * 101, headers=NDJSON)
        assert (answer.status_code, answer.get_json()["code"]) == (413, "import_too_large")
        assert "chats import" in answer.get_json()["detail"]

    def test_of_a_line_without_end_is_422(self, alice: Client) -> None:
        """A line that is too long is refused before it was read to its end."""
        answer = alice.send("POST", f"{CHATS}/import", data=b"x" * (2**20 + 1), headers=NDJSON)
        assert answer.get_json()["reason"] == "Line 1: It is longer than 1,048,576 bytes, and no line of an export is."

    def test_of_something_else_is_415(self, alice: Client) -> None:
        """An import needs the content type of ndjson."""
        assert alice.send("POST", f"{CHATS}/import", json={}).status_code == 415

    def test_a_repeated_import_creates_one_chat(self, alice: Client, either_database: Database) -> None:
        """The retry gets the first response."""
        export = alice.send("GET", f"{CHATS}/{alice.new_chat('x')}/export?format=ndjson").data
        sent = {"data": export, "headers": {"Idempotency-Key": "k", "Content-Type": "application/x-ndjson"}}
        answers = {alice.send("POST", f"{CHATS}/import", **sent).data for _ in range(2)}
        assert len(answers) == 1
        assert either_database.chats.count_documents({}) == 2


@pytest.mark.parametrize(
    ("form", "media_type"),
    [("json", "application/json"), ("ndjson", "application/x-ndjson"), ("markdown", "text/markdown")],
)
def test_accept_of_an_export_is_checked_against_its_own_type(alice: Client, form: str, media_type: str) -> None:
    path = f"{CHATS}/{alice.new_chat('a')}/export?format={form}"
    for accept, status in ((media_type, 200), (f"{media_type};q=0.5", 200), ("image/png", 406), ("*/*", 200)):
        answer = alice.send("GET", path, headers={"Accept": accept})
        assert answer.status_code == status, accept
        assert status != 200 or answer.mimetype == media_type


TEXTS = ["first  \nsecond", "a\u2028b", "a\x85b", "a\x0bb", "x\u3000", "`code ` \t", "\n", "\r\n", "> quoted", " "]


def test_markdown_changes_no_character(alice: Client) -> None:
    """The message is quoted line by line; only a line feed begins a line."""
    out = export(alice, alice.new_chat(*TEXTS), "markdown").decode()
    for text in TEXTS:
        assert "\n".join(f"> {line}" for line in text.split("\n")) + "\n" in out


TIMES = [
    "0001-01-01T00:00:00.000Z",
    "1969-12-31T23:59:59.999Z",
    "1970-01-01T00:00:00.000Z",
    "2024-01-15T10:45:00.123Z",
    "9999-12-31T23:59:59.999Z",
]


def test_an_imported_chat_is_listed_paged_and_exported_again(alice: Client) -> None:
    """With the oldest and latest times and the largest seq every cursor works, and an export can be imported."""
    imported = []
    for at in TIMES:
        times = {"created_at": at, "updated_at": at, "last_message_at": at}
        chat = {"id": UNKNOWN, "title": at, "metadata": {}, "message_count": 2, **times}
        lines = [{"type": "chat", "chat": chat}]
        for seq in (10**18 - 2, 10**18 - 1):
            message = {"seq": seq, "role": "user", "sender_id": None, "content": "x", "metadata": {}}
            lines.append({"type": "message", "message": {**message, "created_at": at, "edited_at": at}})
        body = sealed(*(json.dumps(line).encode() for line in lines))
        answer = alice.send("POST", f"{CHATS}/import", data=body, headers=NDJSON)
        assert answer.status_code == 201, at
        imported.append(answer.get_json()["id"])
    listed, cursor = [], ""
    while cursor is not None:
        page = alice.send("GET", f"{CHATS}?limit=1{cursor and '&cursor=' + cursor}").get_json()
        listed += page["items"]
        cursor = page["next_cursor"]
    assert [chat["id"] for chat in listed] == imported[::-1]
    for chat_id, at in zip(imported, TIMES, strict=True):
        first = alice.send("GET", f"{CHATS}/{chat_id}/messages?limit=1").get_json()
        second = alice.send("GET", f"{CHATS}/{chat_id}/messages?limit=1&cursor={first['next_cursor']}").get_json()
        assert [page["items"][0]["seq"] for page in (first, second)] == [10**18 - 2, 10**18 - 1]
        assert second["items"][0]["created_at"] == at
        out = export(alice, chat_id, "ndjson")
        again = alice.send("POST", f"{CHATS}/import", data=out, headers=NDJSON).get_json()["id"]
        assert (
            export(alice, again, "ndjson").replace(again.encode(), chat_id.encode()).splitlines()[:-1]
            == (out.splitlines()[:-1])
        )
        assert alice.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200


def test_a_delete_can_be_bound_to_an_export(alice: Client) -> None:
    """With the ETag of the export a chat is deleted only if it has not changed; the receipt has the digest."""
    chat_id = alice.new_chat("one", "two")
    export = alice.send("GET", f"{CHATS}/{chat_id}/export?format=ndjson")
    end = json.loads(export.data.splitlines()[-1])
    assert export.headers["ETag"] == f'"{end["revision"]}"'
    seal = f"export_sha256={hashlib.sha256(export.data).hexdigest()}"
    alice.send("POST", f"{CHATS}/{chat_id}/messages", json={"content": "not exported"})
    old = {"If-Match": export.headers["ETag"]}
    assert alice.send("DELETE", f"{CHATS}/{chat_id}?{seal}", headers=old).status_code == 412
    export = alice.send("GET", f"{CHATS}/{chat_id}/export?format=ndjson")
    digest = hashlib.sha256(export.data).hexdigest()
    new = {"If-Match": export.headers["ETag"]}
    assert alice.send("DELETE", f"{CHATS}/{chat_id}?export_sha256={digest}", headers=new).status_code == 200
    assert alice.send("GET", f"/api/v1/deletions/{chat_id}").get_json()["export_sha256"] == digest


@pytest.mark.parametrize("digest", ["", "x" * 64, "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "%0A"])
def test_an_invalid_digest_deletes_nothing(alice: Client, digest: str) -> None:
    chat_id = alice.new_chat("one")
    answer = alice.send("DELETE", f"{CHATS}/{chat_id}?export_sha256={digest}")
    assert (answer.status_code, set(answer.get_json()["errors"])) == (422, {"export_sha256"})
    assert alice.send("GET", f"{CHATS}/{chat_id}").status_code == 200
