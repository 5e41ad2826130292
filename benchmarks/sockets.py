"""What does an idle WebSocket cost, and how soon does a message reach a thousand of them?

One worker holds 5,000 idle sockets of 500 chats: its memory with and without them, and the p99 of small HTTP requests
with and without them, in turns. And 1,000 sockets of one chat: the time from the POST to the arrival of its frame.

    python -m benchmarks.sockets
"""

import asyncio
import multiprocessing
import os
import time
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import orjson
import pymongo

from benchmarks.client import Client
from benchmarks.measure import keep, medians, options, ratio, timed
from benchmarks.processes import memory, workers_of_service
from benchmarks.service import KEY, Address, service

SOCKETS_OF_A_CHAT = 10
MAX_HANDSHAKES = 50
"""The most concurrent handshakes."""

REQUESTS = 1_500
CLIENTS = 4

HANDSHAKE = (
    "GET /api/v1/chats/{chat_id}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PONG_HEAD = b"\x8a\x84\0\0\0\0"
"""The head of a pong frame, with a mask of zeros; the four bytes of the ping follow."""
PING_BYTE, TEXT_BYTE = 0x89, 0x81


class Listener(asyncio.Protocol):
    """A client that answers pings and records when frames arrive."""

    def __init__(self, chat_id: str, arrivals: list[float]) -> None:
        self._chat_id = chat_id
        self._arrivals = arrivals
        self._is_open = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(HANDSHAKE.format(chat_id=self._chat_id, key=KEY).encode())

    def data_received(self, data: bytes) -> None:
        """Record an arrival; the frames of this benchmark are small, and arrive whole."""
        if not self._is_open:
            head, _, data = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101"), head
            self._is_open = True
            self.opened.set_result(None)
        if data and data[0] == PING_BYTE:
            self.transport.write(PONG_HEAD + data[2:6])
        elif data and data[0] == TEXT_BYTE:
            self._arrivals.append(time.perf_counter())


class Crowd:
    """Open sockets in a separate process, which gets commands through a pipe."""

    def __init__(self, address: Address) -> None:
        self._pipe, child_end = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_crowd, args=(child_end, address), daemon=True
        )
        self._process.start()

    def ask(self, *command: Any) -> Any:
        """Send a command, and return the reply."""
        self._pipe.send(command)
        return self._pipe.recv()

    def end(self) -> None:
        """Close all sockets, and end the process."""
        self.ask("close")
        self._pipe.send(("end",))
        self._process.join()


def _crowd(pipe: Connection, address: Address) -> None:
    asyncio.run(_serve(pipe, address))


async def _serve(pipe: Connection, address: Address) -> None:
    loop = asyncio.get_running_loop()
    listeners: list[Listener] = []
    arrivals: list[float] = []
    handshakes = asyncio.Semaphore(MAX_HANDSHAKES)

    async def connect(chat_id: str) -> None:
        async with handshakes:
            _, listener = await loop.create_connection(lambda: Listener(chat_id, arrivals), *address)
            await listener.opened
            listeners.append(listener)

    while True:
        command, *rest = await loop.run_in_executor(None, pipe.recv)
        match command:
            case "open":
                await asyncio.gather(*(connect(chat_id) for chat_id in rest[0]))
            case "hear":  # wait until so many frames have arrived; reply with the times
                while len(arrivals) < rest[0]:  # noqa: ASYNC110 - the cost of an event for each frame would be measured too
                    await asyncio.sleep(0.01)
            case "close":
                for listener in listeners:
                    listener.transport.abort()
                listeners.clear()
            case "end":
                return
        pipe.send(arrivals[:])
        arrivals.clear()


def call(caller: Client, method: str, path: str, body: Any = None) -> Any:
    """Send one request and return the JSON of its response."""
    return orjson.loads(caller.send(method, path, body))


def get_chat(caller: Client, chat_id: str) -> None:
    """Send a small request, which takes two commands of the database."""
    assert call(caller, "GET", f"/chats/{chat_id}")["id"] == chat_id


def measure_idle(uri: str, address: Address, sockets: int, rounds: int) -> dict[str, Any]:
    """Measure memory and HTTP without and with idle sockets, in turns."""
    callers = [Client(address) for _ in range(CLIENTS)]
    chat_ids = [call(callers[0], "POST", "/chats", {})["id"] for _ in range(sockets // SOCKETS_OF_A_CHAT)]
    workers = [partial(get_chat, caller) for caller in callers]
    items = [chat_ids[number % 50] for number in range(REQUESTS)]
    crowd, pid = Crowd(address), workers_of_service()[0]
    results: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    kibibytes, opened_per_second = [], []
    timed(workers, items)
    for number in range(rounds):
        for caller in callers:
            caller.close()
        results["without"].append(timed(workers, items))
        before, began = memory(pid), time.perf_counter()
        crowd.ask("open", chat_ids * SOCKETS_OF_A_CHAT)
        for caller in callers:
            caller.close()
        opened_per_second.append(sockets / (time.perf_counter() - began))
        time.sleep(1)
        kibibytes.append((memory(pid) - before) / sockets / 1024)
        results["with"].append(timed(workers, items))
        crowd.ask("close")
        wait_until_closed(uri)
        p99 = [round(figures[-1]["p99_ms"], 1) for figures in results.values()]
        print(f"round {number}: {kibibytes[-1]:.1f} KiB, p99 without and with {p99} ms", flush=True)
    crowd.end()
    return {
        "sockets": sockets,
        # Later rounds reuse memory that the first has allocated, so only the first tells what a socket takes.
        "kibibytes_for_each": kibibytes[0],
        "opened_per_second": median(opened_per_second),
        "p99_ratio": ratio(results, "with", "without", "p99_ms"),
        **{side: medians(figures) for side, figures in results.items()},
    }


def wait_until_closed(uri: str) -> None:
    """Wait until every lease is released, and 3 s longer."""
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        while client.get_default_database().presence.count_documents({}):
            time.sleep(0.5)
    time.sleep(3)


def measure_fanout(address: Address, sockets: int, messages: int) -> dict[str, Any]:
    """Measure the time from a POST to the arrival of its frame at every socket, and the frames per second."""
    caller = Client(address)
    chat_id = call(caller, "POST", "/chats", {})["id"]
    crowd = Crowd(address)
    crowd.ask("open", [chat_id] * sockets)
    caller.close()
    latencies: list[float] = []
    for _ in range(messages):
        began = time.perf_counter()
        call(caller, "POST", f"/chats/{chat_id}/messages", {"content": "a message of ordinary length " * 4})
        arrivals = crowd.ask("hear", sockets)
        latencies += [(arrival - began) * 1000 for arrival in arrivals]
        time.sleep(0.1)
    crowd.end()
    latencies.sort()
    return {
        "sockets": sockets,
        "p50_ms": median(latencies),
        "p99_ms": latencies[int(len(latencies) * 0.99)],
        "frames_per_second": sockets / max(latencies) * 1000,
    }


def main() -> None:
    """Run, print the figures, write the JSON."""
    args = options(__doc__, sockets=5_000, rounds=5, listeners=1_000, messages=20).parse_args()
    with service(WEB_CONCURRENCY="1", CONNECTIONS_PER_CHAT="5000") as (_, address):
        fanout = measure_fanout(address, args.listeners, args.messages)
        print("fan-out", fanout, flush=True)
    with service(WEB_CONCURRENCY="1") as (uri, address):
        idle = measure_idle(uri, address, args.sockets, args.rounds)
        print("idle", idle, flush=True)
    keep("sockets", {"load": os.getloadavg()[0], "idle": idle, "fanout": fanout})


if __name__ == "__main__":
    main()
