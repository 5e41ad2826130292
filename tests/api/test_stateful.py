"""Random operations of two tenants; after each step everything that they can read equals a model in memory."""

import json
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from chat_service.app import create_app
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.settings import Settings
from tests.client import CHATS, Client, TenantAccess
from tests.conftest import empty, tenant_maker

INLINE_LIMIT = 4
"""So low that inline and staged deletes and emptyings happen; no purge runs, so staged messages stay on disk."""

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)
titles = st.none() | texts
indexes = st.integers(0, 6)
metadatas = st.dictionaries(st.sampled_from("abc"), st.integers(-5, 5) | texts | st.none(), max_size=2)


class Model:
    """A chat as it should be."""

    def __init__(self, title: str | None, metadata: dict[str, Any]) -> None:
        self.title = title
        self.metadata = metadata
        self.messages: dict[int, dict[str, Any]] = {}
        self.next_seq = 1
        self.staged = 0
        """Messages that an emptying has left to a purge: the receipt of a later delete counts them."""
        self.updated_at = ""

    @property
    def receipt_count(self) -> int:
        return len(self.messages) + self.staged

    def seq(self, index: int) -> int:
        """Return the seq of a message that exists, or one that is deleted or was never used."""
        return sorted(self.messages)[index] if index < len(self.messages) else index + 1


class Tenant:
    """A tenant's client and what it should see."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.chats: dict[str, Model] = {}
        self.deleted: dict[str, int] = {}

    def ask(self, method: str, path: str, status: int, **kwargs: Any) -> Any:
        answer = self.client.send(method, path, **kwargs)
        assert answer.status_code == status, answer.get_data(as_text=True)
        return answer.get_json(silent=True)


class Service(RuleBasedStateMachine):
    """The operations, each with the change that the model expects."""

    database: Database
    app: Flask
    live = Bundle("live")
    gone = Bundle("gone")
    whose = st.integers(0, 1)

    @initialize()
    def begin(self) -> None:
        empty(self.database)
        new_tenant = tenant_maker(self.database)
        accesses: list[TenantAccess] = [new_tenant(), new_tenant()]
        self.tenants = [Tenant(Client(self.app, access)) for access in accesses]

    @rule(target=live, whose=whose, title=titles, metadata=metadatas, contents=st.lists(texts, max_size=6))
    def create(self, whose: int, title: str | None, metadata: dict[str, Any], contents: list[str]) -> tuple[int, str]:
        tenant = self.tenants[whose]
        made = tenant.ask("POST", CHATS, 201, json={"title": title, "metadata": metadata})
        tenant.chats[made["id"]] = Model(title, metadata)
        if contents:
            self.post((whose, made["id"]), contents)
        return whose, made["id"]

    @rule(chat=live, contents=st.lists(texts, min_size=1, max_size=6))
    def post(self, chat: tuple[int, str], contents: list[str]) -> None:
        tenant, chat_id, model = self._find(chat)
        batch = {"messages": [{"content": content} for content in contents]}
        for kept, content in zip(
            tenant.ask("POST", f"{CHATS}/{chat_id}/messages", 201, json=batch)["messages"], contents, strict=True
        ):
            assert (kept["seq"], kept["content"]) == (model.next_seq, content)
            model.messages[model.next_seq] = kept
            model.next_seq += 1

    @rule(chat=live, index=indexes, content=texts)
    def edit(self, chat: tuple[int, str], index: int, content: str) -> None:
        tenant, chat_id, model = self._find(chat)
        number = model.seq(index)
        status = 200 if number in model.messages else 404
        edited = tenant.ask("PATCH", f"{CHATS}/{chat_id}/messages/{number}", status, json={"content": content})
        if status == 200:
            assert edited["edited_at"] is not None
            model.messages[number] |= {"content": content, "edited_at": edited["edited_at"]}

    @rule(chat=live, index=indexes)
    def delete_message(self, chat: tuple[int, str], index: int) -> None:
        tenant, chat_id, model = self._find(chat)
        number = model.seq(index)
        status = 204 if number in model.messages else 404
        tenant.ask("DELETE", f"{CHATS}/{chat_id}/messages/{number}", status)
        model.messages.pop(number, None)

    @rule(chat=live)
    def empty(self, chat: tuple[int, str]) -> None:
        tenant, chat_id, model = self._find(chat)
        answer = tenant.ask("DELETE", f"{CHATS}/{chat_id}/messages", 200)
        assert answer == {"success": True, "deleted": len(model.messages)}
        if len(model.messages) > INLINE_LIMIT:
            model.staged += len(model.messages)
        model.messages.clear()

    @rule(chat=live, title=titles)
    def rename(self, chat: tuple[int, str], title: str | None) -> None:
        tenant, chat_id, model = self._find(chat)
        tenant.ask("PATCH", f"{CHATS}/{chat_id}", 200, json={"title": title})
        model.title = title

    @rule(target=gone, chat=consumes(live))
    def delete(self, chat: tuple[int, str]) -> tuple[int, str]:
        tenant, chat_id, _ = self._find(chat)
        tenant.ask("DELETE", f"{CHATS}/{chat_id}", 200)
        tenant.deleted[chat_id] = tenant.chats.pop(chat_id).receipt_count
        return chat

    @rule(target=gone, chats=st.lists(consumes(live), min_size=1, max_size=3))
    def delete_in_bulk(self, chats: list[tuple[int, str]]) -> Any:
        """A bulk delete of chats of both tenants deletes the caller's own, and does not find the others."""
        whose = chats[0][0]
        chat_ids = [chat_id for _, chat_id in chats]
        results = self.tenants[whose].ask("POST", f"{CHATS}/delete", 200, json={"chat_ids": chat_ids})
        own = [chat_id for owner, chat_id in chats if owner == whose]
        assert [success["chat_id"] for success in results["successful"]] == own
        assert {failure["code"] for failure in results["failed"]} <= {"chat_not_found"}
        for owner, chat_id in chats:
            tenant = self.tenants[owner]
            if owner != whose:
                tenant.ask("DELETE", f"{CHATS}/{chat_id}", 200)
            tenant.deleted[chat_id] = tenant.chats.pop(chat_id).receipt_count
        return multiple(*chats)

    @rule(chat=gone)
    def a_deleted_chat_stays_deleted(self, chat: tuple[int, str]) -> None:
        """No route finds it, for neither tenant, and its id cannot be used again."""
        whose, chat_id = chat
        path = f"{CHATS}/{chat_id}"
        for tenant in self.tenants:
            for suffix in ("", "/messages", "/messages/1", "/export", "/deletion-preview"):
                tenant.ask("GET", path + suffix, 404)
            tenant.ask("POST", f"{path}/messages", 404, json={"content": "x"})
            tenant.ask("DELETE", path, 404)
        self.tenants[whose].ask("POST", CHATS, 409, json={"id": chat_id})

    @rule(chat=live)
    def the_other_tenant_sees_nothing(self, chat: tuple[int, str]) -> None:
        whose, chat_id = chat
        path = f"{CHATS}/{chat_id}"
        other = self.tenants[1 - whose]
        for method, suffix in (("GET", ""), ("GET", "/messages"), ("GET", "/export"), ("DELETE", "")):
            other.ask(method, path + suffix, 404)
        other.ask("POST", f"{path}/messages", 404, json={"content": "x"})

    @rule(chat=live, limit=st.integers(1, 3), order=st.sampled_from(["asc", "desc"]))
    def page_through(self, chat: tuple[int, str], limit: int, order: str) -> None:
        tenant, chat_id, model = self._find(chat)
        items, query = [], f"order={order}"
        while query:
            page = tenant.ask("GET", f"{CHATS}/{chat_id}/messages?limit={limit}&{query}", 200)
            items += page["items"]
            query = page["next_cursor"] and f"cursor={page['next_cursor']}"
        assert items == sorted(model.messages.values(), key=lambda message: message["seq"], reverse=order == "desc")

    @rule(target=live, chat=live)
    def copy(self, chat: tuple[int, str]) -> tuple[int, str]:
        """An imported export is another chat with the same messages."""
        tenant, chat_id, model = self._find(chat)
        exported = tenant.client.send("GET", f"{CHATS}/{chat_id}/export?format=ndjson").data
        made = tenant.ask(
            "POST", f"{CHATS}/import", 201, data=exported, headers={"Content-Type": "application/x-ndjson"}
        )
        copy = tenant.chats[made["id"]] = Model(model.title, model.metadata)
        copy.messages = {seq: dict(message) for seq, message in model.messages.items()}
        copy.next_seq = max(model.messages, default=0) + 1
        return chat[0], made["id"]

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        for tenant in getattr(self, "tenants", ()):
            for chat_id, model in tenant.chats.items():
                self._compare(tenant, chat_id, model)
            order = sorted(tenant.chats, key=lambda id_: (tenant.chats[id_].updated_at, _reversed(id_)), reverse=True)
            listed = tenant.ask("GET", f"{CHATS}?limit=200", 200)["items"]
            assert [chat["id"] for chat in listed] == order
            receipts = tenant.ask("GET", "/api/v1/deletions?limit=200", 200)["items"]
            assert {receipt["chat_id"]: receipt["message_count"] for receipt in receipts} == tenant.deleted

    def _compare(self, tenant: Tenant, chat_id: str, model: Model) -> None:
        chat = tenant.ask("GET", f"{CHATS}/{chat_id}", 200)
        assert (chat["title"], chat["metadata"]) == (model.title, model.metadata)
        assert chat["message_count"] == len(model.messages)
        assert chat["updated_at"] >= model.updated_at
        model.updated_at = chat["updated_at"]
        exported = json.loads(tenant.client.send("GET", f"{CHATS}/{chat_id}/export").data)
        assert exported["messages"] == [model.messages[seq] for seq in sorted(model.messages)]

    def teardown(self) -> None:
        """`check` finds nothing wrong at the end: all counts are right, and nothing is orphaned."""
        assert list(Checks(self.database).run()) == []

    def _find(self, chat: tuple[int, str]) -> tuple[Tenant, str, Model]:
        tenant = self.tenants[chat[0]]
        return tenant, chat[1], tenant.chats[chat[1]]


def _reversed(text: str) -> tuple[int, ...]:
    """Return a key that sorts texts in reverse order."""
    return tuple(-ord(character) for character in text)


@pytest.mark.parametrize(
    ("examples", "steps"), [(8, 25), pytest.param(300, 40, marks=[pytest.mark.soak, pytest.mark.timeout(1_200)])]
)
def test_two_tenants(database: Database, examples: int, steps: int) -> None:
    config = Settings("unused", 2**20, threads=1, log_format="json", delete_inline_limit=INLINE_LIMIT)
    Service.database, Service.app = database, create_app(config, database)
    Service.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    Service.TestCase("runTest").runTest()
