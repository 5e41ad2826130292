"""Where does the CPU of a request go, layer by layer?

Eight clients send DELETEs of 10 messages, then posts on 64 chats, while py-spy samples the threads of one worker. A
sample is of the thread that holds the GIL, and belongs to the layer of its innermost frame that is in one, so the
standard library counts as its caller. The CPU of a request is measured without sampling, then divided by the samples.

    make bench && .venv/bin/python -m benchmarks.profiling     the table, and build/profile-*.txt for flamegraph.pl
"""

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pymongo

from benchmarks.client import Client
from benchmarks.delete import chat_document, http_delete, prepare
from benchmarks.measure import Work, keep, options, timed
from benchmarks.peers.running import PYTHON
from benchmarks.posting import CHATS, http_post
from benchmarks.processes import workers_of_service
from benchmarks.service import service

BUILD = Path(__file__).parent.parent / "build"

CLIENTS = 8

LAYERS = {
    "driver": ("/pymongo/", "/bson/"),
    "repository": ("/chat_service/repository/",),
    "api": ("/chat_service/",),
    "framework": ("/flask", "/werkzeug/", "/marshmallow/", "/webargs/", "/apispec/"),
    "telemetry": ("/chat_service/telemetry/", "/prometheus_client/", "/structlog/", "/logging/"),
    "server": ("/chat_service/server/", "/uvicorn", "/asyncio/", "/gunicorn/"),
}
"""A path belongs to the layer with the longest part that it contains."""


def layer(stack: str) -> str:
    """Return the layer of a sampled stack: frames from the outermost to the innermost, each with its file's path."""
    for frame in reversed(stack.split(";")):
        matches = [(len(part), name) for name, parts in LAYERS.items() for part in parts if part in frame]
        if matches:
            return max(matches)[1]
    return "others"


@contextmanager
def sampled(pid: int, file: Path) -> Iterator[Counter[str]]:
    """Sample a process while the block runs; after it the counter has the number of samples of each layer."""
    layers: Counter[str] = Counter()
    command = (str(PYTHON.parent / "py-spy"), "record", "--gil", "--rate", "500", "--format", "raw", "--full-filenames")
    spy = subprocess.Popen([*command, "--pid", str(pid), "--output", str(file)], stdout=subprocess.DEVNULL)
    yield layers
    spy.send_signal(signal.SIGINT)
    spy.wait()
    for line in file.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        layers[layer(stack)] += int(samples)


def profile(name: str, workers: list[Work], prepare: Callable[[], list[str]], rounds: int) -> dict[str, float]:
    """Return the CPU in ms that one request costs each layer of the service."""
    file = BUILD / f"profile-{name}.txt"
    cost = median(timed(workers, prepare())["cpu_ms"] for _ in range(rounds))
    batches = [prepare() for _ in range(rounds)]
    with sampled(workers_of_service()[0], file) as layers:
        for batch in batches:
            timed(workers, batch)
    return {name: cost * samples / layers.total() for name, samples in layers.most_common()}


def main() -> None:
    """Profile deletes and posts, print the table, write the JSON."""
    args = options(__doc__, rounds=7, chats=400).parse_args()
    BUILD.mkdir(exist_ok=True)
    with service() as (uri, address), pymongo.MongoClient[dict[str, Any]](uri, w="majority") as client:
        db = client.get_default_database()
        db.chats.insert_many([chat_document(chat_id, 0) for chat_id in CHATS])
        deletes: list[Work] = [partial(http_delete, Client(address)) for _ in range(CLIENTS)]
        posts: list[Work] = [partial(http_post, Client(address)) for _ in range(CLIENTS)]
        costs = {
            "DELETE": profile("DELETE", deletes, lambda: prepare(db, args.chats, 10), args.rounds),
            "post": profile("post", posts, lambda: CHATS * (args.chats // len(CHATS)), args.rounds),
        }
    print("| CPU ms of | DELETE | post |\n| --- | --- | --- |")
    for name in [*LAYERS, "others"]:
        print(f"| {name} | " + " | ".join(f"{cost.get(name, 0):.2f}" for cost in costs.values()) + " |")
    print("| all | " + " | ".join(f"{sum(cost.values()):.2f}" for cost in costs.values()) + " |")
    keep("profile", costs)


if __name__ == "__main__":
    main()
