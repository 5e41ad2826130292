"""Bulk deletes: are they faster than single ones, and do they slow down another tenant?

- 1,000 chats of 10 messages by one `POST /chats/delete`, and by 1,000 DELETEs of 8 clients, in turns.
- Reads of another tenant during bulk deletes, one after the other, against the same reads on the idle service before.

    python -m benchmarks.bulk
"""

import threading
import time
from functools import partial
from typing import Any

import orjson
import pymongo

from benchmarks.client import Client
from benchmarks.delete import http_delete, prepare
from benchmarks.large import prepare_small
from benchmarks.measure import interleave, keep, medians, options, ratio, timed
from benchmarks.reads import make_small_tenant
from benchmarks.service import Address, service

CHATS = 1_000
MESSAGES = 10
CLIENTS = 8
QUIET_READS = 1_000


def single(db: Any, address: Address) -> dict[str, float]:
    """Delete the chats one by one; return what was measured."""
    callers = [Client(address) for _ in range(CLIENTS)]
    result = timed([partial(http_delete, caller) for caller in callers], prepare(db, CHATS, MESSAGES))
    for caller in callers:
        caller.close()
    return result


def bulk(db: Any, address: Address) -> dict[str, float]:
    """Delete the chats with one request; return what was measured."""
    chat_ids = prepare(db, CHATS, MESSAGES)
    began = time.perf_counter()
    delete_all(address, chat_ids)
    return {"per_second": CHATS / (time.perf_counter() - began)}


def delete_all(address: Address, chat_ids: list[str]) -> None:
    """Delete the chats with one request, and assert that all were deleted."""
    client = Client(address)
    report = orjson.loads(client.send("POST", "/chats/delete", {"chat_ids": chat_ids}))
    client.close()
    assert len(report["successful"]) == len(chat_ids), report["failed"][:3]


def reads(db: Any, address: Address, key: str) -> dict[str, dict[str, float]]:
    """Return the latencies in ms of another tenant's reads: on an idle service, and during bulk deletes."""
    chat_ids = prepare_small(db, str(db.tenants.find_one({"name": "small"})["_id"]))
    client = Client(address, key)

    def read(chat_id: str) -> None:
        client.send("GET", f"/chats/{chat_id}")

    quiet = timed([read], chat_ids * (QUIET_READS // len(chat_ids)))
    batches = [prepare(db, CHATS, MESSAGES) for _ in range(4)]

    def delete_batches() -> None:
        for batch in batches:
            delete_all(address, batch)

    worker = threading.Thread(target=delete_batches)
    latencies: list[float] = []
    worker.start()
    while worker.is_alive():
        began = time.perf_counter()
        read(chat_ids[len(latencies) % len(chat_ids)])
        latencies.append((time.perf_counter() - began) * 1000)
    worker.join()
    client.close()
    latencies.sort()
    busy = {
        "p50_ms": latencies[len(latencies) // 2],
        "p99_ms": latencies[int(len(latencies) * 0.99)],
        "reads": len(latencies),
    }
    return {"quiet": quiet, "busy": busy}


def main() -> None:
    """Run all, print the figures, write the JSON."""
    args = options(__doc__, rounds=5).parse_args()
    with service() as (uri, address), pymongo.MongoClient[dict[str, Any]](uri, w="majority") as client:
        db = client.get_default_database()
        results = interleave({"single": partial(single, db, address), "bulk": partial(bulk, db, address)}, args.rounds)
        figures: dict[str, Any] = {side: medians(rounds) for side, rounds in results.items()}
        figures["ratio"] = ratio(results, "bulk", "single")
        print(f"single {figures['single']}, bulk {figures['bulk']}, ratio {figures['ratio']:.2f}", flush=True)
        key = make_small_tenant(uri, db)
        figures["reads"] = [reads(db, address, key) for _ in range(args.rounds)]
        for round_ in figures["reads"]:
            print(f"reads: p99 quiet {round_['quiet']['p99_ms']:.1f}, busy {round_['busy']}", flush=True)
    keep("bulk", figures)


if __name__ == "__main__":
    main()
