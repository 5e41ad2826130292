"""How the service ends: it answers the requests in flight, and does not wait for idle connections."""

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn
from tests.pause import paused
from tests.wait import PATIENCE, wait_until
from tests.workers import is_running, workers_of

BLOCK_SECONDS = 2.0
EXIT_SECONDS = 6.0 * PATIENCE
"""Less than the 25 s that gunicorn would wait for connections, and more than the delete in flight takes."""


@pytest.fixture
def service(mongod: EmbeddedMongod) -> Iterator[ForkedGunicorn]:
    with ForkedGunicorn(mongod.uri, free_port()) as gunicorn:
        yield gunicorn


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


@pytest.fixture
def slow_commit(failpoint) -> Callable[[], Callable[[], object]]:
    """Return a function that slows the next commit down to two seconds; it returns one that waits for its begin."""
    return lambda: failpoint.block("commitTransaction", seconds=BLOCK_SECONDS, times=1)


def request(port: int, access: TenantAccess, method: str, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, headers=access.headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize("rounds", [1, 2], ids=["once", "twice"])
def test_a_delete_in_flight_is_answered(service, access, chats, slow_commit, rounds) -> None:
    """After SIGTERM to all processes, once or twice, it gets its 200; the exit is prompt, and nobody new is served."""
    chat_id = chats.create(access.tenant_id, None, {}).id
    answers: list[tuple[int, bytes]] = []
    thread = threading.Thread(
        target=lambda: answers.append(request(service.port, access, "DELETE", f"{CHATS}/{chat_id}"))
    )
    wait_for_commit = slow_commit()
    thread.start()
    wait_for_commit()
    for _ in range(rounds):
        for pid in (service.process.pid, *workers_of(service)):
            os.kill(pid, signal.SIGTERM)
    assert service.process.wait(EXIT_SECONDS) == 0
    thread.join(5)
    assert [status for status, _ in answers] == [200]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", service.port), 1)


def test_a_platform_that_waits_less_is_heeded(mongod: EmbeddedMongod, access, chats, failpoint) -> None:
    """A request that is in flight for longer than SHUTDOWN_SECONDS ends with the service, done or not done at all."""
    chat_id = chats.create(access.tenant_id, None, {}).id
    with ForkedGunicorn(mongod.uri, free_port(), SHUTDOWN_SECONDS="2") as service:
        wait_for_commit = failpoint.block("commitTransaction", seconds=EXIT_SECONDS + 4, times=1)

        def delete() -> None:
            with suppress(OSError, http.client.HTTPException):
                request(service.port, access, "DELETE", f"{CHATS}/{chat_id}")

        thread = threading.Thread(target=delete)
        thread.start()
        wait_for_commit()
        began = time.monotonic()
        service.process.terminate()
        service.process.wait(30)
        assert time.monotonic() - began < EXIT_SECONDS
        thread.join(10)
    failpoint.disarm()


def test_idle_connections_do_not_hold_it(service, access) -> None:
    """The service waits neither for a kept-alive connection, nor for a silent one, nor for one with half a request."""
    kept_alive = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    kept_alive.request("GET", CHATS, headers=access.headers)
    assert kept_alive.getresponse().read()
    silent = socket.create_connection(("127.0.0.1", service.port), 1)
    half = socket.create_connection(("127.0.0.1", service.port), 1)
    half.sendall(b"GET /healthz HT")
    began = time.monotonic()
    service.process.terminate()
    assert service.process.wait(EXIT_SECONDS) == 0
    assert time.monotonic() - began < EXIT_SECONDS
    for connection in (silent, half):
        with suppress(ConnectionResetError):  # no worker had accepted it yet
            assert connection.recv(1) == b""
        connection.close()
    kept_alive.close()


def test_it_can_end_while_it_starts(mongod: EmbeddedMongod) -> None:
    """A worker that has not yet loaded the application obeys SIGTERM too."""
    for delay in (0.0, 0.3, 0.6):
        service = ForkedGunicorn(mongod.uri, free_port())
        process = service.start()
        try:
            service.wait_until_serving()  # the master listens before its workers have loaded anything
            time.sleep(delay)  # covers the start of a worker, which takes about a second
            process.terminate()
            process.wait(EXIT_SECONDS)
        finally:
            service.stop()


def test_a_request_that_crosses_with_the_end_of_a_kept_alive_connection_is_answered(mongod, access) -> None:
    """The request arrives in time, but the worker was stopped, and reads it only after the keep-alive timeout."""
    seconds = 2
    settings = {"WEB_CONCURRENCY": "1", "GUNICORN_CMD_ARGS": f"--keep-alive={seconds}"}
    with (
        ForkedGunicorn(mongod.uri, free_port(), **settings) as service,
        closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection,
    ):
        connection.request("GET", CHATS, headers=access.headers)
        assert connection.getresponse().read()
        (worker,) = workers_of(service)
        with paused(worker):
            connection.request("GET", CHATS, headers=access.headers)
            time.sleep(seconds + 0.5)
        assert connection.getresponse().status == 200
        connection.sock.settimeout(seconds + 2)
        assert connection.sock.recv(1) == b"", "without a next request it is hung up on as before"


def test_a_reload_drops_no_request(service, access) -> None:
    """SIGHUP, three times under load: new workers take over, and every request is answered."""
    stop = threading.Event()
    statuses: list[int] = []

    def load() -> None:
        while not stop.is_set():
            statuses.append(request(service.port, access, "GET", CHATS)[0])

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = workers_of(service)
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda before=before: before.isdisjoint(workers_of(service)), 20, every=0.05)
            target = len(statuses) + 20
            wait_until(lambda target=target: len(statuses) > target, 20, every=0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert set(statuses) == {200}


def test_workers_of_a_killed_master_end(mongod: EmbeddedMongod) -> None:
    """Workers do not go on without their master, and the next service gets the port."""
    with ForkedGunicorn(mongod.uri, free_port()) as killed:
        wait_until(lambda: len(workers_of(killed)) == 2, 30)
        workers = workers_of(killed)
        os.kill(killed.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, workers)), 30)
        with ForkedGunicorn(mongod.uri, killed.port):
            pass
