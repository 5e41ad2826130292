"""Do reads stay fast in large chats and large tenants, and how fast is an export?

- A page of 50 at the start, the middle and the end of a chat of a million messages: within 1.5 times of each other.
- A page of chats of a tenant with 100,000 chats against one with 100: within 1.5 times.
- The export of the million messages as ndjson over HTTP, in rows per second, against a raw pymongo cursor encoded by
  orjson in this process; and how far the worker's memory rises above idle during the exports.

    python -m benchmarks.reads
"""

import http.client
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pymongo

from benchmarks.client import Client
from benchmarks.delete import chat_document, message_document
from benchmarks.measure import interleave, keep, medians, options, ratio, timed
from benchmarks.service import HEADERS, KEY, TENANT, Address, service
from chat_service.models import Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.keys import message_range
from chat_service.repository.tenants import Tenants

CHAT = "11111111-0000-4000-8000-000000000001"
REQUESTS = 300
MANY_CHATS = 100_000


def fill(db: Any, messages: int) -> None:
    """Store one chat of `messages` messages, and `MANY_CHATS` empty ones."""
    print(f"Storing {messages:,} messages and {MANY_CHATS:,} chats …", flush=True)
    db.chats.insert_one(chat_document(CHAT, messages))
    for first in range(1, messages + 1, 10_000):
        last = min(first + 10_000, messages + 1)
        db.messages.insert_many([message_document(CHAT, seq) for seq in range(first, last)], ordered=False)
    ids = [f"22222222-0000-4000-8000-{number:012x}" for number in range(MANY_CHATS)]
    db.chats.insert_many([chat_document(chat_id, 0) for chat_id in ids], ordered=False)


def pages(address: Address, paths: dict[str, tuple[str, str]], rounds: int) -> Any:
    """Measure the requests in `paths` (name -> key and path), in turns."""
    callers = {name: Client(address, key) for name, (key, _) in paths.items()}
    sides = {
        name: partial(timed, [partial(callers[name].send, "GET")], [path] * REQUESTS)
        for name, (_, path) in paths.items()
    }
    results = interleave(sides, rounds)
    for caller in callers.values():
        caller.close()
    return results


def raw_export(db: Any) -> dict[str, float]:
    """Read all messages with a raw cursor, encode each with orjson, and return rows per second."""
    began = time.perf_counter()
    rows = 0
    for document in db.messages.find({"_id": message_range(TENANT, CHAT)}, sort=[("_id", 1)], batch_size=1_000):
        orjson.dumps(document)
        rows += 1
    return {"per_second": rows / (time.perf_counter() - began)}


def http_export(address: Address) -> dict[str, float]:
    """Download the export and return rows per second."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(*address)
    connection.request("GET", f"/api/v1/chats/{CHAT}/export?format=ndjson", headers=HEADERS)
    response = connection.getresponse()
    rows = 0
    while chunk := response.read(2**18):
        rows += chunk.count(b"\n")
    connection.close()
    return {"per_second": rows / (time.perf_counter() - began)}


def resident_megabytes(field: str) -> dict[int, float]:
    """Return a memory figure (VmRSS or VmHWM) of every gunicorn process on this machine, by pid."""
    pids = subprocess.run(["/usr/bin/pgrep", "-f", "gunicorn.conf.py"], capture_output=True, text=True, check=True)
    megabytes = {}
    for pid in map(int, pids.stdout.split()):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith(field))
        megabytes[pid] = int(line.split()[1]) / 1024
    return megabytes


def main() -> None:
    """Run all, print the figures, write the JSON."""
    args = options(__doc__, rounds=7, messages=1_000_000).parse_args()
    figures: dict[str, Any] = {}
    with service() as (uri, address), pymongo.MongoClient[dict[str, Any]](uri) as client:
        db = client.get_default_database()
        small = make_small_tenant(uri, db)
        fill(db, args.messages)
        path = f"/chats/{CHAT}/messages?limit=50&after="
        places = {"start": 0, "middle": args.messages // 2, "end": args.messages - 50}
        history = pages(address, {name: (KEY, f"{path}{seq}") for name, seq in places.items()}, args.rounds)
        listing = pages(
            address,
            {"100 chats": (small, "/chats"), f"{MANY_CHATS:,} chats": (KEY, "/chats")},
            args.rounds,
        )
        idle = resident_megabytes("VmRSS")
        sides = {"raw": partial(raw_export, db), "http": partial(http_export, address)}
        exports = interleave(sides, max(args.rounds // 2, 1))
        rise = max(peak - idle[pid] for pid, peak in resident_megabytes("VmHWM").items() if pid in idle)
    for name, results in (("history", history), ("listing", listing), ("export", exports)):
        figures[name] = {side: medians(rounds) for side, rounds in results.items()}
    figures["export"]["ratio"] = ratio(exports, "http", "raw")
    figures["export"]["memory_rise_mb"] = rise
    report(figures)
    keep("reads", figures)


def make_small_tenant(uri: str, db: Any) -> str:
    """Make a tenant with 100 chats and return its key."""
    database = Database(uri)
    tenant = Tenants(database).create("small")
    key, _ = ApiKeys(database).create(tenant.id, "bench", Scope)
    database.close()
    ids = [f"33333333-0000-4000-8000-{number:012x}" for number in range(100)]
    db.chats.insert_many([chat_document(chat_id, 0, tenant.id) for chat_id in ids])
    return key


def report(figures: dict[str, Any]) -> None:
    """Print the figures."""
    for name in ("history", "listing"):
        times = {side: result["p50_ms"] for side, result in figures[name].items()}
        shown = ", ".join(f"{side} {p50:.2f} ms" for side, p50 in times.items())
        print(f"{name}: {shown}; slowest over fastest {max(times.values()) / min(times.values()):.2f}")
    export = figures["export"]
    print(
        f"export: raw {export['raw']['per_second']:,.0f} rows/s, http {export['http']['per_second']:,.0f} rows/s, "
        f"ratio {export['ratio']:.2f}; worker's memory {export['memory_rise_mb']:.0f} MB above idle at most"
    )


if __name__ == "__main__":
    main()
