"""Retention and erasing of many chats while workers are killed: exact, and hardly noticed by another tenant."""

import os
import signal
import statistics
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import start
from chat_service.models import ErasureMode, NewMessage, RetentionAction, Role, Span
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.erasures import Erasures
from chat_service.repository.holds import Holds
from chat_service.repository.keys import chat_key, message_key
from chat_service.repository.messages import Messages
from chat_service.repository.retention import RetentionPolicies
from chat_service.repository.tenants import Tenants
from tests.numbering import number_all
from tests.soak.log import check_log, read_log

TENANT, OTHER = "tenant", "other"
MESSAGES = 20
PERSON, EVERY = "canary-person", 10
"""Every tenth message is of this sender."""

YOUNG = 300
MOST_HELD = 1_000
AGE = timedelta(days=100)
QUIET, BESIDE = (1.0, 15.0), (3.0, 60.0)
"""Seconds that another tenant calls before the workers start, and beside them; then only the workers use the database.
In the quick test, and in the long one."""
DEADLINE_SECONDS = 1_200.0

SOME, MANY = (600, 1), pytest.param(100_000, 10, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])
"""How many chats, and how many kills."""


def store(database: Database, count: int) -> list[str]:
    """Store chats of `MESSAGES` messages, which are `AGE` old, and return their ids."""
    template = Chats(database).create(TENANT, None, {})
    document = database.chats.find_one_and_delete({"_id": chat_key(TENANT, template.id)})
    assert document is not None
    old = database.now() - AGE
    ids = [str(uuid.uuid4()) for _ in range(count)]
    counts = {"next_seq": MESSAGES + 1, "message_count": MESSAGES, "updated_at": old, "created_at": old}
    for first in range(0, count, 1_000):
        batch = ids[first : first + 1_000]
        database.chats.insert_many([{**document, "_id": chat_key(TENANT, chat_id), **counts} for chat_id in batch])
        database.messages.insert_many(
            [
                {
                    "_id": message_key(TENANT, chat_id, seq),
                    "role": "user",
                    "sender_id": PERSON if seq % EVERY == 0 else "somebody",
                    "content": "x" * 100,
                    "metadata": {},
                }
                for chat_id in batch
                for seq in range(1, MESSAGES + 1)
            ],
            ordered=False,
        )
    return ids


def held_of(count: int) -> int:
    """Return how many of so many chats are held."""
    return min(count // 5, MOST_HELD)


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[-1]


class Probe:
    """Another tenant's reads and posts."""

    def __init__(self, database: Database) -> None:
        self._chats, self._messages = Chats(database), Messages(database)
        self._chat = self._chats.create(OTHER, None, {}).id

    def act(self) -> float:
        began = time.monotonic()
        self._messages.append(OTHER, self._chat, [NewMessage(Role.USER, "x", None, {})])
        self._messages.page(OTHER, self._chat, Span(newest_first=True), 20)
        self._chats.get(OTHER, self._chat)
        return time.monotonic() - began

    @contextmanager
    def measuring(self) -> Iterator[list[float]]:
        """Call again and again while the block runs, with pauses, like a tenant with some traffic; give durations."""
        durations, stopping = list[float](), threading.Event()

        def run() -> None:
            while not stopping.wait(0.01):
                durations.append(self.act())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield durations
        finally:
            stopping.set()
            thread.join()


class Worked(NamedTuple):
    """Measurements while workers worked and were killed."""

    seconds: float
    quiet: float
    beside: float
    """The 99th percentile of the probe in seconds, without the workers and with them."""
    memory_mib: float
    """The highest peak of a worker."""


def work(mongod: EmbeddedMongod, database: Database, progress: Callable[[], float], kills: int) -> Worked:
    """Run a worker until `progress` is 1; on the way, kill and replace it `kills` times."""
    is_long = kills > SOME[1]
    probe, peak_mib, killed = Probe(database), 0.0, 0
    with probe.measuring() as quiet:
        time.sleep(QUIET[is_long])
    began = time.monotonic()

    def start_worker() -> "subprocess.Popen[bytes]":
        return start("flask", "--app", "wsgi", "jobs", "run", MONGODB_URI=mongod.uri)

    worker = start_worker()
    with ExitStack() as probing:
        beside = probing.enter_context(probe.measuring())
        while (done := progress()) < 1:
            assert time.monotonic() < began + DEADLINE_SECONDS, done
            peak_mib = max(peak_mib, memory_mib(worker.pid))
            if killed < kills and done > (killed + 1) / (kills + 2):
                os.kill(worker.pid, signal.SIGKILL)
                worker.wait()
                killed += 1
                worker = start_worker()
            time.sleep(0.2)
            if time.monotonic() > began + BESIDE[is_long]:
                probing.close()
        seconds = time.monotonic() - began
    worker.terminate()
    worker.wait()
    assert killed == kills
    return Worked(seconds, p99(quiet), p99(beside), peak_mib)


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


@pytest.fixture
def tenant(database: Database) -> Database:
    Tenants(database).create("t", TENANT)
    return database


@pytest.mark.parametrize(("count", "kills"), [SOME, MANY])
def test_retention_takes_exactly_what_is_due(mongod: EmbeddedMongod, tenant: Database, count: int, kills: int) -> None:
    """Old chats are deleted, young and held ones are not; the counts agree with the database, and the log with both."""
    database, policies = tenant, RetentionPolicies(tenant, Deletions(tenant))
    ids = store(database, count)
    held, due = ids[: held_of(count)], ids[held_of(count) :]
    Holds(database).place(TENANT, "n", held, "key")
    young = [Chats(database).create(TENANT, None, {}).id for _ in range(YOUNG)]
    policies.put(TENANT, 30, RetentionAction.DELETE, 100_000, "key")
    database.tenants.update_one({"_id": TENANT}, {"$set": {"retention.active_from": database.now()}})
    preview = policies.preview(TENANT, 30)
    assert (preview.chats, preview.messages, preview.held) == (len(due), len(due) * MESSAGES, len(held))

    measured = work(mongod, database, lambda: database.deletions.estimated_document_count() / len(due), kills)
    print(f"retention of {len(due)} chats: {measured}")  # noqa: T201 - the figures of docs/reliability.md
    assert {document["_id"]["chat_id"] for document in database.chats.find({"_id.tenant_id": TENANT})} == {
        *held,
        *young,
    }
    assert database.messages.count_documents({"_id.tenant_id": TENANT}) == len(held) * MESSAGES
    receipts = list(database.deletions.find({"_id.tenant_id": TENANT}))
    assert {receipt["_id"]["chat_id"] for receipt in receipts} == {*due}
    assert {(receipt["message_count"], receipt["requested_by"]) for receipt in receipts} == {(MESSAGES, "retention")}
    counted = sum(day["taken"] for day in database.retention_days.find())
    assert len(due) <= counted <= len(due) + 64 * (kills + 1), "what a killed worker had set aside, at most"
    assert list(Checks(database).run()) == []
    number_all(database)
    log = read_log(database, TENANT)
    refused = [entry.chat_id for entry in log.entries if entry.kind == "deletion.refused"]
    assert {*refused} == {*held}
    assert len(refused) == len(held), "each once"
    states = dict.fromkeys(due, "purged") | dict.fromkeys([*held, *young], "live")
    assert list(check_log(log, {}, states)) == []


@pytest.mark.parametrize(
    ("count", "kills", "mode"),
    [
        (*SOME, ErasureMode.REDACT),
        pytest.param(*MANY.values, ErasureMode.REDACT, marks=MANY.marks),
        pytest.param(*MANY.values, ErasureMode.REMOVE, marks=MANY.marks),
    ],
)
def test_erasing_finds_everything(
    mongod: EmbeddedMongod, tenant: Database, count: int, kills: int, mode: ErasureMode
) -> None:
    """An erasure covers all chats but the held ones, each message once; and the held ones after their release."""
    database, erasures, holds = tenant, Erasures(tenant), Holds(tenant)
    ids = store(database, count)
    per_chat, total, held = MESSAGES // EVERY, count * MESSAGES // EVERY, held_of(count)
    hold = holds.place(TENANT, "n", ids[:held], "key")
    erasure_id = erasures.request(TENANT, PERSON, mode, "key").id

    def progress() -> float:
        erasure = erasures.get(TENANT, erasure_id)
        return 1.0 if erasure.is_deferred else min(erasure.messages / total, 0.999)

    measured = work(mongod, database, progress, kills)
    print(f"{mode} of {total} messages in {count} chats: {measured}")  # noqa: T201 - as above
    erasure = erasures.get(TENANT, erasure_id)
    assert (erasure.chats, erasure.messages, erasure.deferred) == (count - held, total - held * per_chat, held)
    assert database.messages.count_documents({"sender_id": PERSON}) == held * per_chat
    holds.release(TENANT, hold.id, "key")
    while holds.lift_some() is not None:
        pass
    day_before = {"$set": {"hold_released_at": database.now() - timedelta(hours=24)}}
    database.chats.update_many({"hold_released_at": {"$exists": True}}, day_before)
    database.erasures.update_many({}, {"$set": {"lease_until": database.now()}})
    work(mongod, database, lambda: erasures.get(TENANT, erasure_id).completed_at is not None, 0)
    erasure = erasures.get(TENANT, erasure_id)
    assert (erasure.chats, erasure.messages, erasure.deferred) == (count, total, 0)
    assert database.messages.count_documents({"sender_id": PERSON}) == 0
    redacted = total if mode is ErasureMode.REDACT else 0
    of_others = count * (MESSAGES - per_chat)
    assert database.messages.count_documents({"_id.tenant_id": TENANT}) == of_others + redacted
    assert list(Checks(database).run()) == []
    number_all(database)
    log = read_log(database, TENANT)
    assert list(check_log(log, {}, dict.fromkeys(ids, "live"))) == []
    assert PERSON not in str(list(database.log_entries.find())) + str(list(database.erasures.find()))
