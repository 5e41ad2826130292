"""The log under load reaches its listeners soon, and is complete after the oplog has rolled over."""

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pymongo
import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.jobs.sequencing import Sequencing
from chat_service.models import NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.lifecycle import Removal
from chat_service.repository.messages import Messages
from chat_service.repository.sequencer import Sequencer
from tests.numbering import number_all
from tests.soak.campaign import service
from tests.soak.conftest import number
from tests.soak.log import check_log, read_log

DELETES_A_SECOND = 500
GROUP = 8
JUNK = b"x" * 10 * 2**20
"""Content of documents that are only written to roll the oplog over; its smallest possible size is 990 MB."""


def groups(database: Database, tenant_id: str, count: int) -> Iterator[list[str]]:
    """Create chats of one message, and give their ids in groups."""
    chats, messages = Chats(database), Messages(database)

    def make(_: int) -> str:
        chat_id = chats.create(tenant_id, None, {}).id
        messages.append(tenant_id, chat_id, [NewMessage(Role.USER, "x", None, {})])
        return chat_id

    with ThreadPoolExecutor(8) as pool:
        chat_ids = list(pool.map(make, range(count)))
    for start in range(0, count, GROUP):
        yield chat_ids[start : start + GROUP]


class Listener:
    """Notes when the event of each delete arrives, on the clock of the threads that delete."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.arrivals: dict[str, float] = {}
        stream_headers = {**headers, "Accept": "text/event-stream"}
        self._answer = requests.get(f"{url}/log", headers=stream_headers, stream=True, timeout=60)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with closing(self._answer):
            for line in self._answer.iter_lines(chunk_size=None):
                if line.startswith(b"data: ") and b'"chat.deleted"' in line:
                    self.arrivals[line.split(b'"chat_id":"')[1][:36].decode()] = time.monotonic()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_listeners_hear_of_500_deletes_a_second_within_a_second(mongod, database, tmp_path: Path, tell) -> None:
    """p99 from the return of the commit to the event at a listener of the real service's event stream."""
    seconds = number("SOAK_LOG_SECONDS", 30)
    with service(database, mongod.uri, tmp_path) as (gunicorn, access):
        all_groups = list(groups(database, access.tenant_id, DELETES_A_SECOND * seconds))
        listener = Listener(gunicorn.url, access.headers)
        deletions, committed = Deletions(database), dict[str, float]()

        def delete(group: list[str]) -> None:
            deletions.remove_together(access.tenant_id, [Removal(chat_id, "key") for chat_id in group])
            committed.update(dict.fromkeys(group, time.monotonic()))

        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            for index, group in enumerate(all_groups):
                time.sleep(max(0.0, began + index * GROUP / DELETES_A_SECOND - time.monotonic()))
                pool.submit(delete, group)
        took = time.monotonic() - began
        deadline = time.monotonic() + 30
        while len(listener.arrivals) < len(committed) and time.monotonic() < deadline:
            time.sleep(0.05)
        delays = [listener.arrivals[chat_id] - committed_at for chat_id, committed_at in committed.items()]
        percentiles = statistics.quantiles(delays, n=100)
        tell(
            f"{len(delays):,} deletes, {len(delays) / took:.0f} a second; from commit to listener: "
            f"p50 {percentiles[49]:.3f} s, p99 {percentiles[98]:.3f} s, max {max(delays):.3f} s"
        )
        assert percentiles[98] < 1.0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nothing_is_lost_when_the_oplog_rolls_over(tmp_path: Path, tell) -> None:
    """The sequencer stops for longer than the oplog reaches back; the log has what was committed meanwhile anyway."""
    with EmbeddedMongod(tmp_path) as mongod, closing(Database(mongod.uri)) as database:
        database.prepare()
        number_all(database)
        deletions, states = Deletions(database), dict[str, str]()
        for group in groups(database, "t", 400):
            deletions.remove_together("t", [Removal(chat_id, "key") for chat_id in group])
            states |= dict.fromkeys(group, "purged")
        written = _roll_over(mongod.uri)
        tell(f"the oplog has rolled over after {written} MB")
        worker = Sequencing(Sequencer(database))
        while not worker._sequencer.status().is_rescanning:
            worker.run_once()
        worker.end()
        number_all(database)
        assert list(check_log(read_log(database, "t"), {}, states)) == []


def _roll_over(uri: str) -> int:
    """Write until the oplog has dropped all entries from before; return how many megabytes that took."""
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        client.admin.command({"replSetResizeOplog": 1, "size": 990.0})
        oplog = client.local["oplog.rs"]
        last = oplog.find_one(sort=[("$natural", -1)])
        assert last is not None
        junk = client["junk"]["junk"]
        for written in range(1, 1_000):
            junk.insert_one({"_id": written, "x": JUNK})  # the oplog would record an update as a small difference
            junk.delete_one({"_id": written - 1})
            if written % 40 == 0:
                client.admin.command("fsync")  # the oplog keeps all entries since the last checkpoint
            first = oplog.find_one(sort=[("$natural", 1)])
            if first is not None and first["ts"] > last["ts"]:
                return written * 10
    raise AssertionError
