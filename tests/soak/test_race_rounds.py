"""Thousands of rounds in which everybody wants the same chat at the same moment, over HTTP."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest
import websocket

from chat_service.repository.database import Database
from tests.client import CHATS
from tests.soak.campaign import judge, service
from tests.soak.conftest import number
from tests.soak.connections import Sockets
from tests.soak.load import post
from tests.soak.record import Record, by_chat
from tests.soak.wire import Wire
from tests.wait import PATIENCE

CONTENDERS = 5

SPREAD_SECONDS = 0.008
"""How far apart contenders start, at most: about what a delete takes."""

TELL_ROUNDS = 500


class Round:
    """One chat, and those who contend for it."""

    def __init__(self, dice: random.Random, wires: list[Wire], sockets: Sockets) -> None:
        self.chat_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        self.records: list[Record] = []
        self._dice = dice
        self._wires = wires
        self._sockets = sockets
        self._opened: list[tuple[str, websocket.WebSocket]] = []

    def run(self, pool: ThreadPoolExecutor) -> list[Record]:
        """Let them contend; then delete what is left, and see that nothing comes back."""
        two_creates = self._dice.random() < 0.25
        if not two_creates:
            self._create(self._wires[0])
            self._post(self._wires[0])
        other = self._create if two_creates else lambda wire: self._delete(wire, "")
        contenders = [other, self._create, lambda wire: self._delete(wire, self.chat_id), self._post, self._connect]
        self._race(pool, contenders)
        self._disconnect()
        self._delete(self._wires[0], "")
        self._create(self._wires[0])
        self._post(self._wires[0])
        return self.records

    def _race(self, pool: ThreadPoolExecutor, contenders: list[Callable[[Wire], None]]) -> None:
        barrier = threading.Barrier(len(contenders))
        delays = [self._dice.random() * SPREAD_SECONDS for _ in contenders]

        def go(contender: Callable[[Wire], None], wire: Wire, delay: float) -> None:
            barrier.wait()
            time.sleep(delay)
            contender(wire)

        list(pool.map(go, contenders, self._wires, delays))

    def _create(self, wire: Wire) -> None:
        operation = self._name("create")
        answer = wire.send("POST", CHATS, {"id": self.chat_id, "title": operation})
        self._keep(operation, answer)

    def _post(self, wire: Wire) -> None:
        operation = self._name("post")
        self._keep(operation, post(wire, self.chat_id, (operation,), None), parts=(operation,))

    def _delete(self, wire: Wire, key: str) -> None:
        answer = wire.send("DELETE", f"{CHATS}/{self.chat_id}", key=key or None)
        self._keep(self._name("delete"), answer, key=key or None)

    def _connect(self, _: Wire) -> None:
        operation, began = self._name("connect"), time.monotonic()
        status, code, socket = self._sockets.open(self.chat_id)
        self.records.append(Record("connect", self.chat_id, operation, began, time.monotonic(), status, code))
        if socket is not None:
            self._opened.append((operation, socket))

    def _disconnect(self) -> None:
        for operation, socket in self._opened:
            began = time.monotonic()
            status, code = self._sockets.close(socket)
            self.records.append(Record("disconnect", self.chat_id, operation, began, time.monotonic(), status, code))

    def _name(self, kind: str) -> str:
        return f"{kind}-{uuid.uuid4().hex}"

    def _keep(self, operation, answer, *, key=None, parts=()) -> None:
        kind = operation.partition("-")[0]
        body = answer.body if answer.status in {200, 201} else b""
        told = (answer.began, answer.ended, answer.status, answer.code)
        self.records.append(Record(kind, self.chat_id, operation, *told, key, parts, body))


@pytest.fixture
def wires(database: Database, mongod, tmp_path) -> Iterator[tuple[list[Wire], Sockets, str]]:
    """A connection to the service for each contender, how they connect to chats, and the tenant."""
    # Chats of one message go with their messages in one transaction, those of two leave them to a purge.
    with service(database, mongod.uri, tmp_path, inline_limit=1) as (running, access), ExitStack() as stack:
        found = [stack.enter_context(closing(Wire(running.port, access))) for _ in range(CONTENDERS)]
        yield found, Sockets(running.port, access), access.tenant_id


def test_a_few_rounds(wires, database, seed, tell) -> None:
    """The same as the soak, for some seconds."""
    run_rounds("races-quick", 60, wires, database, seed, tell)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_thousands_of_rounds(wires, database, seed, tell) -> None:
    """10,000 rounds: one 200 for each chat, no orphan, and no chat comes back."""
    run_rounds("races", number("SOAK_ROUNDS", 10_000), wires, database, seed, tell)


def run_rounds(name: str, rounds: int, wires, database: Database, seed: int, tell) -> None:
    found, sockets, tenant_id = wires
    dice = random.Random(seed)
    records: list[Record] = []
    with ThreadPoolExecutor(CONTENDERS) as pool:
        for done in range(1, rounds + 1):
            records += Round(dice, found, sockets).run(pool)
            if done % TELL_ROUNDS == 0:
                tell(f"{done}/{rounds} rounds")
    won = Counter(first_of(told) for told in by_chat(records).values())
    judge(name, records, database, tenant_id, 8.0 * PATIENCE, tell, seed=seed, rounds=rounds, won_by=dict(won))
    deleted = [sum(one.kind == "delete" and one.succeeded for one in told) for told in by_chat(records).values()]
    assert deleted == [1] * rounds
    assert min(won["connect"], won["delete"]) > rounds // 50, f"no contest: {won}"


def first_of(told: list[Record]) -> str:
    """Whether the chat was connected to before it was deleted, or deleted first."""
    return next(one.kind for one in told if one.kind in {"connect", "delete"} and one.succeeded)
