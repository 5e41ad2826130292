"""kill -9 of a web worker in the middle of a transaction: the chat that it locked can be deleted within 3 s."""

import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.models import NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.idempotency import CLAIM
from chat_service.repository.messages import Messages
from chat_service.repository.orphans import ABANDONED_SECONDS, Orphans, orphaned, process_of
from tests.client import CHATS, TenantAccess
from tests.failpoint import FailPoint
from tests.forked import ForkedGunicorn, start
from tests.purging import purge_all
from tests.realtime.sockets import Peer
from tests.wait import PATIENCE, wait_until

FREE_SECONDS = 3.0 * PATIENCE
BLOCK_SECONDS = 2 * FREE_SECONDS
"""Longer than `FREE_SECONDS`: mongod still runs a command of the killed worker when the chat has to be free."""


@pytest.fixture(scope="module")
def service(mongod: EmbeddedMongod) -> Iterator[ForkedGunicorn]:
    with ForkedGunicorn(mongod.uri, free_port()) as running:
        yield running


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


def worker_in_transaction(database: Database, killed_pids: Collection[int] = ()) -> int:
    """Return the pid of a worker that has a transaction open; mongod may still show the killed ones for a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for operation in Orphans(database)._look():
            pid = int((process_of(operation) or ".0").split(".")[1])
            if "transaction" in operation and pid not in killed_pids:
                return pid
        time.sleep(0.01)
    raise AssertionError("no transaction was seen")


def only_worker(service: ForkedGunicorn, other_than: int) -> int:
    """Wait until the only worker is another one than `other_than`; return its pid."""
    path = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    wait_until(lambda: path.read_text().split() not in ([], [str(other_than)]), 5, every=0.001)
    return int(path.read_text().split()[0])


def new_chat(database: Database, access: TenantAccess) -> str:
    chat_id = Chats(database).create(access.tenant_id, None, {}).id
    Messages(database).append(access.tenant_id, chat_id, [NewMessage(Role.USER, "x", None, {})] * 5)
    return chat_id


def delete(service: ForkedGunicorn, access: TenantAccess, chat_id: str) -> int:
    url = f"http://127.0.0.1:{service.port}{CHATS}/{chat_id}"
    return requests.delete(url, headers=access.headers, timeout=30).status_code


def begin_delete(service: ForkedGunicorn, access: TenantAccess, chat_id: str) -> threading.Thread:
    def run() -> None:
        with suppress(requests.ConnectionError):
            delete(service, access, chat_id)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def delete_in_time(service: ForkedGunicorn, access: TenantAccess, chat_id: str) -> int:
    """Delete within `FREE_SECONDS`, and retry a cut connection: the killed worker's successor may still be starting."""
    began = time.monotonic()
    while True:
        with suppress(requests.ConnectionError):
            status = delete(service, access, chat_id)
            break
    took = time.monotonic() - began
    assert took < FREE_SECONDS, f"{took:.2f} s"
    return status


def locked_chat(
    service: ForkedGunicorn, access: TenantAccess, database: Database, failpoint: FailPoint, command: str
) -> tuple[str, threading.Thread, int]:
    """Return a chat whose delete is blocked in its transaction, the client that waits for it, and the worker's pid.

    The blocked command may instead be one of a worker that releases the locks of a killed one: then it tries again.
    """
    for _ in range(3):
        chat_id = new_chat(database, access)
        wait_until_blocked = failpoint.block(command, seconds=BLOCK_SECONDS, times=1)
        client_thread = begin_delete(service, access, chat_id)
        wait_until_blocked()
        with suppress(AssertionError):
            return chat_id, client_thread, worker_in_transaction(database)
        client_thread.join(10)
    raise AssertionError("no delete was stuck")


@pytest.mark.parametrize("command", ["findAndModify", "delete", "insert", "commitTransaction"])
def test_a_chat_is_free_soon_after_its_holder_is_killed(service, access, database, failpoint, command) -> None:
    """At each command of the transaction, although mongod is busy with the killed worker's last command for longer."""
    chat_id, client_thread, pid = locked_chat(service, access, database, failpoint, command)
    os.kill(pid, signal.SIGKILL)
    assert delete_in_time(service, access, chat_id) == 200
    client_thread.join(10)
    assert list(Checks(database).run()) == []


def test_the_key_of_a_bulk_delete_is_free_soon_after_its_worker_is_killed(service, access, database, failpoint) -> None:
    """The repeated request waits no longer than a claim lasts, and reports every chat as deleted."""
    ids = [new_chat(database, access) for _ in range(20)]
    headers = {**access.headers, "Idempotency-Key": "killed"}

    def delete_all() -> requests.Response:
        url = f"http://127.0.0.1:{service.port}{CHATS}/delete"
        return requests.post(url, json={"chat_ids": ids}, headers=headers, timeout=30)

    def run() -> None:
        with suppress(requests.ConnectionError):
            delete_all()

    wait_until_blocked = failpoint.block("commitTransaction", seconds=BLOCK_SECONDS, times=1)
    client_thread = threading.Thread(target=run)
    client_thread.start()
    wait_until_blocked()
    os.kill(worker_in_transaction(database), signal.SIGKILL)
    client_thread.join(10)
    began = time.monotonic()
    report = delete_all().json()
    assert time.monotonic() - began < CLAIM.total_seconds() + FREE_SECONDS
    assert [chat["chat_id"] for chat in report["successful"]] == ids
    assert list(Checks(database).run()) == []


def test_of_an_import_whose_worker_is_killed_nothing_stays(service, access, database, failpoint) -> None:
    """The purge workers get its staged messages at once, and not only when its lease has ended."""
    now = "2026-01-01T00:00:00.000Z"
    chat = {"id": str(uuid.uuid4()), "title": None, "metadata": {}, "message_count": 0, "last_message_at": None}
    message = {"role": "user", "sender_id": None, "content": "x", "metadata": {}, "created_at": now, "edited_at": None}
    lines = [json.dumps({"type": "chat", "chat": {**chat, "created_at": now, "updated_at": now}})]
    lines += [json.dumps({"type": "message", "message": {"seq": seq, **message}}) for seq in range(1, 20_001)]
    headers = {**access.headers, "Content-Type": "application/x-ndjson"}

    def run() -> None:
        with suppress(requests.ConnectionError):
            url = f"http://127.0.0.1:{service.port}{CHATS}/import"
            requests.post(url, data="\n".join(lines).encode(), headers=headers, timeout=30)

    failpoint.block("insert", seconds=0.1)
    client_thread = threading.Thread(target=run)
    client_thread.start()
    wait_until(lambda: database.purges.find_one({"messages": {"$gt": 0}}), 20)
    os.kill(int(database.purges.find_one()["process"].split(".")[1]), signal.SIGKILL)
    client_thread.join(20)
    failpoint.disarm()
    wait_until(lambda: database.purges.find_one({"worker_id": None}), FREE_SECONDS)
    purge_all(database)
    assert [database.collections[name].count_documents({}) for name in ("chats", "messages", "purges")] == [0, 0, 0]


@pytest.mark.parametrize("rounds", [5, pytest.param(40, marks=pytest.mark.soak)])
def test_random_moments(service, access, database, failpoint, rounds) -> None:
    """Commands take 30 ms, the kill comes at any moment: the second delete gets 200, or 404 if the first was done."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    rng = random.Random(seed)
    commands = ["find", "findAndModify", "delete", "insert", "commitTransaction"]
    killed_pids: set[int] = set()
    for _ in range(rounds):
        chat_id = new_chat(database, access)
        failpoint.block(*commands, seconds=0.03)
        client_thread = begin_delete(service, access, chat_id)
        with suppress(AssertionError):  # the delete ended before its transaction was seen
            pid = worker_in_transaction(database, killed_pids)
            time.sleep(rng.random() * 0.12)
            os.kill(pid, signal.SIGKILL)
            killed_pids.add(pid)
        failpoint.disarm()
        assert delete_in_time(service, access, chat_id) in {200, 404}
        client_thread.join(10)
    assert len(killed_pids) >= rounds * 0.8
    assert list(Checks(database).run()) == []


def test_a_service_that_died_as_a_whole_is_cleaned_up_by_the_jobs(mongod, access, database, failpoint) -> None:
    """Master and workers die at once, so none of them can clean up; but mongod has lost all their connections."""
    chat_id = new_chat(database, access)
    jobs = start("flask", "--app", "wsgi", "jobs", "run", MONGODB_URI=mongod.uri)
    wait_until_connected(database, jobs.pid)
    service = ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1")
    try:
        # When mongod has finished the command, the transaction is open, and no process is left to end it.
        with service:
            wait_until_blocked = failpoint.block("insert", seconds=1.0, times=1)
            client_thread = begin_delete(service, access, chat_id)
            wait_until_blocked()
            worker = worker_in_transaction(database)
            service.process.kill()
            os.kill(worker, signal.SIGKILL)
            client_thread.join(10)
            wait_until_no_transaction_is_open(database, 1 + FREE_SECONDS)
    finally:
        jobs.terminate()
        jobs.wait(10)
    assert Chats(database).get(access.tenant_id, chat_id).message_count == 5
    assert list(Checks(database).run()) == []


def wait_until_connected(database: Database, pid: int) -> None:
    def is_connected() -> bool:
        return any(str(process_of(operation)).endswith(f".{pid}") for operation in Orphans(database)._look())

    wait_until(is_connected, 20, every=0.05)


def wait_until_no_transaction_is_open(database: Database, seconds: float) -> None:
    def no_transaction_is_open() -> bool:
        return not any("transaction" in operation for operation in Orphans(database)._look())

    wait_until(no_transaction_is_open, seconds, every=0.05)


def current_op(kind: str, process: str, idle_seconds: float | None = None) -> dict[str, Any]:
    """Return what `$currentOp` shows of a session that is idle for so long, or, without a time, of a connection."""
    driver = {"name": "PyMongo|c|chat-service", "version": f"4.20.0||{process}"}
    session = (
        {}
        if idle_seconds is None
        else {"lsid": {"id": process}, "transaction": {"timeInactiveMicros": int(idle_seconds * 1e6)}}
    )
    return {"type": kind, "clientMetadata": {"driver": driver}, **session}


def test_only_the_dead_are_orphaned() -> None:
    """A connected process may be idle, an unconnected one for a moment, and none for longer than an attempt lasts."""
    connection = current_op("op", "a.1")
    assert orphaned([current_op("idleSession", "a.1", 5), connection], []) == []
    assert orphaned([current_op("op", "a.1", 60), connection], []) == [], "busy, not resting"
    assert orphaned([current_op("idleSession", "a.1", 0), connection], ["a.1"]) == ["a.1"], "somebody knows"
    assert orphaned([current_op("op", "a.1", 0), connection], ["a.1"]) == ["a.1"]
    assert orphaned([current_op("idleSession", "a.1", 0), connection], ["a.2"]) == []
    assert orphaned([current_op("idleSession", "a.2", 0.9), connection], []) == []
    assert orphaned([current_op("idleSession", "a.2", 1.1), connection], []) == ["a.2"], "no connection is left"
    assert orphaned([current_op("idleSession", "a.1", ABANDONED_SECONDS + 1), connection], []) == ["a.1"]
    assert orphaned([connection], ["a.1"]) == [], "a connection has no session to kill"


def test_a_living_workers_transaction_is_left_alone(database) -> None:
    """The transaction is idle between two commands while reapers run again and again, and then it commits."""
    with database.client.start_session() as session, session.start_transaction():
        database.tenants.insert_one({"_id": "living"}, session=session)
        for _ in range(25):
            assert Orphans(database).reap() == 0
            time.sleep(0.1)
    assert database.tenants.find_one({"_id": "living"})


def test_the_connections_of_a_killed_worker_hold_no_chat(service, access, database) -> None:
    """A delete gets 409 while the socket is open, and 200 within 3 s after the kernel has closed it with the worker."""
    chat_id = new_chat(database, access)
    with Peer(service, chat_id, access) as peer:
        assert delete(service, access, chat_id) == 409
        worker_id = database.presence.find_one({"chat_id": chat_id})["worker_id"]
        os.kill(int(worker_id.split(".")[1]), signal.SIGKILL)
        began = time.monotonic()
        while (status := delete_in_time(service, access, chat_id)) == 409:
            assert time.monotonic() - began < FREE_SECONDS
        assert status == 200
        assert peer.socket.sock.recv(1) == b"", "it was closed before the chat could be deleted"


@pytest.mark.parametrize("kills", [1, 2])
@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.soak)])
def test_the_successor_releases_what_its_predecessor_held(mongod, access, database, failpoint, kills, rounds) -> None:
    """It has no help from other workers or `jobs run`. With two kills, the first successor dies before it is done."""
    with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1") as service:
        for _ in range(rounds):
            connected, deleted = new_chat(database, access), new_chat(database, access)
            with Peer(service, connected, access):
                wait_until_blocked = failpoint.block("insert", seconds=BLOCK_SECONDS, times=1)
                client_thread = begin_delete(service, access, deleted)
                wait_until_blocked()
                pid = worker_in_transaction(database)
                os.kill(pid, signal.SIGKILL)
                began = time.monotonic()
                for _ in range(kills - 1):
                    pid = only_worker(service, other_than=pid)
                    os.kill(pid, signal.SIGKILL)
                wait_until_no_transaction_is_open(database, FREE_SECONDS)
                wait_until(lambda: database.presence.count_documents({}) == 0, FREE_SECONDS)
                assert time.monotonic() - began < FREE_SECONDS
                client_thread.join(10)
            Deletions(database).delete(access.tenant_id, connected, "test")
            Deletions(database).delete(access.tenant_id, deleted, "test")
            assert list(Checks(database).run()) == []
