"""Connections are spread over the workers; none is lost when one ends, hangs, or has no file descriptors left."""

import errno
import http.client
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from chat_service.embedded.process import free_port
from chat_service.server import balance
from chat_service.server.balance import SLOTS, Acceptor, Counts, Loop
from tests.forked import ForkedGunicorn
from tests.pause import paused
from tests.wait import wait_until
from tests.workers import workers_of

WORKERS, CONNECTIONS = 2, 40


@pytest.fixture
def service(mongod) -> Iterator[ForkedGunicorn]:
    with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY=str(WORKERS)) as running:
        yield running


def holders(service: ForkedGunicorn) -> Counter[int]:
    """Return how many of the established connections to the service each worker holds."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[1].split(":")[1], 16) == service.port and row[3] == "01"}
    held: Counter[int] = Counter()
    for pid in workers_of(service):
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(FileNotFoundError):  # it was closed in between
                held[pid] += str(file.readlink()).removeprefix("socket:[").removesuffix("]") in inodes
    return +held


def connect(service: ForkedGunicorn, stack: ExitStack) -> http.client.HTTPConnection:
    connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)))
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    return connection


def connect_until_all_serve(service: ForkedGunicorn, stack: ExitStack) -> None:
    wait_until(lambda: connect(service, stack) and len(holders(service)) == WORKERS, 20, every=0.05)


def test_workers_hold_the_same_number(service) -> None:
    """Connections that come one after the other, to idle workers, are spread evenly."""
    with ExitStack() as stack:
        connect_until_all_serve(service, stack)
        for _ in range(CONNECTIONS):
            connect(service, stack)
        held = holders(service)
        assert max(held.values()) - min(held.values()) <= 2, held


def test_a_worker_that_hangs_costs_a_moment(service) -> None:
    """A worker that hangs accepts nothing, although it holds the fewest connections; the other one serves everybody."""
    with ExitStack() as stack:
        connect_until_all_serve(service, stack)
        first, *_ = workers_of(service)
        with paused(first):
            began = time.monotonic()
            for _ in range(CONNECTIONS):
                connect(service, stack)
            assert time.monotonic() - began < CONNECTIONS * 0.1


def test_a_worker_that_died_is_not_waited_for(service) -> None:
    """The worker that replaces it accepts its share of the connections."""
    with ExitStack() as stack:
        wait_until(lambda: len(workers_of(service)) == WORKERS, 20)
        dead, *_ = workers_of(service)
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: dead not in workers_of(service), 20)
        connect_until_all_serve(service, stack)
        for _ in range(CONNECTIONS):
            connect(service, stack)
        held = holders(service)
        assert max(held.values()) - min(held.values()) <= 2, held


def test_counts() -> None:
    """A worker does not wait for one that accepts no more connections, has ended or never existed."""
    counts = Counts()
    first, second = counts.assign_slot(), counts.assign_slot()
    assert first != second

    def publish(slot: int | None, connections: int) -> None:
        counts.own = slot
        counts.publish(connections)

    def is_fewest(slot: int | None) -> bool:
        counts.own = slot
        return counts.is_fewest()

    assert is_fewest(first)
    publish(first, 3)
    assert is_fewest(first)
    publish(second, 2)
    assert (is_fewest(first), is_fewest(second)) == (False, True)
    counts.free_slot(second)
    assert is_fewest(first)
    assert counts.assign_slot() == second
    publish(second, 2)
    counts.leave()
    assert is_fewest(first)
    publish(second, 0)
    assert is_fewest(first), "who leaves takes none, whatever it still holds"
    assert [counts.assign_slot() for _ in range(SLOTS - 2)][-1] is not None
    assert counts.assign_slot() is None
    assert is_fewest(None)


class Listener(socket.socket):
    """A socket whose first `accept` fails, as in a process without file descriptors."""

    tries = 0

    def accept(self) -> Any:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_without_files_tries_again(monkeypatch) -> None:
    """It waits before it accepts again, and does not spin."""
    monkeypatch.setattr(balance, "EXHAUSTED_SECONDS", 0.2)
    loop = Loop()
    with closing(loop), Listener() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        accepted = loop.create_future()

        async def connect(connection: socket.socket) -> None:
            accepted.set_result(connection)

        acceptor = Acceptor(loop, listener, connect, lambda: True)
        began = time.monotonic()
        loop.run_until_complete(accepted)
        accepted.result().close()
        acceptor.close()
    assert time.monotonic() - began >= 0.2
    assert listener.tries == 2
