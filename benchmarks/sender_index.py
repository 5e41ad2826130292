"""What an index for finding a sender's messages would cost every post, and therefore why there is none.

    python -m benchmarks.sender_index

In turns on one mongod, with and without the index: a post as the service does it (chat, message, commit), the CPU time
that the server takes for it, and what is on the disk. And how long erasing takes instead, which scans every message.
"""

import os
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

import pymongo

from benchmarks.measure import keep
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.models import ErasureMode
from chat_service.repository.database import Database
from chat_service.repository.erasures import Erasures

STORED, SENDERS = 1_000_000, 10_000
ROUNDS, POSTS = 7, 1_500
CHATS = 2_000
NAMES = ("plain", "indexed")

INDEX = [("_id.tenant_id", pymongo.ASCENDING), ("sender_id", pymongo.ASCENDING)]


def fill(database: Database, name: str) -> None:
    """Store messages of many senders."""
    messages = database.database.create_collection(name, clusteredIndex={"key": {"_id": 1}, "unique": True})
    if name == "indexed":
        messages.create_index(INDEX)
    for first in range(0, STORED, 10_000):
        messages.insert_many([_message(number) for number in range(first, first + 10_000)], ordered=False)


def _message(number: int) -> dict[str, Any]:
    return {
        "_id": {"tenant_id": "tenant", "chat_id": f"{number % CHATS:036}", "seq": number // CHATS + 1},
        "role": "user",
        "sender_id": f"sender-{number * 7919 % SENDERS}",
        "content": "x" * 200,
        "metadata": {},
    }


def post(database: Database, name: str) -> tuple[float, float]:
    """Post messages one after the other; return the seconds that one takes, and the server's CPU seconds for it."""
    server = database.client.admin.command("serverStatus")["pid"]
    began, cpu = time.perf_counter(), _cpu_seconds(server)
    for number in range(POSTS):
        chat = {"_id": {"tenant_id": "tenant", "chat_id": f"{number % CHATS:036}"}}
        message = {**_message(number), "_id": {**chat["_id"], "seq": uuid.uuid4().int >> 66}}
        with database.client.start_session() as session, session.start_transaction():
            database.chats.update_one(chat, {"$inc": {"next_seq": 1}}, upsert=True, session=session)
            database.database[name].insert_one(message, session=session)
    return (time.perf_counter() - began) / POSTS, (_cpu_seconds(server) - cpu) / POSTS


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def scan_all(database: Database) -> float:
    """Return the seconds that the eraser takes to scan a million messages for a sender who has none."""
    database.database["plain"].rename("messages", dropTarget=True)
    erasures = Erasures(database)
    erasures.request("tenant", "nobody", ErasureMode.REMOVE, "benchmark")
    began = time.perf_counter()
    while claim := erasures.claim("worker"):
        erasures.work_on(claim)
    return time.perf_counter() - began


def main() -> None:
    """Run, print the figures, write the JSON."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedMongod(Path(folder)) as mongod:
        database = Database(mongod.uri)
        database.prepare()
        for name in NAMES:
            fill(database, name)
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
        for _ in range(ROUNDS):
            for name in NAMES:
                costs[name].append(post(database, name))
        medians = {name: [median(column) for column in zip(*rounds, strict=True)] for name, rounds in costs.items()}
        sizes = {name: database.database.command("collStats", name) for name in NAMES}
        result = {
            "post, ms": {name: figures[0] * 1e3 for name, figures in medians.items()},
            "server's processor for it, ms": {name: figures[1] * 1e3 for name, figures in medians.items()},
            "index, MB": sizes["indexed"]["totalIndexSize"] / 1e6,
            "messages, MB": sizes["plain"]["storageSize"] / 1e6,
            "a look at all messages, s": scan_all(database),
        }
        for title, value in result.items():
            print(title, value, flush=True)
        keep("sender_index", result)
        database.close()


if __name__ == "__main__":
    main()
