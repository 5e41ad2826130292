"""Deletes of large chats: what the caller waits for, what the purge does afterwards, and who notices.

- DELETE over HTTP by one client, for chats of 10 to 1,000,000 messages, in turns.
- Trash and restore, of a small chat and a large one, in turns.
- The purge of a large chat by `flask jobs run`, in messages per second, against one raw `delete_many` of its range.
- Small requests of another tenant (a look, a post) at a steady rate: before a purge and during one.

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
"""Small requests per second: what a service has beside a purge, and far from what it can do."""
SAMPLES = 1_000
MOVES = 100
"""Times that a chat goes to the trash and comes back."""


def store(db: Any, chat_id: str, messages: int) -> None:
    """Store one chat."""
    db.chats.insert_one(chat_document(chat_id, messages))
    for first in range(1, messages + 1, 10_000):
        last = min(first + 10_000, messages + 1)
        db.messages.insert_many([message_document(chat_id, seq) for seq in range(first, last)], ordered=False)
    if messages > 10_000:  # noqa: PLR2004
        db.client.admin.command("fsync")  # else mongod would still be writing it down while something is timed


def new_id() -> str:
    """Return a fresh chat id."""
    return f"55555555-0000-4000-8000-{time.time_ns() % 16**12:012x}"


def purge(uri: str) -> float:
    """Purge all that is open with the worker as it is deployed, and return the seconds it took."""
    began = time.perf_counter()
    command = ("flask", "--app", "wsgi", "jobs", "run", "--until-idle")
    with Path(os.devnull).open("wb") as nowhere:
        start(*command, MONGODB_URI=uri, output=nowhere).wait()
    return time.perf_counter() - began


def latencies(db: Any, uri: str, address: Address, rounds: int) -> dict[int, list[float]]:
    """Return the milliseconds that DELETE took, by the size of the chat."""
    client = Client(address)
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    for number in range(rounds + 1):
        for size in SIZES:
            # The large ones take long to store, so they come in every other round.
            if size > 10_000 and number % 2:  # noqa: PLR2004
                continue
            chat_ids = [new_id() for _ in range(5 if size <= 1_000 else 1)]  # noqa: PLR2004
            for chat_id in chat_ids:
                store(db, chat_id, size)
            store(db, first := new_id(), SIZES[0])
            client.close()  # the one before has been idle for too long
            http_delete(client, first)  # the worker that it came to may have none to the database, or no key
            for chat_id in chat_ids:
                began = time.perf_counter()
                http_delete(client, chat_id)
                found[size].append((time.perf_counter() - began) * 1000)
            if number == 0:
                found[size].clear()  # it only warms up
        purge(uri)
    client.close()
    return found


def moves(db: Any, address: Address, sizes: tuple[int, int], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Return the milliseconds that trashing and restoring a chat took, by its size, in turns."""
    client = Client(address)
    chat_ids = {size: new_id() for size in sizes}
    for size, chat_id in chat_ids.items():
        store(db, chat_id, size)
    found: dict[str, dict[int, list[float]]] = {kind: {size: [] for size in sizes} for kind in ("trash", "restore")}
    for _ in range(rounds):
        for size, chat_id in chat_ids.items():
            for kind, path in ("trash", f"/chats/{chat_id}/trash"), ("restore", f"/trash/{chat_id}/restore"):
                began = time.perf_counter()
                client.send("POST", path)
                found[kind][size].append((time.perf_counter() - began) * 1000)
    client.close()
    return found


def purge_speed(db: Any, uri: str, address: Address, messages: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return messages per second of our purge and of a raw delete_many, in turns."""
    started = purge(uri)  # of nothing: what the start of the process takes

    def ours() -> dict[str, float]:
        chat_id = new_id()
        store(db, chat_id, messages)
        client = Client(address)
        http_delete(client, chat_id)
        client.close()
        return {"per_second": messages / (purge(uri) - started)}

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

    A request that is late is timed from when it was due, so that a stall is not counted once for many.
    """
    chat_ids = prepare_small(db, tenant_id)
    client = Client(address, key)
    took: list[float] = []
    due = time.perf_counter()
    while goes_on(len(took)):
        due += 1 / RATE
        time.sleep(max(due - time.perf_counter(), 0))
        chat_id = chat_ids[len(took) % len(chat_ids)]
        method, suffix, sent = [("GET", "", None), ("POST", "/messages", {"content": "hello"})][len(took) % 2]
        client.send(method, f"/chats/{chat_id}{suffix}", sent)
        took.append((time.perf_counter() - due) * 1000)
    client.close()
    took.sort()
    return {"p50_ms": statistics.median(took), "p99_ms": took[int(len(took) * 0.99)], "requests": len(took)}


def prepare_small(db: Any, tenant_id: str) -> list[str]:
    """Store some chats of the other tenant."""
    chat_ids = [new_id() for _ in range(20)]
    db.chats.insert_many([chat_document(chat_id, 0, tenant_id) for chat_id in chat_ids])
    return chat_ids


def disturbance(db: Any, uri: str, address: Address, messages: int, rounds: int) -> list[dict[str, Any]]:
    """Return the latencies of small requests before and during purges."""
    key = make_small_tenant(uri, db)
    tenant_id = str(db.tenants.find_one({"name": "small"})["_id"])
    client = Client(address)
    found = []
    for _ in range(rounds):
        quiet = foreground(db, address, tenant_id, key, lambda sent: sent < SAMPLES)
        chat_id = new_id()
        store(db, chat_id, messages)
        client.close()
        http_delete(client, chat_id)
        worker = start("flask", "--app", "wsgi", "jobs", "run", MONGODB_URI=uri)
        while not db.purges.count_documents({"purged": {"$gt": 0}}):
            time.sleep(0.1)  # its start is not what is measured
        began = time.perf_counter()
        busy = foreground(db, address, tenant_id, key, lambda sent: sent % 10 or db.purges.find_one())
        seconds = time.perf_counter() - began
        worker.terminate()
        worker.wait()
        found.append({"quiet": quiet, "busy": busy, "seconds": seconds, "ratio": busy["p99_ms"] / quiet["p99_ms"]})
    client.close()
    return found


def main() -> None:
    """Run all, print the figures, write the JSON."""
    parser = options(__doc__, rounds=8, messages=1_000_000)
    parser.add_argument("--only", choices=["latency", "moves", "speed", "disturbance"])
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with service() as (uri, address), pymongo.MongoClient[dict[str, Any]](uri, w="majority") as client:
        db = client.get_default_database()
        if args.only in {None, "latency"}:
            found["latency"] = report_latency(latencies(db, uri, address, args.rounds))
        if args.only in {None, "moves"}:
            taken = moves(db, address, (SIZES[0], args.messages), MOVES)
            for kind, by_size in taken.items():
                small, large = (statistics.median(by_size[size]) for size in (SIZES[0], args.messages))
                found[kind] = {"small_ms": small, "large_ms": large, "ratio": large / small}
                print(f"{kind}: {found[kind]}", flush=True)
        if args.only in {None, "speed"}:
            speeds = purge_speed(db, uri, address, args.messages, max(args.rounds // 3, 1))
            found["speed"] = {side: medians(rounds) for side, rounds in speeds.items()}
            found["speed"]["ratio"] = ratio(speeds, "ours", "raw")
            print(f"purge: {found['speed']}", flush=True)
        if args.only in {None, "disturbance"}:
            found["disturbance"] = disturbance(db, uri, address, args.messages, max(args.rounds // 3, 1))
            for round_ in found["disturbance"]:
                print(f"small requests: {round_}", flush=True)
    keep("large", found)


def report_latency(found: dict[int, list[float]]) -> dict[int, dict[str, float]]:
    """Print and return median and worst of each size."""
    table = {}
    base = statistics.median(found[SIZES[0]])
    print("messages  deletes  median ms  worst ms  of the smallest")
    for size, took in found.items():
        median = statistics.median(took)
        table[size] = {"deletes": len(took), "median_ms": median, "worst_ms": max(took), "ratio": median / base}
        print(f"{size:8d}  {len(took):7d}  {median:9.1f}  {max(took):8.1f}  {median / base:.2f}", flush=True)
    return table


if __name__ == "__main__":
    main()
