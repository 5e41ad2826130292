"""SIGKILL of purge workers at random moments: the purge still completes, and its count is exact."""

import os
import random
import signal
import subprocess
import time

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.models import NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.keys import message_key, message_range
from chat_service.repository.messages import Messages
from chat_service.repository.purges import Purges
from chat_service.repository.receipts import Receipts
from tests.forked import start

TENANT = "tenant"
DEADLINE_SECONDS = 170


def store(database: Database, count: int) -> str:
    """Store a chat of `count` messages; the service appends the last, so that the final counts are its own."""
    chat_id = Chats(database).create(TENANT, None, {}).id
    for first in range(1, count, 10_000):
        documents = [
            {"_id": message_key(TENANT, chat_id, seq), "content": "x" * 100}
            for seq in range(first, min(first + 10_000, count))
        ]
        database.messages.insert_many(documents, ordered=False)
    counts = {"next_seq": count, "message_count": count - 1}
    database.chats.update_one({"_id.chat_id": chat_id}, {"$set": counts})
    Messages(database).append(TENANT, chat_id, [NewMessage(Role.USER, "the last", None, {})])
    return chat_id


def start_worker(mongod: EmbeddedMongod) -> "subprocess.Popen[bytes]":
    return start("flask", "--app", "wsgi", "jobs", "run", MONGODB_URI=mongod.uri)


@pytest.mark.parametrize(("count", "kills"), [(60_000, 4), pytest.param(1_000_000, 10, marks=pytest.mark.soak)])
def test_a_purge_survives_its_workers(mongod: EmbeddedMongod, database: Database, count: int, kills: int) -> None:
    """Workers are killed, each while it has claimed the purge; the receipt is exact in the end."""
    chat_id = store(database, count)
    Deletions(database).delete(TENANT, chat_id, "key")
    purges = Purges(database)
    randomness = random.Random(count)
    killed = 0
    deadline = time.monotonic() + DEADLINE_SECONDS
    worker = start_worker(mongod)
    while killed < kills:
        assert time.monotonic() < deadline
        claimed = database.purges.find_one({"worker_id": {"$ne": None}})
        if claimed is None:
            time.sleep(0.01)
            continue
        time.sleep(randomness.uniform(0, 0.03))
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        killed += 1
        # In a snapshot, because the killed worker's last commit may just be arriving.
        with database.snapshot() as snapshot:
            left = snapshot.messages.count_documents({"_id": message_range(TENANT, chat_id)})
            (purge,) = snapshot.purges.find({})
        assert purge["purged"] + left == count, "each batch is counted with its removal or not at all"
        # The next worker starts first, because it releases what the killed one held. Otherwise that lease would expire
        # after 30 s: this is tested elsewhere, and would take ten times 30 s here.
        worker = start_worker(mongod)
        database.purges.update_many({}, {"$set": {"worker_id": None, "lease_until": database.now()}})
    while purges.progress()[0]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    worker.terminate()
    worker.wait()
    receipt = Receipts(database).get(TENANT, chat_id)
    assert (receipt.purged, receipt.completed_at is not None) == (count, True)
    assert database.messages.count_documents({}) == 0
    assert list(Checks(database).run()) == []
