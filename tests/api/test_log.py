"""The log over HTTP: pages, JSON and event streams, tickets, and refusals."""

import json
import re
from typing import Any

import pytest
from flask import Flask

from chat_service.repository.database import Database
from tests.client import CHATS, Client
from tests.numbering import numbering, wait_for_head

LOG = "/api/v1/log"
EVENTS = {"Accept": "text/event-stream"}

on_mongod = pytest.mark.parametrize("either_database", ["mongod"], indirect=True)


def read(client: Client, query: str = "", **kwargs: Any) -> Any:
    answer = client.send("GET", f"{LOG}{query}", **kwargs)
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def events(text: str) -> list[tuple[int, str, Any]]:
    """Parse a stream as a browser would: id, kind and data of each event."""
    matches = re.findall(r"id: (\d+)\nevent: (.+)\ndata: (.+)\n\n", text)
    return [(int(seq), kind, json.loads(data)) for seq, kind, data in matches]


def test_an_empty_log(alice: Client) -> None:
    assert read(alice) == {"items": [], "next_after": 0, "head": 0}
    assert read(alice, "?after=7&limit=1&kind=chat.deleted") == {"items": [], "next_after": 7, "head": 0}


@on_mongod
def test_the_fields_of_entries(alice: Client, bob: Client, database: Database) -> None:
    """Entries have ids, numbers and times, and no content of the chat."""
    with numbering(database):
        chat_id = alice.new_chat("secret one", "secret two", title="secret", metadata={"secret": 1})
        alice.send("PATCH", f"{CHATS}/{chat_id}/messages/1", json={"content": "secret three"})
        alice.send("DELETE", f"{CHATS}/{chat_id}/messages/1")
        trashed = alice.send("POST", f"{CHATS}/{chat_id}/trash", json={}).get_json()
        alice.send("POST", f"/api/v1/trash/{chat_id}/restore")
        alice.send("DELETE", f"{CHATS}/{chat_id}/messages")
        alice.send("DELETE", f"{CHATS}/{chat_id}")
        wait_for_head(database, alice.access.tenant_id, 7)
    page = read(alice)
    assert (page["next_after"], page["head"]) == (7, 7)
    receipt = alice.send("GET", f"/api/v1/deletions/{chat_id}").get_json()
    assert [{name: value for name, value in entry.items() if name != "at"} for entry in page["items"]] == [
        {"seq": seq, "kind": kind, "chat_id": chat_id, "actor": actor, **facts}
        for seq, (kind, actor, facts) in enumerate(
            [
                ("message.edited", alice.access.key_id, {"message_seq": 1}),
                ("message.deleted", alice.access.key_id, {"message_seq": 1}),
                ("chat.trashed", alice.access.key_id, {"message_count": 1, "purge_at": trashed["purge_at"]}),
                ("chat.restored", alice.access.key_id, {"message_count": 1}),
                ("chat.emptied", alice.access.key_id, {"message_count": 1}),
                ("chat.deleted", alice.access.key_id, {"message_count": 0, "covers": ["api"]}),
                ("chat.purged", "purge", {"message_count": 0, "covers": ["api", "collection"]}),
            ],
            1,
        )
    ]
    assert page["items"][2]["at"] == trashed["trashed_at"]
    assert page["items"][5]["at"].startswith(receipt["deleted_at"][:-1])
    assert "secret" not in json.dumps(page)
    assert read(bob) == {"items": [], "next_after": 0, "head": 0}, "a log is one tenant's"

    assert [entry["seq"] for entry in read(alice, "?after=5")["items"]] == [6, 7]
    assert [entry["seq"] for entry in read(alice, "?limit=2")["items"]] == [1, 2]
    assert read(alice, "?kind=chat.restored")["items"] == [page["items"][3]]
    assert read(alice, "?kind=chat.restored&after=4") == {"items": [], "next_after": 7, "head": 7}

    stream = alice.send("GET", LOG, headers=EVENTS)
    assert stream.mimetype == "text/event-stream"
    assert stream.headers["Cache-Control"] == "no-store"
    assert events(stream.text) == [(entry["seq"], entry["kind"], entry) for entry in page["items"]]
    assert events(alice.send("GET", f"{LOG}?after=1", headers={**EVENTS, "Last-Event-ID": "6"}).text) == [
        (7, "chat.purged", page["items"][6])
    ]


@pytest.mark.parametrize(
    "query",
    [
        "after=-1",
        "after=x",
        f"after={10**18}",
        "limit=0",
        "limit=1001",
        "kind=x",
        "wait=26",
        "wait=-1",
        "x=1",
    ],
)
def test_an_invalid_query_is_422(alice: Client, query: str) -> None:
    answer = alice.send("GET", f"{LOG}?{query}")
    assert answer.status_code == 422
    assert set(answer.get_json()["errors"]) == {query.partition("=")[0]}


@pytest.mark.parametrize("id_", ["x", "-1", "1" * 19, "1" * 5000, "٣"])
def test_an_invalid_last_event_id_is_refused(alice: Client, id_: str) -> None:
    headers = {**EVENTS, "Last-Event-ID": id_.encode().decode("latin-1")}
    assert alice.send("GET", LOG, headers=headers).get_json()["errors"].keys() == {"Last-Event-ID"}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/event-stream", "text/event-stream"),
        ("Text/Event-Stream;q=0.9, application/json;q=0.1", "text/event-stream"),
        ("text/event-stream;q=0.1, */*", "application/json"),
        ("text/*", "text/event-stream"),
        ("text/html", None),
        ("text/event-stream;q=0", None),
    ],
)
def test_accept_chooses_between_json_and_an_event_stream(alice: Client, accept: str, expected: str | None) -> None:
    answer = alice.send("GET", LOG, headers={"Accept": accept})
    assert answer.status_code == (200 if expected else 406)
    assert answer.mimetype == (expected or "application/problem+json")


def test_a_ticket_opens_the_log_once(app: Flask, alice: Client) -> None:
    ticket = alice.send("POST", f"{LOG}/tickets").get_json()["ticket"]
    browser = app.test_client()
    assert browser.get(f"{LOG}?ticket={ticket}", headers=EVENTS).status_code == 200
    assert browser.get(f"{LOG}?ticket={ticket}", headers=EVENTS).status_code == 401
    assert browser.get(f"{LOG}?ticket=x").status_code == 401
    assert browser.get(LOG).status_code == 401


def test_a_ticket_of_the_log_opens_nothing_else(app: Flask, alice: Client) -> None:
    ticket = alice.send("POST", f"{LOG}/tickets").get_json()["ticket"]
    assert app.test_client().get(f"{CHATS}?ticket={ticket}").status_code == 401
    chat_id = alice.new_chat()
    of_chat = alice.send("POST", f"{CHATS}/{chat_id}/tickets").get_json()["ticket"]
    assert app.test_client().get(f"{LOG}?ticket={of_chat}").status_code == 401


def test_the_log_needs_the_scope_read(app: Flask, new_tenant) -> None:
    writer = Client(app, new_tenant("write", "delete"))
    assert writer.send("GET", LOG).status_code == 403
    assert writer.send("POST", f"{LOG}/tickets").status_code == 403
