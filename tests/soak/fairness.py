"""Measures how one tenant's load slows another tenant: the times of its reads, posts and deletes under each load.

    python -m tests.soak.fairness                           all loads; prints the table of docs/reliability.md
    SOAK_SERVICE=<folder> python -m tests.soak.fairness     the same for another checkout

The callers of the load run in their own processes. They share the machine with the service and the other tenant.
"""

import json
import math
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

import websocket

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.embedded.service import EmbeddedGunicorn
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.tenants import Tenants
from tests.client import CHATS, TenantAccess
from tests.soak.campaign import other_checkout
from tests.wait import wait_until

LOAD_SECONDS = 12.0
WARM_SECONDS = 1.5
"""How long a load runs before the measurement begins."""

PROCESSES = 4
"""How many processes share the callers of a load."""

PROBE_PAUSE_SECONDS = 0.02


class Load(NamedTuple):
    """What one tenant does, and how many callers do it at once."""

    name: str
    callers: int
    prepare: Callable[["Caller"], None]
    act: Callable[["Caller"], int]


class Caller:
    """One connection of a tenant."""

    def __init__(self, port: int, access: TenantAccess) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = access.headers
        self.chat = ""

    def send(self, method: str, path: str, body: bytes | None = None, media: str = "application/json") -> int:
        return self.ask(method, path, body, media)[0]

    def ask(self, method: str, path: str, body: bytes | None, media: str = "application/json") -> tuple[int, bytes]:
        """Return status and body; the status is 0 if no answer came."""
        headers = {**self._headers, **({} if body is None else {"Content-Type": media})}
        try:
            self._connection.request(method, CHATS + path, body, headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, HTTPException):
            self._connection.close()
            return 0, b""

    def close(self) -> None:
        self._connection.close()

    def new_chat(self) -> str:
        return str(json.loads(self.ask("POST", "", b"{}")[1])["id"])


def _open_chat(caller: Caller) -> None:
    caller.chat = caller.new_chat()


def _fill_chat(caller: Caller) -> None:
    _open_chat(caller)
    caller.send("POST", f"/{caller.chat}/messages", BATCH)


def whole_export(messages: int, size: int) -> bytes:
    """Return an ndjson export to import: a chat of so many messages of `size` characters."""
    timestamp = "2024-01-15T10:45:00.000Z"
    times = {"created_at": timestamp, "updated_at": timestamp, "last_message_at": timestamp}
    chat = {
        "id": "b1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d",
        "title": None,
        "metadata": {},
        "message_count": messages,
        **times,
    }
    lines = [json.dumps({"type": "chat", "chat": chat})]
    for seq in range(1, messages + 1):
        message = {"seq": seq, "role": "user", "sender_id": None, "content": "x" * size, "metadata": {}}
        lines.append(
            json.dumps({"type": "message", "message": {**message, "created_at": timestamp, "edited_at": None}})
        )
    body = "".join(line + "\n" for line in lines).encode()
    end = {"type": "end", "message_count": messages, "sha256": sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


BATCH = json.dumps({"messages": [{"content": "x" * 300}] * 1_000}).encode()
EXPORT = whole_export(1_000, 3_900)


def _import(caller: Caller) -> int:
    return caller.send("POST", "/import", EXPORT, "application/x-ndjson")


def _post_batch(caller: Caller) -> int:
    return caller.send("POST", f"/{caller.chat}/messages", BATCH)


def _read_page(caller: Caller) -> int:
    return caller.send("GET", f"/{caller.chat}/messages?limit=200")


def _delete_all(caller: Caller) -> int:
    ids = [caller.new_chat() for _ in range(50)]
    return caller.send("POST", "/delete", json.dumps({"chat_ids": ids}).encode())


LOADS = [
    Load("16 import 4 MiB", 16, lambda _: None, _import),
    Load("64 post batches of 1,000", 64, _open_chat, _post_batch),
    Load("300 read pages of 200", 300, _fill_chat, _read_page),
    Load("16 make 50 chats and delete them at once", 16, lambda _: None, _delete_all),
]


def _run_callers(
    port: int, access: TenantAccess, load: Load, callers: int, stop: "multiprocessing.synchronize.Event"
) -> None:
    def run() -> None:
        caller = Caller(port, access)
        with suppress(ValueError, KeyError):  # the service was too busy to make a chat
            load.prepare(caller)
            while not stop.is_set():
                if load.act(caller) != 201:
                    stop.wait(0.05)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    stop.wait()


@contextmanager
def under(load: Load | None, port: int, access: TenantAccess) -> Iterator[None]:
    """Run the load against the service while the block runs."""
    if load is None:
        yield
        return
    stop = multiprocessing.Event()
    shares = [load.callers // PROCESSES] * PROCESSES
    with ExitStack() as stack:
        for share in shares:
            process = multiprocessing.Process(target=_run_callers, args=(port, access, load, share, stop), daemon=True)
            process.start()
            stack.callback(process.join, 5)
        stack.callback(stop.set)
        time.sleep(WARM_SECONDS)
        yield


class Latency(NamedTuple):
    """The other tenant's requests of one kind: their number, their latency in seconds, and how many were not served."""

    requests: int
    p50: float
    p99: float
    refused: int


class Listener:
    """A WebSocket of a chat; it notes when each message arrives."""

    def __init__(self, port: int, access: TenantAccess, chat: str) -> None:
        url = f"ws://127.0.0.1:{port}{CHATS}/{chat}/ws"
        self._socket = websocket.create_connection(url, header=access.headers, timeout=60)
        self.arrivals: dict[str, float] = {}
        """When each message arrived, by its content."""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(OSError, websocket.WebSocketException):
            while text := self._socket.recv():
                frame = json.loads(text)
                if frame["type"] == "message.created":
                    self.arrivals[frame["message"]["content"]] = time.monotonic()

    def close(self) -> None:
        self._socket.shutdown()
        self._thread.join(5)


def probe(port: int, access: TenantAccess, seconds: float) -> dict[str, Latency]:
    """Read, post and delete in turns, each on its own connection, and return the latency of each kind.

    The kind `live` is the posted messages: from the request to the frame on a WebSocket.
    """
    callers = {kind: Caller(port, access) for kind in ("read", "post", "delete")}
    durations: dict[str, list[float]] = {kind: [] for kind in callers}
    refused = dict.fromkeys([*callers, "live"], 0)
    chat = callers["read"].new_chat()
    listener = Listener(port, access, chat)
    posted: dict[str, float] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        victim = callers["delete"].new_chat()
        content = f"message {len(posted)}"
        for kind, method, path, body in (
            ("read", "GET", f"/{chat}", None),
            ("post", "POST", f"/{chat}/messages", json.dumps({"content": content}).encode()),
            ("delete", "DELETE", f"/{victim}", None),
        ):
            began = time.monotonic()
            if kind == "post":
                posted[content] = began
            status = callers[kind].send(method, path, body)
            durations[kind].append(time.monotonic() - began)
            refused[kind] += status not in {200, 201}
            time.sleep(PROBE_PAUSE_SECONDS)
    with suppress(AssertionError):
        wait_until(lambda: len(listener.arrivals) == len(posted), 5)
    listener.close()
    for caller in callers.values():
        caller.close()
    durations["live"] = [listener.arrivals.get(content, math.inf) - began for content, began in posted.items()]
    return {kind: _latency(times, refused[kind]) for kind, times in durations.items()}


def _latency(times: list[float], refused: int) -> Latency:
    ordered = sorted(times)
    return Latency(len(times), ordered[len(times) // 2], ordered[min(int(len(times) * 0.99), len(times) - 1)], refused)


@contextmanager
def two_tenants() -> Iterator[tuple[int, TenantAccess, TenantAccess]]:
    """Run the service with two tenants; give its port, the access of the loading tenant, and that of the other."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedMongod(Path(folder)) as mongod:
        database = Database(mongod.uri)
        database.prepare()
        tenants, keys = Tenants(database), ApiKeys(database)
        accesses = []
        for name in ("loud", "quiet"):
            tenant = tenants.create(name)
            key, api_key = keys.create(tenant.id, name, ["read", "write", "delete"])
            accesses.append(TenantAccess(tenant.id, key, api_key.id))
        database.close()
        with (
            (Path(folder) / "log").open("wb") as log_file,
            EmbeddedGunicorn(mongod.uri, free_port(), output=log_file, folder=other_checkout()) as gunicorn,
        ):
            yield gunicorn.port, accesses[0], accesses[1]


def main() -> None:
    """Print the table."""
    write = sys.stdout.write
    write("| beside | reads: p50 / p99 ms | posts | deletes | live messages | refused |\n")
    write("| --- | --- | --- | --- | --- | --- |\n")
    for load in (None, *LOADS):
        with two_tenants() as (port, loud, quiet), under(load, port, loud):
            results = probe(port, quiet, LOAD_SECONDS)
        cells = [f"{row.p50 * 1000:.0f} / {row.p99 * 1000:.0f}" for row in results.values()]
        refused = f"{sum(row.refused for row in results.values())} of {sum(row.requests for row in results.values())}"
        write(f"| {load.name if load else 'nobody'} | {' | '.join(cells)} | {refused} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
