"""How many database commands each request costs, and which."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import monitoring

from chat_service.app import create_app
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.errors import InvalidApiKeyError
from chat_service.models import NewMessage, RateLimit, Role, Scope
from chat_service.proof.notes import SigningKey
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.lifecycle import Removal
from chat_service.repository.messages import Post
from chat_service.repository.monitor import CommandCounter, _tally
from chat_service.repository.tenants import Tenants
from chat_service.settings import Settings
from tests.client import CHATS, Client, TenantAccess
from tests.numbering import number_all


class Recorder(monitoring.CommandListener):
    def __init__(self, database: Database) -> None:
        self.database = database
        """For a test's own commands, which are not recorded."""
        self.commands: list[tuple[str, str]] = []
        """The name and the text of each command."""

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append((event.command_name, str(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Only starts are counted."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Only starts are counted."""


@pytest.fixture
def recorded(mongod: EmbeddedMongod, database: Database) -> Iterator[tuple[Client, Recorder]]:
    """A client whose key is cached, and a recorder of the commands that its requests send to mongod."""
    yield from record(mongod, database)


def record(mongod: EmbeddedMongod, database: Database, **settings: Any) -> Iterator[tuple[Client, Recorder]]:
    recorder = Recorder(database)
    listening = Database(mongod.uri, listeners=(recorder, CommandCounter()))
    tenant = Tenants(database).create("t")
    key, made = ApiKeys(database).create(tenant.id, "test", ["read", "write", "delete"])
    app = create_app(Settings("unused", 2**20, threads=8, log_format="json", **settings), listening)
    yield Client(app, TenantAccess(tenant.id, key, made.id)), recorder
    listening.close()


def cost(
    recorded: tuple[Client, Recorder], method: str, path: str, *, is_known: bool = True, **kwargs: object
) -> list[str]:
    """Send a request, check that each of its commands names the tenant, and return their names.

    The chats are cached as having no receipt, as after the first request for each, unless `is_known` is false.
    """
    client, recorder = recorded
    if is_known:
        ids = [chat["_id"]["chat_id"] for chat in recorder.database.chats.find({}, {"_id": True})]
        client.app.extensions["chat_service"].receipts.of_chats(client.access.tenant_id, ids)
    recorder.commands.clear()
    client.send(method, path, **kwargs).get_data()  # read it: an export is streamed
    tally = _tally.get()
    assert tally is not None
    assert tally.commands == len(recorder.commands), "the access log would have another number"
    for name, sent in recorder.commands:
        # These belong to a cursor or a transaction whose earlier commands named the tenant.
        continues = name in {"getMore", "commitTransaction"}
        assert client.access.tenant_id in sent or continues or "$collStats" in sent, name
    return [name for name, _ in recorder.commands]


def test_a_delete_costs_five_commands(recorded) -> None:
    """The commands are for presence, chat, messages, receipt and commit; the key comes from the cache."""
    chat_id = recorded[0].new_chat("a", "b")
    expected = ["find", "findAndModify", "delete", "insert", "commitTransaction"]
    assert cost(recorded, "DELETE", f"{CHATS}/{chat_id}") == expected
    missing = ["find", "findAndModify", "find", "find", "commitTransaction", "find"]
    assert cost(recorded, "DELETE", f"{CHATS}/{chat_id}") == missing, "is it held, in the trash, deleted?"


def test_a_refused_delete_costs_three(recorded, presence) -> None:
    chat_id = recorded[0].new_chat("a")
    presence.open(recorded[0].access.tenant_id, chat_id, "connection", "worker")
    assert cost(recorded, "DELETE", f"{CHATS}/{chat_id}") == ["find", "find", "commitTransaction"]


def test_holds_cost_what_the_data_model_says(recorded) -> None:
    client = recorded[0]
    key, made = client.app.extensions["chat_service"].keys.create(client.access.tenant_id, "governor", Scope)
    governor = Client(client.app, TenantAccess(client.access.tenant_id, key, made.id)), recorded[1]
    governor[0].send("GET", "/api/v1/me")  # caches the key
    chat_id, trashed = client.new_chat("a"), client.new_chat("a")
    client.send("POST", f"{CHATS}/{trashed}/trash", json={})
    body = {"json": {"name": "n", "chat_ids": [chat_id]}}
    placed = ["find", "find", "update", "insert", "insert", "commitTransaction"]
    assert cost(governor, "POST", "/api/v1/holds", **body) == placed
    refused = ["find", "findAndModify", "find", "find", "insert", "commitTransaction"]
    assert cost(governor, "DELETE", f"{CHATS}/{chat_id}") == refused
    body["json"]["chat_ids"].append(trashed)
    assert len(cost(governor, "POST", "/api/v1/holds", **body)) == len(placed) + 1
    (hold, *_) = governor[0].send("GET", "/api/v1/holds").get_json()["items"]
    released = ["findAndModify", "insert", "commitTransaction"]
    assert cost(governor, "POST", f"/api/v1/holds/{hold['id']}/release") == released
    everything = {"name": "n", "everything": True}
    assert len(cost(governor, "POST", "/api/v1/holds", json=everything)) == 4


def test_an_idempotency_key_costs_two_more_and_a_retry_two(recorded) -> None:
    chat_id = recorded[0].new_chat("a")
    key = {"headers": {"Idempotency-Key": "k"}}
    assert len(cost(recorded, "DELETE", f"{CHATS}/{chat_id}", **key)) == 7
    assert cost(recorded, "DELETE", f"{CHATS}/{chat_id}", **key) == ["find", "commitTransaction"]


def test_a_bulk_delete_costs_six_for_each_8_chats(recorded) -> None:
    """Presence, chats, their removal, messages, receipts, commit; and one to measure other traffic between groups."""
    chat_ids = [recorded[0].new_chat("a") for _ in range(16)]
    assert len(cost(recorded, "POST", f"{CHATS}/delete", json={"chat_ids": chat_ids})) == 12 + 1


def test_deletes_that_share_a_transaction_cost_six(recorded) -> None:
    """Presence, chats, their removal, messages, receipts, commit: six for up to 8 deletes."""
    client, recorder = recorded
    deletes = [Removal(client.new_chat("a"), "key") for _ in range(8)]
    recorder.commands.clear()
    client.app.extensions["chat_service"].deletions.remove_together(client.access.tenant_id, deletes)
    expected = ["find", "find", "delete", "delete", "insert", "commitTransaction"]
    assert [name for name, _ in recorder.commands] == expected


def test_posts_that_share_a_transaction_share_its_commands(recorded) -> None:
    """There is one command for each chat, one for all messages, and the commit."""
    client, recorder = recorded
    chat_ids = [client.new_chat() for _ in range(3)]
    recorder.commands.clear()
    posts = [Post(chat_id, [NewMessage(Role.USER, "x", None, {})] * 2, None) for chat_id in chat_ids]
    client.app.extensions["chat_service"].messages._commit_group(client.access.tenant_id, posts, lambda: None)
    assert [name for name, _ in recorder.commands] == [*["findAndModify"] * 3, "insert", "commitTransaction"]


def test_a_chat_that_is_not_cached_costs_one_more(recorded) -> None:
    """One more find looks for the receipt of one chat or of a page of chats; a delete needs none."""
    chat_id = recorded[0].new_chat("a")
    recorded[0].app.extensions["chat_service"].receipts._without.clear()
    assert len(cost(recorded, "GET", f"{CHATS}/{chat_id}", is_known=False)) == 3
    assert len(cost(recorded, "GET", f"{CHATS}/{chat_id}", is_known=False)) == 2
    recorded[0].app.extensions["chat_service"].receipts._without.clear()
    assert len(cost(recorded, "GET", CHATS, is_known=False)) == 3
    assert len(cost(recorded, "GET", CHATS, is_known=False)) == 2
    recorded[0].app.extensions["chat_service"].receipts._without.clear()
    assert len(cost(recorded, "DELETE", f"{CHATS}/{chat_id}", is_known=False)) == 5


def test_a_staged_delete_costs_as_much_as_a_small_one(recorded, monkeypatch) -> None:
    """One command opens the purge instead of removing the messages."""
    monkeypatch.setattr(recorded[0].app.extensions["chat_service"].deletions._lifecycle, "_inline_limit", 1)
    chat_id = recorded[0].new_chat("a", "b")
    expected = ["find", "findAndModify", "insert", "insert", "commitTransaction"]
    assert cost(recorded, "DELETE", f"{CHATS}/{chat_id}") == expected


def test_the_other_operations_cost_what_the_data_model_says(recorded) -> None:
    """The numbers are those of the table in docs/data-model.md."""
    chat_id = recorded[0].new_chat("a", "b", "c")
    gone = recorded[0].new_chat("a")
    chat, messages = f"{CHATS}/{chat_id}", f"{CHATS}/{chat_id}/messages"
    assert len(cost(recorded, "POST", CHATS, json={})) == 2
    assert len(cost(recorded, "POST", CHATS, json={"id": "c0ffee00-1111-4222-8333-444444444444"})) == 5
    assert len(cost(recorded, "GET", CHATS)) == 2
    assert len(cost(recorded, "GET", chat)) == 2
    assert len(cost(recorded, "PATCH", chat, json={"title": "x"})) == 2
    assert len(cost(recorded, "POST", messages, json={"content": "x"})) == 3
    assert len(cost(recorded, "GET", messages)) == 2
    assert len(cost(recorded, "GET", f"{messages}/1")) == 2
    assert len(cost(recorded, "PATCH", f"{messages}/1", json={"content": "y"})) == 5
    assert len(cost(recorded, "DELETE", f"{messages}/1")) == 5
    assert len(cost(recorded, "GET", f"{chat}/export")) == 3
    assert len(cost(recorded, "GET", f"{chat}/deletion-preview")) == 3
    assert len(cost(recorded, "DELETE", messages)) == 5
    assert len(cost(recorded, "DELETE", f"{CHATS}/{gone}")) == 5
    assert len(cost(recorded, "GET", "/api/v1/deletions")) == 2
    assert len(cost(recorded, "GET", f"/api/v1/deletions/{gone}")) == 2


def test_the_trash_costs_what_the_data_model_says(recorded) -> None:
    """They do not depend on the chat's size, because its messages are not touched."""
    chat_id, other = (recorded[0].new_chat("a", "b") for _ in range(2))
    chat, trashed = f"{CHATS}/{chat_id}", f"/api/v1/trash/{chat_id}"
    trashed_by = ["find", "findAndModify", "insert", "insert", "commitTransaction"]
    assert cost(recorded, "POST", f"{chat}/trash", json={}) == trashed_by
    assert len(cost(recorded, "GET", "/api/v1/trash")) == 1
    assert len(cost(recorded, "GET", trashed)) == 1
    assert cost(recorded, "POST", f"{trashed}/restore") == ["find", "delete", "insert", "insert", "commitTransaction"]
    cost(recorded, "POST", f"{CHATS}/{other}/trash", json={})
    deleted = ["find", "findAndModify", "find", "find", "delete", "delete", "insert", "commitTransaction"]
    assert cost(recorded, "DELETE", f"{CHATS}/{other}") == deleted


@pytest.fixture
def signed(mongod: EmbeddedMongod, database: Database) -> Iterator[tuple[Client, Recorder]]:
    """Like `recorded`, with a signing key."""
    yield from record(mongod, database, signing_keys=(SigningKey.new(),))


def test_what_proofs_cost(signed) -> None:
    client, _ = signed
    chat_id = client.new_chat("a")
    client.send("DELETE", f"{CHATS}/{chat_id}")
    assert cost(signed, "GET", f"/api/v1/deletions/{chat_id}/proof") == ["find", "find"], "the proof is not ready"
    number_all(signed[1].database)
    assert cost(signed, "GET", f"/api/v1/deletions/{chat_id}/proof") == ["find", "find", "aggregate"]
    assert cost(signed, "GET", "/api/v1/log/consistency?old=1") == ["find", "aggregate"]
    assert cost(signed, "GET", "/api/v1/log/checkpoint") == ["find"]
    assert cost(signed, "GET", "/api/v1/log/key") == []


@pytest.fixture
def limited(mongod: EmbeddedMongod, database: Database) -> Iterator[tuple[Client, Recorder]]:
    """Like `recorded`, with limits for writes and deletes, and none for reads."""
    limits = {Scope.WRITE: RateLimit(100, 1_000), Scope.DELETE: RateLimit(0.001, 3)}
    yield from record(mongod, database, rate_limits=limits)


@pytest.mark.usefixtures("patient_limits")
def test_a_rate_limit_costs_one_command(limited) -> None:
    """It is the first command, for any number of tokens; a refusal costs only that, and no limit costs nothing."""
    chat_ids = [limited[0].new_chat("a") for _ in range(2)]
    assert cost(limited, "POST", f"{CHATS}/{chat_ids[0]}/messages", json={"content": "x"}) == [
        "findAndModify",
        "findAndModify",
        "insert",
        "commitTransaction",
    ]
    assert len(cost(limited, "GET", f"{CHATS}/{chat_ids[0]}")) == 2
    assert len(cost(limited, "POST", f"{CHATS}/delete", json={"chat_ids": chat_ids})) == 7
    assert len(cost(limited, "DELETE", f"{CHATS}/{chat_ids[0]}")) == 7
    assert cost(limited, "DELETE", f"{CHATS}/{chat_ids[0]}") == ["findAndModify"]
    assert cost(limited, "POST", f"{CHATS}/delete", json={"chat_ids": chat_ids * 2}) == []


def test_a_key_is_looked_up_with_its_tenants_limits_in_one_command(recorded) -> None:
    client, recorder = recorded
    keys = client.app.extensions["chat_service"].keys
    with pytest.raises(InvalidApiKeyError):
        keys.authenticate("x")  # the first lookup also has a majority confirm the primary
    recorder.commands.clear()
    keys.authenticate(client.access.key)
    assert [name for name, _ in recorder.commands] == ["aggregate", "update"], "the update stores the day of its use"
    recorder.commands.clear()
    ApiKeys(keys._database).authenticate(client.access.key)
    assert [name for name, _ in recorder.commands] == ["aggregate"]


def test_what_connections_cost(recorded) -> None:
    """The numbers are those of the table in docs/data-model.md; connections are opened without HTTP."""
    client, recorder = recorded
    tenant_id, chat_id = client.access.tenant_id, client.new_chat("a")
    sockets = client.app.extensions["chat_service"]

    def open_one(connection_id: str) -> list[str]:
        recorder.commands.clear()
        sockets.keys.authenticate(client.access.key)
        sockets.keys.get(tenant_id, client.access.key_id)
        sockets.presence.open(tenant_id, chat_id, connection_id, "worker")
        return [name for name, _ in recorder.commands]

    opened = ["find", "find", "findAndModify", "insert", "commitTransaction"]
    assert open_one("a") == [opened[0], "aggregate", *opened[1:]], "the tenant's connections are counted once a second"
    assert open_one("b") == opened
    recorder.commands.clear()
    assert sockets.presence.renew("worker") == {"a", "b"}
    sockets.presence.close("worker", ["a"])
    assert [name for name, _ in recorder.commands] == ["update", "find", "delete"]
    assert cost(recorded, "POST", f"{CHATS}/{chat_id}/tickets") == ["find", "insert"]
    assert cost(recorded, "GET", f"{CHATS}/{chat_id}/connections") == ["find", "find"]
    evicted = ["find", "findAndModify", "delete", "delete", "insert", "commitTransaction"]
    assert cost(recorded, "DELETE", f"{CHATS}/{chat_id}?on_active=evict") == evicted


def test_a_ticket_is_redeemed_with_three_commands(recorded) -> None:
    client, recorder = recorded
    chat_id = client.new_chat()
    tickets = client.app.extensions["chat_service"].tickets
    ticket = client.send("POST", f"{CHATS}/{chat_id}/tickets").get_json()["ticket"]
    recorder.commands.clear()
    assert tickets.redeem(ticket, chat_id).tenant_id == client.access.tenant_id
    assert [name for name, _ in recorder.commands] == ["findAndModify", "find", "aggregate"], (
        "the ticket, whether the chat was restored since, and the current state of the key"
    )
