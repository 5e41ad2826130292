"""The load: callers that create, post, connect, read and delete at the same time, often on the same chats."""

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

MAX_LIVE_CHATS = 40
"""How many chats are live at a time, at most: few enough that callers contend for them."""

CONTESTED = 3
"""How many of the oldest chats callers choose from when they delete: so few that they contend."""

PAUSE_SECONDS = 0.05
"""A caller's pause between two requests, on average: the load is steady, and the machine not saturated."""

HOLD_SECONDS = 0.3
"""How long a connection stays open, or a chat in the trash, at most."""

BULK_SECONDS = 0.04
"""How long a bulk delete has been running, at most, when it is repeated or its caller hangs up."""

LARGE_SECONDS = 8.0
"""Interval between two large chats. Each is created only to be deleted while it is exported."""

LARGE_BATCHES, LARGE_MESSAGES = 3, 120
PADDING = " " + "x" * 32_000
"""Three posts of 3.7 MiB each: far more than the buffers of a socket hold."""

SLOW_REST = 0.01
"""A slow reader's pause in seconds after every 64 KiB: it takes two seconds for the large chat."""


class Load:
    """Threads that call the service until `stop`; their requests and the answers are in `records`."""

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
        self._name_prefix = name
        self._lock = threading.Lock()
        self._live_chat_ids: list[str] = []
        self._names = itertools.count(1)
        self._stop = threading.Event()
        self._wires: list[Wire] = []
        self._pool = ThreadPoolExecutor(8)
        self._count_on_disk = count
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
        """Let every caller finish its request; raise the first failure of a caller."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()
        self._pool.shutdown()
        if self.failures:
            raise self.failures[0]

    @property
    def resent(self) -> int:
        """How many requests were sent again, because the server closed a kept-alive connection."""
        return sum(wire.resent for wire in self._wires)

    def _run(self, role: Callable[[Wire, random.Random], None], number: int) -> None:
        wire = self._new_wire()
        rng = random.Random(self._seed * 100 + number)
        try:
            while not self._stop.is_set():
                role(wire, rng)
                self._stop.wait(rng.expovariate(1 / PAUSE_SECONDS))
        except BaseException as error:  # noqa: BLE001 - raised by stop()
            self.failures.append(error)
        finally:
            wire.close()

    def _new_wire(self) -> Wire:
        wire = Wire(self._port, self._access, keep_alive=self._keep_alive)
        self._wires.append(wire)
        return wire

    def _create(self, wire: Wire, rng: random.Random) -> None:
        with self._lock:
            if len(self._live_chat_ids) >= MAX_LIVE_CHATS:
                return
        operation = self._name("create")
        chosen_id = str(uuid.UUID(int=rng.getrandbits(128), version=4)) if rng.random() < 0.5 else ""
        key = None if chosen_id else operation
        answer = wire.send("POST", CHATS, {"title": operation, **({"id": chosen_id} if chosen_id else {})}, key)
        chat_id = json.loads(answer.body)["id"] if answer.status == 201 else chosen_id
        self._keep("create", chat_id, operation, answer, key)
        if answer.status == 201:
            with self._lock:
                self._live_chat_ids.append(chat_id)

    def _post(self, wire: Wire, rng: random.Random) -> None:
        chat_id = self._choose(rng)
        if chat_id is None:
            return
        number = 1 if rng.random() < 0.7 else rng.randint(2, 20)
        self._post_to(wire, chat_id, number, with_key=rng.random() < 0.5)

    def _post_to(self, wire: Wire, chat_id: str, number: int, padding: str = "", *, with_key: bool = True) -> None:
        operation = self._name("post")
        labels = tuple(f"{operation}/{index}" for index in range(number))
        key = operation if with_key and not padding else None
        answer = post(wire, chat_id, tuple(text + padding for text in labels), key)
        if padding and answer.status == 201:
            answer = answer._replace(body=_without_padding(answer.body))
        self._keep("post", chat_id, operation, answer, key, labels)

    def _delete(self, wire: Wire, rng: random.Random) -> None:
        if rng.random() < 0.1:
            self._delete_some(wire, rng)
            return
        chat_id = self._choose(rng, CONTESTED)
        if chat_id is None:
            return
        operation = self._name("delete")
        key = operation if rng.random() < 0.5 else None
        answer = wire.send("DELETE", f"{CHATS}/{chat_id}", key=key)
        self._keep("delete", chat_id, operation, answer, key)
        if answer.status in {200, 404}:
            self._forget(chat_id)
        if key is not None and answer.status == 200 and rng.random() < 0.3:
            # Repeat the request, as a caller would that lost the answer.
            self._keep("delete", chat_id, operation, wire.send("DELETE", f"{CHATS}/{chat_id}", key=key), key)

    def _delete_some(self, wire: Wire, rng: random.Random) -> None:
        """Delete chats with one request; some requests are repeated while they run, or after their caller hung up."""
        with self._lock:
            chat_ids = self._live_chat_ids[: rng.randint(1, CONTESTED * 5)]
        if not chat_ids:
            return
        operation = self._name("bulk")
        chance, delay = rng.random(), rng.random() * BULK_SECONDS
        repetition: Future[list[Record]] | None = None
        if chance < 0.2:
            self.records.extend(self._hang_up(chat_ids, operation, delay))
        elif chance < 0.6:
            repetition = self._pool.submit(self._delete_again, chat_ids, operation, delay)
        self._keep_all(delete_all(wire, chat_ids, operation))
        if repetition is not None:
            self._keep_all(repetition.result())
        if rng.random() < 0.3:
            self._keep_all(delete_all(wire, chat_ids, operation))

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
        fields = (operation, began, time.monotonic(), None, HUNG_UP, operation, tuple(chat_ids))
        return [Record("bulk", chat_id, *fields) for chat_id in chat_ids]

    def _keep_all(self, records: Sequence[Record]) -> None:
        for record in records:
            self.records.append(record)
            if record.status in {200, 404}:
                self._forget(record.chat_id)

    def _empty(self, wire: Wire, rng: random.Random) -> None:
        """Empty a chat, which usually has more messages than are removed at once; then, usually, delete it."""
        chat_id = self._choose(rng, CONTESTED)
        if chat_id is None:
            return
        self._post_to(wire, chat_id, rng.randint(1, 60))
        operation = self._name("clear")
        answer = wire.send("DELETE", f"{CHATS}/{chat_id}/messages")
        self._keep("clear", chat_id, operation, answer, None)
        if answer.status != 200 or rng.random() < 0.2:
            return
        if rng.random() < 0.3:
            self._post_to(wire, chat_id, rng.randint(1, 30))
        self._delete_and_read_receipt(wire, chat_id)

    def _trash(self, wire: Wire, rng: random.Random) -> None:
        """Move a chat to the trash, try to read it there, and usually restore it; other callers delete it there."""
        chat_id = self._choose(rng, CONTESTED * 5)
        if chat_id is None or not self._move(wire, rng, "trash", chat_id):
            return
        self._keep("read", chat_id, self._name("read"), wire.send("GET", f"{CHATS}/{chat_id}"), None)
        self._stop.wait(rng.random() * HOLD_SECONDS)
        if rng.random() < 0.9:
            self._move(wire, rng, "restore", chat_id)

    def _move(self, wire: Wire, rng: random.Random, kind: str, chat_id: str) -> bool:
        operation = self._name(kind)
        key = operation if rng.random() < 0.5 else None
        answer = move(wire, kind, chat_id, key)
        self._keep(kind, chat_id, operation, answer, key)
        return answer.status == 200

    def _export(self, wire: Wire, rng: random.Random) -> None:
        if time.monotonic() > self._next_large:
            self._next_large = time.monotonic() + LARGE_SECONDS
            self._export_large(wire, rng)
            return
        chat_id = self._choose(rng, rng.choice([CONTESTED, None]))
        if chat_id is not None:
            rest = rng.choice([0.0, SLOW_REST])
            self.records.append(download(self._port, self._access, chat_id, self._name("export"), rest))

    def _export_large(self, wire: Wire, rng: random.Random) -> None:
        """Delete a large chat while one client exports it slowly and another one quickly."""
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
        self._stop.wait(rng.random())
        self._delete_and_read_receipt(wire, chat_id)
        self.records.extend(reader.result() for reader in readers)

    def _delete_and_read_receipt(self, wire: Wire, chat_id: str) -> None:
        """Delete a chat, and read its receipt at once and soon after."""
        operation = self._name("delete")
        answer = wire.send("DELETE", f"{CHATS}/{chat_id}")
        self._keep("delete", chat_id, operation, answer, None)
        if answer.status in {200, 404}:
            self._forget(chat_id)
        for _ in range(2 if answer.status == 200 else 0):
            self.records.append(read_receipt(wire, chat_id, self._name("receipt"), self._count_on_disk))
            self._stop.wait(0.1)

    def _connect(self, _: Wire, rng: random.Random) -> None:
        chat_id = self._choose(rng)
        if chat_id is None:
            return
        operation = self._name("connect")
        began = time.monotonic()
        status, code, socket = self._sockets.open(chat_id)
        self.records.append(Record("connect", chat_id, operation, began, time.monotonic(), status, code))
        if socket is not None:
            self._stop.wait(rng.random() * HOLD_SECONDS)
            began = time.monotonic()
            status, code = self._sockets.close(socket)
            self.records.append(Record("disconnect", chat_id, operation, began, time.monotonic(), status, code))

    def _read(self, wire: Wire, rng: random.Random) -> None:
        chat_id = self._choose(rng)
        if chat_id is None:
            return
        path = f"{CHATS}/{chat_id}" + rng.choice(["", "/messages?limit=200"])
        self._keep("read", chat_id, self._name("read"), wire.send("GET", path), None)

    def _name(self, kind: str) -> str:
        return f"{self._name_prefix}-{kind}-{next(self._names)}"

    def _choose(self, rng: random.Random, oldest: int | None = None) -> str | None:
        with self._lock:
            candidates = self._live_chat_ids[:oldest]
            return rng.choice(candidates) if candidates else None

    def _forget(self, chat_id: str) -> None:
        with self._lock:
            if chat_id in self._live_chat_ids:
                self._live_chat_ids.remove(chat_id)

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
    """Post one message by itself, or several as a batch."""
    messages = [{"content": text} for text in texts]
    body = messages[0] if len(messages) == 1 else {"messages": messages}
    return wire.send("POST", f"{CHATS}/{chat_id}/messages", body, key)


def _without_padding(body: bytes) -> bytes:
    """Return the answer to a post with labels in place of contents, to save memory: the contents are megabytes."""
    messages = json.loads(body)["messages"]
    return json.dumps(
        {"messages": [{"seq": message["seq"], "content": label(message["content"])} for message in messages]}
    ).encode()


LEFT_OUT = (0, "left_out", b"")
"""The outcome of a chat that a bulk delete had to delete and that its answer does not mention."""


def delete_all(wire: Wire, chat_ids: list[str], operation: str) -> list[Record]:
    """Delete chats with one request under the key `operation`, and return a record for each chat."""
    answer = wire.send("POST", f"{CHATS}/delete", {"chat_ids": chat_ids}, operation)
    outcomes: dict[str, tuple[int | None, str | None, bytes]] = dict.fromkeys(
        chat_ids, (answer.status, answer.code, b"")
    )
    if answer.status == 200:
        result = json.loads(answer.body)
        outcomes = dict.fromkeys(chat_ids, LEFT_OUT)
        outcomes |= {item["chat_id"]: (200, "", item["deleted_at"].encode()) for item in result["successful"]}
        outcomes |= {item["chat_id"]: (item["status"], item["code"], b"") for item in result["failed"]}
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
        for chat_id, (status, code, deleted_at) in outcomes.items()
    ]
