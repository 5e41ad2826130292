"""Thousands of rounds in which callers contend for the same chat at the same moment, over HTTP."""

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
    """One chat, and the callers that contend for it."""

    def __init__(self, rng: random.Random, wires: list[Wire], sockets: Sockets) -> None:
        self.chat_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        self.records: list[Record] = []
        self._rng = rng
        self._wires = wires
        self._sockets = sockets
        self._opened: list[tuple[str, websocket.WebSocket]] = []

    def run(self, pool: ThreadPoolExecutor) -> list[Record]:
        """Let the callers contend, then delete, create and post again; return the records, for the check at the end."""
        two_creates = self._rng.random() < 0.25
        if not two_creates:
            self._create(self._wires[0])
            self._post(self._wires[0])
        opponent = self._create if two_creates else lambda wire: self._delete(wire, "")
        contenders = [opponent, self._create, lambda wire: self._delete(wire, self.chat_id), self._post, self._connect]
        self._race(pool, contenders)
        self._disconnect()
        self._delete(self._wires[0], "")
        self._create(self._wires[0])
        self._post(self._wires[0])
        return self.records

    def _race(self, pool: ThreadPoolExecutor, contenders: list[Callable[[Wire], None]]) -> None:
        barrier = threading.Barrier(len(contenders))
        delays = [self._rng.random() * SPREAD_SECONDS for _ in contenders]

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
        fields = (answer.began, answer.ended, answer.status, answer.code)
        self.records.append(Record(kind, self.chat_id, operation, *fields, key, parts, body))


@pytest.fixture
def wires(database: Database, mongod, tmp_path) -> Iterator[tuple[list[Wire], Sockets, str]]:
    """Give an HTTP client for each contender, what opens their WebSockets, and the tenant's id."""
    # The delete of a chat of one message removes it in the same transaction; that of a chat of two needs a purge.
    with service(database, mongod.uri, tmp_path, inline_limit=1) as (gunicorn, access), ExitStack() as stack:
        clients = [stack.enter_context(closing(Wire(gunicorn.port, access))) for _ in range(CONTENDERS)]
        yield clients, Sockets(gunicorn.port, access), access.tenant_id


def test_a_few_rounds(wires, database, seed, tell) -> None:
    """The same as the soak test, for some seconds."""
    run_rounds("races-quick", 60, wires, database, seed, tell)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_thousands_of_rounds(wires, database, seed, tell) -> None:
    """10,000 rounds: exactly one delete of each chat gets a 200, no message is orphaned, and no chat comes back."""
    run_rounds("races", number("SOAK_ROUNDS", 10_000), wires, database, seed, tell)


def run_rounds(name: str, rounds: int, wires, database: Database, seed: int, tell) -> None:
    clients, sockets, tenant_id = wires
    rng = random.Random(seed)
    records: list[Record] = []
    with ThreadPoolExecutor(CONTENDERS) as pool:
        for finished in range(1, rounds + 1):
            records += Round(rng, clients, sockets).run(pool)
            if finished % TELL_ROUNDS == 0:
                tell(f"{finished}/{rounds} rounds")
    wins = Counter(first_of(chat_records) for chat_records in by_chat(records).values())
    judge(name, records, database, tenant_id, 8.0 * PATIENCE, tell, seed=seed, rounds=rounds, won_by=dict(wins))
    deleted = [
        sum(record.kind == "delete" and record.succeeded for record in chat_records)
        for chat_records in by_chat(records).values()
    ]
    assert deleted == [1] * rounds
    assert min(wins["connect"], wins["delete"]) > rounds // 50, f"no contest: {wins}"


def first_of(records: list[Record]) -> str:
    """Return which of "connect" and "delete" succeeded first."""
    return next(record.kind for record in records if record.kind in {"connect", "delete"} and record.succeeded)
