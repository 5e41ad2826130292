"""The callers: they create, post, connect, read and delete, all at once and much of it on the same chats."""

import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tests.client import CHATS, TenantAccess
from tests.soak.connections import Sockets
from tests.soak.exports import download
from tests.soak.receipts import CountOnDisk, read_receipt
from tests.soak.record import HUNG_UP, Record, label
from tests.soak.wire import Answer, Wire

LIVING = 40
"""Chats there are at a time: few enough that callers meet on them."""

CONTESTED = 3
"""The oldest so many are the ones that deleters, who do not ask each other, choose from."""

PAUSE_SECONDS = 0.05
"""A caller's rest between two requests, on average: the load is steady, and the machine not at its end."""

HOLD_SECONDS = 0.3
"""How long a connection is held, at most."""

BULK_SECONDS = 0.04
"""How long a bulk delete has been running, at most, when it is repeated or its caller hangs up."""

LARGE_SECONDS = 8.0
"""From one large chat to the next. It is made for this only, and deleted while it is exported."""

LARGE_BATCHES, LARGE_MESSAGES = 3, 120
PADDING = " " + "x" * 32_000
"""Three posts of 3.7 MiB each: far more than lies in the buffers of a socket."""

SLOW_REST = 0.01
"""A slow reader's, after every 64 KiB: the large chat takes it two seconds."""


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
        count: CountOnDisk | None = None,
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
        self._pool = ThreadPoolExecutor(8)
        self._count = count
        self._next_large = 0.0
        roles = [self._create] * 2 + [self._post] * 4 + [self._delete] * 3 + [self._connect] * 2 + [self._read] * 1
        roles += [self._export, self._empty, self._trash]
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
        self._pool.shutdown()
        if self.failures:
            raise self.failures[0]

    @property
    def resent(self) -> int:
        """Requests that met the end of a connection that was kept alive."""
        return sum(wire.resent for wire in self._wires)

    def _run(self, role: Callable[[Wire, random.Random], None], number: int) -> None:
        wire = self._new_wire()
        dice = random.Random(self._seed * 100 + number)
        try:
            while not self._stop.is_set():
                role(wire, dice)
                self._stop.wait(dice.expovariate(1 / PAUSE_SECONDS))
        except BaseException as error:  # noqa: BLE001 - told by stop()
            self.failures.append(error)
        finally:
            wire.close()

    def _new_wire(self) -> Wire:
        wire = Wire(self._port, self._access, keep_alive=self._keep_alive)
        self._wires.append(wire)
        return wire

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
        number = 1 if dice.random() < 0.7 else dice.randint(2, 20)
        self._post_to(wire, chat_id, number, with_key=dice.random() < 0.5)

    def _post_to(self, wire: Wire, chat_id: str, number: int, padding: str = "", *, with_key: bool = True) -> None:
        operation = self._name("post")
        labels = tuple(f"{operation}/{index}" for index in range(number))
        key = operation if with_key and not padding else None
        answer = post(wire, chat_id, tuple(one + padding for one in labels), key)
        if padding and answer.status == 201:
            answer = answer._replace(body=_without_padding(answer.body))
        self._keep("post", chat_id, operation, answer, key, labels)

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
        """Delete chats with one request; some are repeated while they run, or after their caller has hung up."""
        with self._lock:
            chat_ids = self._living[: dice.randint(1, CONTESTED * 5)]
        if not chat_ids:
            return
        operation = self._name("bulk")
        kind, delay = dice.random(), dice.random() * BULK_SECONDS
        meanwhile: Future[list[Record]] | None = None
        if kind < 0.2:
            self.records.extend(self._hang_up(chat_ids, operation, delay))
        elif kind < 0.6:
            meanwhile = self._pool.submit(self._delete_again, chat_ids, operation, delay)
        self._told_of_all(delete_all(wire, chat_ids, operation))
        if meanwhile is not None:
            self._told_of_all(meanwhile.result())
        if dice.random() < 0.3:
            self._told_of_all(delete_all(wire, chat_ids, operation))

    def _delete_again(self, chat_ids: list[str], operation: str, delay: float) -> list[Record]:
        time.sleep(delay)
        wire = self._new_wire()
        try:
            return delete_all(wire, chat_ids, operation)
        finally:
            wire.close()

    def _hang_up(self, chat_ids: list[str], operation: str, delay: float) -> list[Record]:
        wire, began = self._new_wire(), time.monotonic()
        wire.send_and_hang_up("POST", f"{CHATS}/delete", {"chat_ids": chat_ids}, operation, delay)
        told = (operation, began, time.monotonic(), None, HUNG_UP, operation, tuple(chat_ids))
        return [Record("bulk", chat_id, *told) for chat_id in chat_ids]

    def _told_of_all(self, records: Sequence[Record]) -> None:
        for record in records:
            self.records.append(record)
            if record.status in {200, 404}:
                self._forget(record.chat_id)

    def _empty(self, wire: Wire, dice: random.Random) -> None:
        """Empty a chat that mostly has more messages than are removed at once; and then delete it, mostly."""
        chat_id = self._choose(dice, CONTESTED)
        if chat_id is None:
            return
        self._post_to(wire, chat_id, dice.randint(1, 60))
        operation = self._name("clear")
        answer = wire.send("DELETE", f"{CHATS}/{chat_id}/messages")
        self._keep("clear", chat_id, operation, answer, None)
        if answer.status != 200 or dice.random() < 0.2:
            return
        if dice.random() < 0.3:
            self._post_to(wire, chat_id, dice.randint(1, 30))
        self._delete_and_look(wire, chat_id)

    def _trash(self, wire: Wire, dice: random.Random) -> None:
        """Move a chat to the trash, see that it is hidden, and restore it, mostly; others delete it out of there."""
        chat_id = self._choose(dice, CONTESTED * 5)
        if chat_id is None or not self._move(wire, dice, "trash", chat_id):
            return
        self._keep("read", chat_id, self._name("read"), wire.send("GET", f"{CHATS}/{chat_id}"), None)
        self._stop.wait(dice.random() * HOLD_SECONDS)
        if dice.random() < 0.9:
            self._move(wire, dice, "restore", chat_id)

    def _move(self, wire: Wire, dice: random.Random, kind: str, chat_id: str) -> bool:
        operation = self._name(kind)
        key = operation if dice.random() < 0.5 else None
        answer = move(wire, kind, chat_id, key)
        self._keep(kind, chat_id, operation, answer, key)
        return answer.status == 200

    def _export(self, wire: Wire, dice: random.Random) -> None:
        if time.monotonic() > self._next_large:
            self._next_large = time.monotonic() + LARGE_SECONDS
            self._export_large(wire, dice)
            return
        chat_id = self._choose(dice, dice.choice([CONTESTED, None]))
        if chat_id is not None:
            rest = dice.choice([0.0, SLOW_REST])
            self.records.append(download(self._port, self._access, chat_id, self._name("export"), rest))

    def _export_large(self, wire: Wire, dice: random.Random) -> None:
        """Delete a large chat while one reads an export of it slowly and another one quickly."""
        operation = self._name("create")
        answer = wire.send("POST", CHATS, {"title": operation}, operation)
        if answer.status != 201:
            self._keep("create", "", operation, answer, operation)
            return
        chat_id = json.loads(answer.body)["id"]
        self._keep("create", chat_id, operation, answer, operation)
        for _ in range(LARGE_BATCHES):
            self._post_to(wire, chat_id, LARGE_MESSAGES, PADDING)
        readers = [
            self._pool.submit(download, self._port, self._access, chat_id, self._name("export"), rest)
            for rest in (0.0, SLOW_REST)
        ]
        self._stop.wait(dice.random())
        self._delete_and_look(wire, chat_id)
        self.records.extend(reader.result() for reader in readers)

    def _delete_and_look(self, wire: Wire, chat_id: str) -> None:
        """Delete a chat, and look at its receipt at once and soon after."""
        operation = self._name("delete")
        answer = wire.send("DELETE", f"{CHATS}/{chat_id}")
        self._keep("delete", chat_id, operation, answer, None)
        if answer.status in {200, 404}:
            self._forget(chat_id)
        for _ in range(2 if answer.status == 200 else 0):
            self.records.append(read_receipt(wire, chat_id, self._name("receipt"), self._count))
            self._stop.wait(0.1)

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


def move(wire: Wire, kind: str, chat_id: str, key: str | None) -> Answer:
    """Move a chat to the trash, or restore it."""
    path = f"{CHATS}/{chat_id}/trash" if kind == "trash" else f"/api/v1/trash/{chat_id}/restore"
    return wire.send("POST", path, key=key)


def post(wire: Wire, chat_id: str, texts: tuple[str, ...], key: str | None) -> Answer:
    """Post messages: one as itself, several as a batch."""
    messages = [{"content": text} for text in texts]
    body = messages[0] if len(messages) == 1 else {"messages": messages}
    return wire.send("POST", f"{CHATS}/{chat_id}/messages", body, key)


def _without_padding(body: bytes) -> bytes:
    """Return the answer to a post with labels in place of contents, which would be kept by the megabyte."""
    messages = json.loads(body)["messages"]
    return json.dumps(
        {"messages": [{"seq": one["seq"], "content": label(one["content"])} for one in messages]}
    ).encode()


LEFT_OUT = (0, "left_out", b"")
"""What is kept of a chat that a bulk delete was asked for, and of which the answer says nothing."""


def delete_all(wire: Wire, chat_ids: list[str], operation: str) -> list[Record]:
    """Delete chats with one request under the key `operation`; a record for each."""
    answer = wire.send("POST", f"{CHATS}/delete", {"chat_ids": chat_ids}, operation)
    told: dict[str, tuple[int | None, str | None, bytes]] = dict.fromkeys(chat_ids, (answer.status, answer.code, b""))
    if answer.status == 200:
        result = json.loads(answer.body)
        told = dict.fromkeys(chat_ids, LEFT_OUT)
        told |= {one["chat_id"]: (200, "", one["deleted_at"].encode()) for one in result["successful"]}
        told |= {one["chat_id"]: (one["status"], one["code"], b"") for one in result["failed"]}
    return [
        Record(
            "bulk",
            chat_id,
            operation,
            answer.began,
            answer.ended,
            status,
            code,
            key=operation,
            parts=tuple(chat_ids),
            answer=deleted_at,
        )
        for chat_id, (status, code, deleted_at) in told.items()
    ]
