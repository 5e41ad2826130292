"""kill -9 of a web worker in the middle of a transaction: the chat it held can be deleted within three seconds."""

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
"""Longer than the promise: the server is still busy with a command of the dead when the chat has to be free."""


@pytest.fixture(scope="module")
def service(mongod: EmbeddedMongod) -> Iterator[ForkedGunicorn]:
    with ForkedGunicorn(mongod.uri, free_port()) as running:
        yield running


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


def holder(database: Database, dead: Collection[int] = ()) -> int:
    """Return the pid of the worker that has a transaction open; those of the `dead` may show for a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for operation in Orphans(database)._look():
            pid = int((process_of(operation) or ".0").split(".")[1])
            if "transaction" in operation and pid not in dead:
                return pid
        time.sleep(0.01)
    raise AssertionError("no transaction was seen")


def child_of(service: ForkedGunicorn, but: int) -> int:
    """Return the pid of the only worker, once it is another one."""
    path = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    wait_until(lambda: path.read_text().split() not in ([], [str(but)]), 5, every=0.001)
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


def delete_within_the_promise(service: ForkedGunicorn, access: TenantAccess, chat_id: str) -> int:
    """Delete as a client does that repeats when it is cut off: the replacement of the dead may just be starting."""
    began = time.monotonic()
    while True:
        with suppress(requests.ConnectionError):
            status = delete(service, access, chat_id)
            break
    took = time.monotonic() - began
    assert took < FREE_SECONDS, f"{took:.2f} s"
    return status


def held_chat(
    service: ForkedGunicorn, access: TenantAccess, database: Database, failpoint: FailPoint, command: str
) -> tuple[str, threading.Thread, int]:
    """Return a chat whose delete is stuck in its transaction, the client that waits for it, and the worker's pid.

    The one command that gets stuck may be of a worker that is just releasing what the one killed before it held.
    """
    for _ in range(3):
        chat_id = new_chat(database, access)
        is_blocked = failpoint.block(command, seconds=BLOCK_SECONDS, times=1)
        victim = begin_delete(service, access, chat_id)
        is_blocked()
        with suppress(AssertionError):
            return chat_id, victim, holder(database)
        victim.join(10)
    raise AssertionError("no delete was stuck")


@pytest.mark.parametrize("command", ["findAndModify", "delete", "insert", "commitTransaction"])
def test_a_chat_is_free_soon_after_its_holder_is_killed(service, access, database, failpoint, command) -> None:
    """Whatever the worker was doing, and although the server is busy with its last command for longer."""
    chat_id, victim, pid = held_chat(service, access, database, failpoint, command)
    os.kill(pid, signal.SIGKILL)
    assert delete_within_the_promise(service, access, chat_id) == 200
    victim.join(10)
    assert list(Checks(database).run()) == []


def test_the_key_of_a_bulk_delete_is_free_soon_after_its_worker_is_killed(service, access, database, failpoint) -> None:
    """The repetition waits no longer than a claim lasts, and tells of every chat that it is gone."""
    ids = [new_chat(database, access) for _ in range(20)]
    headers = {**access.headers, "Idempotency-Key": "killed"}

    def delete_all() -> requests.Response:
        url = f"http://127.0.0.1:{service.port}{CHATS}/delete"
        return requests.post(url, json={"chat_ids": ids}, headers=headers, timeout=30)

    def run() -> None:
        with suppress(requests.ConnectionError):
            delete_all()

    is_blocked = failpoint.block("commitTransaction", seconds=BLOCK_SECONDS, times=1)
    victim = threading.Thread(target=run)
    victim.start()
    is_blocked()
    os.kill(holder(database), signal.SIGKILL)
    victim.join(10)
    began = time.monotonic()
    told = delete_all().json()
    assert time.monotonic() - began < CLAIM.total_seconds() + FREE_SECONDS
    assert [chat["chat_id"] for chat in told["successful"]] == ids
    assert list(Checks(database).run()) == []


def test_of_an_import_whose_worker_is_killed_nothing_stays(service, access, database, failpoint) -> None:
    """What it had staged is left to the purge workers at once, not when its lease has ended."""
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
    victim = threading.Thread(target=run)
    victim.start()
    wait_until(lambda: database.purges.find_one({"messages": {"$gt": 0}}), 20)
    os.kill(int(database.purges.find_one()["process"].split(".")[1]), signal.SIGKILL)
    victim.join(20)
    failpoint.disarm()
    wait_until(lambda: database.purges.find_one({"worker_id": None}), FREE_SECONDS)
    purge_all(database)
    assert [database.collections[name].count_documents({}) for name in ("chats", "messages", "purges")] == [0, 0, 0]


@pytest.mark.parametrize("rounds", [5, pytest.param(40, marks=pytest.mark.soak)])
def test_random_moments(service, access, database, failpoint, rounds) -> None:
    """Commands take 30 ms each, the kill comes somewhere: the second delete gets 200, or 404 if the first was done."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    moments = random.Random(seed)
    commands = ["find", "findAndModify", "delete", "insert", "commitTransaction"]
    dead: set[int] = set()
    for _ in range(rounds):
        chat_id = new_chat(database, access)
        failpoint.block(*commands, seconds=0.03)
        victim = begin_delete(service, access, chat_id)
        with suppress(AssertionError):  # it was done before anybody saw it
            pid = holder(database, dead)
            time.sleep(moments.random() * 0.12)
            os.kill(pid, signal.SIGKILL)
            dead.add(pid)
        failpoint.disarm()
        assert delete_within_the_promise(service, access, chat_id) in {200, 404}
        victim.join(10)
    assert len(dead) >= rounds * 0.8
    assert list(Checks(database).run()) == []


def test_a_service_that_died_as_a_whole_is_cleaned_up_by_the_jobs(mongod, access, database, failpoint) -> None:
    """Master and workers at once: nobody there knows of it, but the server has lost all their connections."""
    chat_id = new_chat(database, access)
    jobs = start("flask", "--app", "wsgi", "jobs", "run", MONGODB_URI=mongod.uri)
    wait_until_looking(database, jobs.pid)
    service = ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1")
    try:
        # When the server is done with the command, the transaction is open, and nobody is there to end it.
        with service:
            is_blocked = failpoint.block("insert", seconds=1.0, times=1)
            victim = begin_delete(service, access, chat_id)
            is_blocked()
            worker = holder(database)
            service.process.kill()
            os.kill(worker, signal.SIGKILL)
            victim.join(10)
            wait_until_nothing_is_open(database, 1 + FREE_SECONDS)
    finally:
        jobs.terminate()
        jobs.wait(10)
    assert Chats(database).get(access.tenant_id, chat_id).message_count == 5
    assert list(Checks(database).run()) == []


def wait_until_looking(database: Database, pid: int) -> None:
    def is_looking() -> bool:
        return any(str(process_of(operation)).endswith(f".{pid}") for operation in Orphans(database)._look())

    wait_until(is_looking, 20, every=0.05)


def wait_until_nothing_is_open(database: Database, seconds: float) -> None:
    def nothing_is_open() -> bool:
        return not any("transaction" in operation for operation in Orphans(database)._look())

    wait_until(nothing_is_open, seconds, every=0.05)


def seen(kind: str, process: str, rest: float | None = None) -> dict[str, Any]:
    """Return what `$currentOp` shows of a session of `process`, or of a connection if it rests no time."""
    driver = {"name": "PyMongo|c|chat-service", "version": f"4.20.0||{process}"}
    session = {} if rest is None else {"lsid": {"id": process}, "transaction": {"timeInactiveMicros": int(rest * 1e6)}}
    return {"type": kind, "clientMetadata": {"driver": driver}, **session}


def test_only_the_dead_are_orphaned() -> None:
    """A living process may rest, an unconnected one for a moment, and nobody for longer than an attempt lives."""
    connection = seen("op", "a.1")
    assert orphaned([seen("idleSession", "a.1", 5), connection], []) == []
    assert orphaned([seen("op", "a.1", 60), connection], []) == [], "busy, not resting"
    assert orphaned([seen("idleSession", "a.1", 0), connection], ["a.1"]) == ["a.1"], "somebody knows"
    assert orphaned([seen("op", "a.1", 0), connection], ["a.1"]) == ["a.1"]
    assert orphaned([seen("idleSession", "a.1", 0), connection], ["a.2"]) == []
    assert orphaned([seen("idleSession", "a.2", 0.9), connection], []) == []
    assert orphaned([seen("idleSession", "a.2", 1.1), connection], []) == ["a.2"], "no connection is left"
    assert orphaned([seen("idleSession", "a.1", ABANDONED_SECONDS + 1), connection], []) == ["a.1"]
    assert orphaned([connection], ["a.1"]) == [], "a connection has no session to kill"


def test_a_living_workers_transaction_is_left_alone(database) -> None:
    """It rests for a while between two commands, reapers look all the time, and it commits."""
    with database.client.start_session() as session, session.start_transaction():
        database.tenants.insert_one({"_id": "living"}, session=session)
        for _ in range(25):
            assert Orphans(database).reap() == 0
            time.sleep(0.1)
    assert database.tenants.find_one({"_id": "living"})


def test_the_connections_of_a_killed_worker_hold_no_chat(service, access, database) -> None:
    """409 while its socket is open; 200 within the promise after the kernel has closed it with the worker."""
    chat_id = new_chat(database, access)
    with Peer(service, chat_id, access) as peer:
        assert delete(service, access, chat_id) == 409
        held_by = database.presence.find_one({"chat_id": chat_id})["worker_id"]
        os.kill(int(held_by.split(".")[1]), signal.SIGKILL)
        began = time.monotonic()
        while (status := delete_within_the_promise(service, access, chat_id)) == 409:
            assert time.monotonic() - began < FREE_SECONDS
        assert status == 200
        assert peer.socket.sock.recv(1) == b"", "it was closed before the chat could be deleted"


@pytest.mark.parametrize("kills", [1, 2])
@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.soak)])
def test_the_successor_releases_what_its_predecessor_held(mongod, access, database, failpoint, kills, rounds) -> None:
    """Alone: no other worker is there, and no `jobs run`. With two kills the first successor dies before it is done."""
    with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1") as service:
        for _ in range(rounds):
            connected, deleted = new_chat(database, access), new_chat(database, access)
            with Peer(service, connected, access):
                is_blocked = failpoint.block("insert", seconds=BLOCK_SECONDS, times=1)
                victim = begin_delete(service, access, deleted)
                is_blocked()
                pid = holder(database)
                os.kill(pid, signal.SIGKILL)
                began = time.monotonic()
                for _ in range(kills - 1):
                    pid = child_of(service, but=pid)
                    os.kill(pid, signal.SIGKILL)
                wait_until_nothing_is_open(database, FREE_SECONDS)
                wait_until(lambda: database.presence.count_documents({}) == 0, FREE_SECONDS)
                assert time.monotonic() - began < FREE_SECONDS
                victim.join(10)
            Deletions(database).delete(access.tenant_id, connected, "test")
            Deletions(database).delete(access.tenant_id, deleted, "test")
            assert list(Checks(database).run()) == []
