"""kill -9 of purge workers at random moments: a purge is complete all the same, and counts exactly."""

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
    """Store a chat of `count` messages; the last comes by the service, so that the counts are its own."""
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


def work(mongod: EmbeddedMongod) -> "subprocess.Popen[bytes]":
    return start("flask", "--app", "wsgi", "jobs", "run", MONGODB_URI=mongod.uri)


@pytest.mark.parametrize(("count", "kills"), [(60_000, 4), pytest.param(1_000_000, 10, marks=pytest.mark.soak)])
def test_a_purge_survives_its_workers(mongod: EmbeddedMongod, database: Database, count: int, kills: int) -> None:
    """Workers are killed, each while it holds the purge; what is left of it in the end is an exact receipt."""
    chat_id = store(database, count)
    Deletions(database).delete(TENANT, chat_id, "key")
    purges = Purges(database)
    randomness = random.Random(count)
    killed = 0
    deadline = time.monotonic() + DEADLINE_SECONDS
    worker = work(mongod)
    while killed < kills:
        assert time.monotonic() < deadline
        held = database.purges.find_one({"worker_id": {"$ne": None}})
        if held is None:
            time.sleep(0.01)
            continue
        time.sleep(randomness.uniform(0, 0.03))
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        killed += 1
        # At one moment, because the commit of the dead may just be arriving.
        with database.snapshot() as moment:
            left = moment.messages.count_documents({"_id": message_range(TENANT, chat_id)})
            (purge,) = moment.purges.find({})
        assert purge["purged"] + left == count, "each batch is counted with its removal or not at all"
        # First the next worker, which frees what the dead holds. The lease of that would run out in 30 s; what happens
        # then is tested elsewhere, and here it would be ten times 30.
        worker = work(mongod)
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
