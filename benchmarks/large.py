"""Deletes of large chats: how long the caller waits, how fast the purge is, and whether it slows down others.

- DELETE over HTTP by one client, for chats of 10 to 1,000,000 messages, in turns.
- Trash and restore, of a small chat and a large one, in turns.
- The purge of a large chat by `flask jobs run`, in messages per second, against one raw `delete_many` of its range.
- Small requests of another tenant (a GET, a post) at a steady rate: before a purge and during one.

    python -m benchmarks.large
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymongo

from benchmarks.client import Client
from benchmarks.delete import chat_document, http_delete, message_document
from benchmarks.measure import interleave, keep, medians, options, ratio
from benchmarks.reads import make_small_tenant
from benchmarks.service import TENANT, Address, service
from chat_service.embedded.process import start
from chat_service.repository.keys import message_range

SIZES = [10, 100, 1_000, 10_000, 100_000, 1_000_000]
RATE = 50
"""Small requests per second: normal traffic during a purge, and far below the capacity of the service."""
SAMPLES = 1_000
MOVES = 100
"""How often each chat is trashed and restored."""


def store(db: Any, chat_id: str, messages: int) -> None:
    """Store one chat with so many messages."""
    db.chats.insert_one(chat_document(chat_id, messages))
    for first in range(1, messages + 1, 10_000):
        last = min(first + 10_000, messages + 1)
        db.messages.insert_many([message_document(chat_id, seq) for seq in range(first, last)], ordered=False)
    if messages > 10_000:  # noqa: PLR2004
        db.client.admin.command("fsync")  # else mongod would still be flushing it to disk during a measurement


def new_id() -> str:
    """Return a fresh chat id."""
    return f"55555555-0000-4000-8000-{time.time_ns() % 16**12:012x}"


def purge(uri: str) -> float:
    """Run the deployed worker until no purge is open, and return the seconds that took."""
    began = time.perf_counter()
    command = ("flask", "--app", "wsgi", "jobs", "run", "--until-idle")
    with Path(os.devnull).open("wb") as nowhere:
        start(*command, MONGODB_URI=uri, output=nowhere).wait()
    return time.perf_counter() - began


def latencies(db: Any, uri: str, address: Address, rounds: int) -> dict[int, list[float]]:
    """Return the milliseconds that DELETE took, by the size of the chat."""
    client = Client(address)
    latencies_by_size: dict[int, list[float]] = {size: [] for size in SIZES}
    for number in range(rounds + 1):
        for size in SIZES:
            # Large chats take long to store, so only every other round has them.
            if size > 10_000 and number % 2:  # noqa: PLR2004
                continue
            chat_ids = [new_id() for _ in range(5 if size <= 1_000 else 1)]  # noqa: PLR2004
            for chat_id in chat_ids:
                store(db, chat_id, size)
            store(db, first := new_id(), SIZES[0])
            client.close()  # the connection has been idle for too long
            http_delete(client, first)  # warms up the worker: its database connection and its cached API key
            for chat_id in chat_ids:
                began = time.perf_counter()
                http_delete(client, chat_id)
                latencies_by_size[size].append((time.perf_counter() - began) * 1000)
            if number == 0:
                latencies_by_size[size].clear()  # the first round only warms up
        purge(uri)
    client.close()
    return latencies_by_size


def moves(db: Any, address: Address, sizes: tuple[int, int], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Trash and restore a chat of each size in turns; return the milliseconds, by action and by size."""
    client = Client(address)
    chat_ids = {size: new_id() for size in sizes}
    for size, chat_id in chat_ids.items():
        store(db, chat_id, size)
    results: dict[str, dict[int, list[float]]] = {kind: {size: [] for size in sizes} for kind in ("trash", "restore")}
    for _ in range(rounds):
        for size, chat_id in chat_ids.items():
            for kind, path in ("trash", f"/chats/{chat_id}/trash"), ("restore", f"/trash/{chat_id}/restore"):
                began = time.perf_counter()
                client.send("POST", path)
                results[kind][size].append((time.perf_counter() - began) * 1000)
    client.close()
    return results


def purge_speed(db: Any, uri: str, address: Address, messages: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measure messages per second of our purge and of a raw delete_many, in turns."""
    start_seconds = purge(uri)  # with nothing to purge: only the start of the process

    def ours() -> dict[str, float]:
        chat_id = new_id()
        store(db, chat_id, messages)
        client = Client(address)
        http_delete(client, chat_id)
        client.close()
        return {"per_second": messages / (purge(uri) - start_seconds)}

    def raw() -> dict[str, float]:
        chat_id = new_id()
        store(db, chat_id, messages)
        began = time.perf_counter()
        db.messages.delete_many({"_id": message_range(TENANT, chat_id)})
        return {"per_second": messages / (time.perf_counter() - began)}

    return interleave({"ours": ours, "raw": raw}, rounds)


def foreground(
    db: Any, address: Address, tenant_id: str, key: str, goes_on: Callable[[int], object]
) -> dict[str, float]:
    """Send small requests at a steady rate while `goes_on(sent)`; return their latencies in ms.

    A late request is timed from when it was due, so that a stall counts for every request that it delays.
    """
    chat_ids = prepare_small(db, tenant_id)
    client = Client(address, key)
    times: list[float] = []
    due = time.perf_counter()
    while goes_on(len(times)):
        due += 1 / RATE
        time.sleep(max(due - time.perf_counter(), 0))
        chat_id = chat_ids[len(times) % len(chat_ids)]
        method, suffix, body = [("GET", "", None), ("POST", "/messages", {"content": "hello"})][len(times) % 2]
        client.send(method, f"/chats/{chat_id}{suffix}", body)
        times.append((time.perf_counter() - due) * 1000)
    client.close()
    times.sort()
    return {
        "p50_ms": statistics.median(times),
        "p99_ms": times[int(len(times) * 0.99)],
        "requests": len(times),
    }


def prepare_small(db: Any, tenant_id: str) -> list[str]:
    """Store some chats of the other tenant, and return their ids."""
    chat_ids = [new_id() for _ in range(20)]
    db.chats.insert_many([chat_document(chat_id, 0, tenant_id) for chat_id in chat_ids])
    return chat_ids


def disturbance(db: Any, uri: str, address: Address, messages: int, rounds: int) -> list[dict[str, Any]]:
    """Return the latencies of small requests before and during purges."""
    key = make_small_tenant(uri, db)
    tenant_id = str(db.tenants.find_one({"name": "small"})["_id"])
    client = Client(address)
    results = []
    for _ in range(rounds):
        quiet = foreground(db, address, tenant_id, key, lambda sent: sent < SAMPLES)
        chat_id = new_id()
        store(db, chat_id, messages)
        client.close()
        http_delete(client, chat_id)
        worker = start("flask", "--app", "wsgi", "jobs", "run", MONGODB_URI=uri)
        while not db.purges.count_documents({"purged": {"$gt": 0}}):
            time.sleep(0.1)  # the start of the worker is not measured
        began = time.perf_counter()
        busy = foreground(db, address, tenant_id, key, lambda sent: sent % 10 or db.purges.find_one())
        seconds = time.perf_counter() - began
        worker.terminate()
        worker.wait()
        results.append({"quiet": quiet, "busy": busy, "seconds": seconds, "ratio": busy["p99_ms"] / quiet["p99_ms"]})
    client.close()
    return results


def main() -> None:
    """Run all, print the figures, write the JSON."""
    parser = options(__doc__, rounds=8, messages=1_000_000)
    parser.add_argument("--only", choices=["latency", "moves", "speed", "disturbance"])
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    with service() as (uri, address), pymongo.MongoClient[dict[str, Any]](uri, w="majority") as client:
        db = client.get_default_database()
        if args.only in {None, "latency"}:
            figures["latency"] = report_latency(latencies(db, uri, address, args.rounds))
        if args.only in {None, "moves"}:
            latencies_by_kind = moves(db, address, (SIZES[0], args.messages), MOVES)
            for kind, by_size in latencies_by_kind.items():
                small, large = (statistics.median(by_size[size]) for size in (SIZES[0], args.messages))
                figures[kind] = {"small_ms": small, "large_ms": large, "ratio": large / small}
                print(f"{kind}: {figures[kind]}", flush=True)
        if args.only in {None, "speed"}:
            speeds = purge_speed(db, uri, address, args.messages, max(args.rounds // 3, 1))
            figures["speed"] = {side: medians(rounds) for side, rounds in speeds.items()}
            figures["speed"]["ratio"] = ratio(speeds, "ours", "raw")
            print(f"purge: {figures['speed']}", flush=True)
        if args.only in {None, "disturbance"}:
            figures["disturbance"] = disturbance(db, uri, address, args.messages, max(args.rounds // 3, 1))
            for round_ in figures["disturbance"]:
                print(f"small requests: {round_}", flush=True)
    keep("large", figures)


def report_latency(latencies_by_size: dict[int, list[float]]) -> dict[int, dict[str, float]]:
    """Print and return the median and the worst latency of each size."""
    table = {}
    base = statistics.median(latencies_by_size[SIZES[0]])
    print("messages  deletes  median ms  worst ms  of the smallest")
    for size, times in latencies_by_size.items():
        median = statistics.median(times)
        table[size] = {"deletes": len(times), "median_ms": median, "worst_ms": max(times), "ratio": median / base}
        print(f"{size:8d}  {len(times):7d}  {median:9.1f}  {max(times):8.1f}  {median / base:.2f}", flush=True)
    return table


if __name__ == "__main__":
    main()
