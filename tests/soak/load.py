"""The callers: they create, post, connect, read and delete, all at once and much of it on the same chats."""

import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Callable

from tests.client import CHATS, TenantAccess
from tests.soak.connections import Sockets
from tests.soak.record import Record
from tests.soak.wire import Answer, Wire

LIVING = 40
"""Chats there are at a time: few enough that callers meet on them."""

CONTESTED = 3
"""The oldest so many are the ones that deleters, who do not ask each other, choose from."""

PAUSE_SECONDS = 0.05
"""A caller's rest between two requests, on average: the load is steady, and the machine not at its end."""

HOLD_SECONDS = 0.3
"""How long a connection is held, at most."""


class Load:
    """Some threads that call the service until they are told to stop; what they were told is in `records`."""

    def __init__(
        self,
        port: int,
        access: TenantAccess,
        sockets: Sockets,
        seed: int,
        *,
        name: str = "load",
        keep_alive: bool = True,
    ) -> None:
        self.records: list[Record] = []
        self.failures: list[BaseException] = []
        self._port = port
        self._access = access
        self._sockets = sockets
        self._keep_alive = keep_alive
        self._seed = seed
        self._of = name
        self._lock = threading.Lock()
        self._living: list[str] = []
        self._names = itertools.count(1)
        self._stop = threading.Event()
        self._wires: list[Wire] = []
        roles = [self._create] * 2 + [self._post] * 4 + [self._delete] * 3 + [self._connect] * 2 + [self._read] * 1
        self._threads = [
            threading.Thread(target=self._run, args=(role, number), name=f"{role.__name__}-{number}", daemon=True)
            for number, role in enumerate(roles)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every caller finish its request."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()
        if self.failures:
            raise self.failures[0]

    @property
    def resent(self) -> int:
        """Requests that met the end of a connection that was kept alive."""
        return sum(wire.resent for wire in self._wires)

    def _run(self, role: Callable[[Wire, random.Random], None], number: int) -> None:
        wire = Wire(self._port, self._access, keep_alive=self._keep_alive)
        self._wires.append(wire)
        dice = random.Random(self._seed * 100 + number)
        try:
            while not self._stop.is_set():
                role(wire, dice)
                self._stop.wait(dice.expovariate(1 / PAUSE_SECONDS))
        except BaseException as error:  # noqa: BLE001 - told by stop()
            self.failures.append(error)
        finally:
            wire.close()

    def _create(self, wire: Wire, dice: random.Random) -> None:
        with self._lock:
            if len(self._living) >= LIVING:
                return
        operation = self._name("create")
        chosen = str(uuid.UUID(int=dice.getrandbits(128), version=4)) if dice.random() < 0.5 else ""
        key = None if chosen else operation
        answer = wire.send("POST", CHATS, {"title": operation, **({"id": chosen} if chosen else {})}, key)
        chat_id = json.loads(answer.body)["id"] if answer.status == 201 else chosen
        self._keep("create", chat_id, operation, answer, key)
        if answer.status == 201:
            with self._lock:
                self._living.append(chat_id)

    def _post(self, wire: Wire, dice: random.Random) -> None:
        chat_id = self._choose(dice)
        if chat_id is None:
            return
        operation = self._name("post")
        number = 1 if dice.random() < 0.7 else dice.randint(2, 20)
        texts = tuple(f"{operation}/{index}" for index in range(number))
        key = operation if dice.random() < 0.5 else None
        self._keep("post", chat_id, operation, post(wire, chat_id, texts, key), key, texts)

    def _delete(self, wire: Wire, dice: random.Random) -> None:
        if dice.random() < 0.1:
            self._delete_some(wire, dice)
            return
        chat_id = self._choose(dice, CONTESTED)
        if chat_id is None:
            return
        operation = self._name("delete")
        key = operation if dice.random() < 0.5 else None
        answer = wire.send("DELETE", f"{CHATS}/{chat_id}", key=key)
        self._keep("delete", chat_id, operation, answer, key)
        if answer.status in {200, 404}:
            self._forget(chat_id)
        if key is not None and answer.status == 200 and dice.random() < 0.3:
            # As a caller that lost the answer would: the same again.
            self._keep("delete", chat_id, operation, wire.send("DELETE", f"{CHATS}/{chat_id}", key=key), key)

    def _delete_some(self, wire: Wire, dice: random.Random) -> None:
        with self._lock:
            chat_ids = self._living[: dice.randint(1, CONTESTED * 2)]
        if not chat_ids:
            return
        operation = self._name("bulk")
        for record in delete_all(wire, chat_ids, operation):
            self.records.append(record)
            if record.status in {200, 404}:
                self._forget(record.chat_id)

    def _connect(self, _: Wire, dice: random.Random) -> None:
        chat_id = self._choose(dice)
        if chat_id is None:
            return
        operation = self._name("connect")
        began = time.monotonic()
        status, code, socket = self._sockets.open(chat_id)
        self.records.append(Record("connect", chat_id, operation, began, time.monotonic(), status, code))
        if socket is not None:
            self._stop.wait(dice.random() * HOLD_SECONDS)
            began = time.monotonic()
            status, code = self._sockets.close(socket)
            self.records.append(Record("disconnect", chat_id, operation, began, time.monotonic(), status, code))

    def _read(self, wire: Wire, dice: random.Random) -> None:
        chat_id = self._choose(dice)
        if chat_id is None:
            return
        path = f"{CHATS}/{chat_id}" + dice.choice(["", "/messages?limit=200"])
        self._keep("read", chat_id, self._name("read"), wire.send("GET", path), None)

    def _name(self, kind: str) -> str:
        return f"{self._of}-{kind}-{next(self._names)}"

    def _choose(self, dice: random.Random, among: int | None = None) -> str | None:
        with self._lock:
            choice = self._living[:among]
            return dice.choice(choice) if choice else None

    def _forget(self, chat_id: str) -> None:
        with self._lock:
            if chat_id in self._living:
                self._living.remove(chat_id)

    def _keep(
        self, kind: str, chat_id: str, operation: str, answer: Answer, key: str | None, texts: tuple[str, ...] = ()
    ) -> None:
        body = answer.body if answer.status in {200, 201} and kind != "read" else b""
        self.records.append(
            Record(kind, chat_id, operation, answer.began, answer.ended, answer.status, answer.code, key, texts, body)
        )


def post(wire: Wire, chat_id: str, texts: tuple[str, ...], key: str | None) -> Answer:
    """Post messages: one as itself, several as a batch."""
    messages = [{"content": text} for text in texts]
    body = messages[0] if len(messages) == 1 else {"messages": messages}
    return wire.send("POST", f"{CHATS}/{chat_id}/messages", body, key)


def delete_all(wire: Wire, chat_ids: list[str], operation: str) -> list[Record]:
    """Delete chats with one request under the key `operation`; a record for each."""
    answer = wire.send("POST", f"{CHATS}/delete", {"chat_ids": chat_ids}, operation)
    told: dict[str, tuple[int | None, str | None]] = {}
    if answer.status == 200:
        result = json.loads(answer.body)
        told = {one["chat_id"]: (200, "") for one in result["successful"]}
        told |= {one["chat_id"]: (one["status"], one["code"]) for one in result["failed"]}
    return [
        Record(
            "bulk",
            chat_id,
            operation,
            answer.began,
            answer.ended,
            *told.get(chat_id, (answer.status, answer.code)),
            key=operation,
            parts=tuple(chat_ids),
        )
        for chat_id in chat_ids
    ]
