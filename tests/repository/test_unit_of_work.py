"""Every command of a transaction is sent in it: no other test would notice one that runs outside."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import dropwhile
from typing import Any

import pytest
from pymongo import monitoring

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.errors import ChatServiceError
from chat_service.models import ErasureMode, IdempotencyKey, Message, NewMessage, RetentionAction, Role
from chat_service.repository.bulk import Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.erasures import Erasures
from chat_service.repository.holds import Holds
from chat_service.repository.imports import Import
from chat_service.repository.messages import Messages
from chat_service.repository.presence import Presence
from chat_service.repository.purges import Purges
from chat_service.repository.retention import RetentionPolicies
from chat_service.repository.tenants import Tenants
from chat_service.repository.trash import Trash
from chat_service.repository.unit_of_work import UnitOfWork

TENANT = "tenant"
ONE_MESSAGE = [NewMessage(Role.USER, "x", None, {})]


@dataclass
class Recorder(monitoring.CommandListener):
    """Records the name, session id and transaction number of each command that is sent."""

    sent: list[tuple[str, Any, int | None]] = field(default_factory=list)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        session = event.command.get("lsid")
        self.sent.append((event.command_name, session and bytes(session["id"]), event.command.get("txnNumber")))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Only sent commands are recorded."""

    failed = succeeded  # type: ignore[assignment]


@pytest.fixture
def recorded(mongod: EmbeddedMongod, database: Database) -> Iterator[tuple[Database, Recorder]]:
    del database  # it is empty
    recorder = Recorder()
    listening = Database(mongod.uri, listeners=(recorder,))
    yield listening, recorder
    listening.close()


class Scene:
    """A chat with some messages, and preparations for operations on it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        database.rules.learn(TENANT)  # outside of the recorded transactions
        self.chats, self.messages = Chats(database), Messages(database, inline_limit=4)
        self.deletions, self.presence = Deletions(database, inline_limit=4), Presence(database)
        self.purges, self.checks, self.holds = Purges(database), Checks(database), Holds(database)
        self.policies = RetentionPolicies(database, self.deletions)
        self.id = self.chats.create(TENANT, None, {}).id
        self.messages.append(TENANT, self.id, ONE_MESSAGE * 3)

    def key(self, name: str = "key") -> IdempotencyKey:
        return IdempotencyKey(TENANT, name, "fingerprint")

    def grow(self) -> None:
        self.messages.append(TENANT, self.id, ONE_MESSAGE * 10)

    def purge(self) -> Any:
        self.grow()
        self.deletions.delete(TENANT, self.id, "key")
        return self.purges.claim("worker")

    def expire(self) -> None:
        self.presence.open(TENANT, self.id, "connection", "worker")
        self.database.presence.update_many({}, {"$set": {"expires_at": self.database.now()}})

    def other(self) -> str:
        return self.chats.create(TENANT, None, {}).id

    def trash(self) -> None:
        self.deletions.move_to_trash(TENANT, self.id, "key", timedelta(days=1))

    def hold(self) -> str:
        return self.holds.place(TENANT, "n", [self.id], "key").id

    def release(self) -> None:
        self.holds.release(TENANT, self.hold(), "key")

    def ask_for_erasure(self) -> Callable[[UnitOfWork], int]:
        """Request an erasure of a sender's messages, and return its work for a transaction."""
        self.messages.append(TENANT, self.id, [NewMessage(Role.USER, "x", "ada", {})])
        erasures = Erasures(self.database)
        erasures.request(TENANT, "ada", ErasureMode.REMOVE, "key")
        claim = erasures.claim("worker")
        assert claim is not None
        return partial(erasures._erase, claim, erasures._look(claim, 100)[1])

    def imported(self) -> Import:
        begun = Import(self.database, TENANT, replace(self.chats.get(TENANT, self.id), id=str(uuid.uuid4())))
        begun.add([Message(1, "user", None, "x", {}, self.database.now(), None)])
        return begun

    def stage(self, begun: Import) -> None:
        begun.add([Message(2, "user", None, "x", {}, self.database.now(), None)])

    def staged(self) -> Import:
        begun = self.imported()
        self.stage(begun)
        return begun


Prepare = Callable[[Scene], Any]
OPERATIONS: dict[str, tuple[Prepare, Callable[[Scene, Any], object]]] = {
    "create": (lambda _: None, lambda scene, _: scene.chats.create(TENANT, None, {})),
    "create under an id": (lambda _: "c" * 36, lambda scene, chat_id: scene.chats.create(TENANT, None, {}, chat_id)),
    "create with a key": (
        lambda scene: scene.key(),
        lambda scene, key: scene.chats.create(TENANT, None, {}, None, key),
    ),
    "post": (lambda _: None, lambda scene, _: scene.messages.append(TENANT, scene.id, ONE_MESSAGE)),
    "post many": (lambda _: None, lambda scene, _: scene.messages.append(TENANT, scene.id, ONE_MESSAGE * 50)),
    "post with a key": (
        lambda scene: scene.key(),
        lambda scene, key: scene.messages.append(TENANT, scene.id, ONE_MESSAGE, key),
    ),
    "edit": (lambda _: None, lambda scene, _: scene.messages.edit(TENANT, scene.id, 1, {"content": "y"}, "key")),
    "delete a message": (lambda _: None, lambda scene, _: scene.messages.delete(TENANT, scene.id, 1, "key")),
    "delete no message": (lambda _: None, lambda scene, _: scene.messages.delete(TENANT, scene.id, 99, "key")),
    "empty": (lambda _: None, lambda scene, _: scene.messages.clear(TENANT, scene.id, "key")),
    "empty a large one": (Scene.grow, lambda scene, _: scene.messages.clear(TENANT, scene.id, "key")),
    "delete": (lambda _: None, lambda scene, _: scene.deletions.delete(TENANT, scene.id, "key")),
    "delete a large one": (Scene.grow, lambda scene, _: scene.deletions.delete(TENANT, scene.id, "key")),
    "delete after a lease": (Scene.expire, lambda scene, _: scene.deletions.delete(TENANT, scene.id, "key")),
    "delete at a revision": (lambda _: [99], lambda scene, seen: scene.deletions.delete(TENANT, scene.id, "key", seen)),
    "delete with a key": (Scene.key, lambda scene, key: scene.deletions.delete(TENANT, scene.id, "key", None, key)),
    "evict": (
        lambda scene: scene.presence.open(TENANT, scene.id, "connection", "worker"),
        lambda scene, _: scene.deletions.delete(TENANT, scene.id, "key", evict=True),
    ),
    "hold": (lambda _: None, lambda scene, _: scene.holds.place(TENANT, "n", [scene.id], "key")),
    "hold what is in the trash": (Scene.trash, lambda scene, _: scene.holds.place(TENANT, "n", [scene.id], "key")),
    "hold what is not there": (lambda _: None, lambda scene, _: scene.holds.place(TENANT, "n", ["absent"], "key")),
    "change a hold": (Scene.hold, lambda scene, hold_id: scene.holds.change(TENANT, hold_id, [], [scene.id], "key")),
    "release": (Scene.hold, lambda scene, hold_id: scene.holds.release(TENANT, hold_id, "key")),
    "lift": (Scene.release, lambda scene, _: scene.holds.lift_some()),
    "delete what is held": (Scene.hold, lambda scene, _: scene.deletions.delete(TENANT, scene.id, "key")),
    "delete what was held": (Scene.release, lambda scene, _: scene.deletions.delete(TENANT, scene.id, "key")),
    "edit what is held": (
        Scene.hold,
        lambda scene, _: scene.messages.edit(TENANT, scene.id, 1, {"content": "y"}, "key"),
    ),
    "edit what was held": (
        Scene.release,
        lambda scene, _: scene.messages.edit(TENANT, scene.id, 1, {"content": "y"}, "key"),
    ),
    "delete while everything is held": (
        lambda scene: scene.holds.place(TENANT, "n", None, "key"),
        lambda scene, _: scene.deletions.delete(TENANT, scene.id, "key"),
    ),
    "edit when it is not known what is held": (
        lambda scene: scene.database.rules._tenants.clear(),
        lambda scene, _: scene.messages.edit(TENANT, scene.id, 1, {"content": "y"}, "key"),
    ),
    "set a retention": (
        lambda scene: Tenants(scene.database).create("t", TENANT),
        lambda scene, _: scene.policies.put(TENANT, 9, RetentionAction.DELETE, 9, "key"),
    ),
    "end no retention": (lambda _: None, lambda scene, _: scene.policies.end(TENANT, "key")),
    "ask for an erasure": (
        lambda _: None,
        lambda scene, _: Erasures(scene.database).request(TENANT, "ada", ErasureMode.REMOVE, "key"),
    ),
    "erase": (Scene.ask_for_erasure, lambda scene, erase: scene.database.transaction(erase)),
    "restore": (
        Scene.trash,
        lambda scene, _: Trash(scene.database).restore(TENANT, scene.id, "key"),
    ),
    "connect": (lambda _: None, lambda scene, _: scene.presence.open(TENANT, scene.id, "connection", "worker")),
    "import": (Scene.imported, lambda _, begun: begun.finish()),
    "stage an import": (Scene.imported, Scene.stage),
    "import what is staged": (Scene.staged, lambda _, begun: begun.finish()),
    "purge": (Scene.purge, lambda scene, purge: scene.purges.remove(purge, 0, 5)),
    "finish a purge": (Scene.purge, lambda scene, purge: scene.purges.finish(purge)),
}


@pytest.mark.parametrize(("prepare", "operate"), OPERATIONS.values(), ids=OPERATIONS)
def test_all_commands_of_a_transaction_carry_its_number(recorded, prepare, operate) -> None:
    """All commands from the first of the transaction to its commit have its number."""
    database, recorder = recorded
    scene = Scene(database)
    prepared = prepare(scene)
    recorder.sent.clear()
    with suppress(ChatServiceError):  # a transaction that refuses commits too
        operate(scene, prepared)
    assert_in_one_transaction(recorder)


def test_a_group_of_a_bulk_delete_is_one_transaction(recorded) -> None:
    database, recorder = recorded
    scene = Scene(database)
    scene.expire()
    ids = [scene.id, scene.other(), "absent"]
    recorder.sent.clear()
    Bulk(database, Deletions(database)).remove(TENANT, ids, "key")
    assert_in_one_transaction(recorder)


def test_a_repair_is_one_transaction(recorded) -> None:
    """The reads before the repair are outside of transactions, or in a snapshot's session."""
    database, recorder = recorded
    scene = Scene(database)
    database.chats.update_one({}, {"$inc": {"message_count": 5}})
    recorder.sent.clear()
    assert len(list(scene.checks.run(repair=True))) == 1
    assert_in_one_transaction(recorder)


def assert_in_one_transaction(recorder: Recorder) -> None:
    """Check that all commands are in one transaction, except for reads before it."""
    sent = list(dropwhile(lambda command: command[2] is None, recorder.sent))
    assert sent[-1][0] == "commitTransaction", sent
    assert len(sent) > 1
    assert {command[1:] for command in sent} == {sent[-1][1:]}, sent


def test_a_read_returns_more_than_one_batch(database) -> None:
    """It returns the same documents inside a transaction and outside, with times that have a time zone."""
    database.presence.insert_many(
        {"_id": f"{number:03}", "tenant_id": "t", "chat_id": "c", "expires_at": database.now()} for number in range(250)
    )

    def work(tx: UnitOfWork) -> list[dict[str, Any]]:
        return tx.read("presence", {"tenant_id": "t"}, {"expires_at": True})

    inside = database.transaction(work)
    assert len({lease["_id"] for lease in inside}) == 250
    assert inside == work(database.unbound())
