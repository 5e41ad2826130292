"""Connections are spread over the workers, and none is lost to one that ends, hangs, or has no files left."""

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
    """How many of the established connections to the service each worker holds."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[1].split(":")[1], 16) == service.port and row[3] == "01"}
    found: Counter[int] = Counter()
    for pid in workers_of(service):
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(FileNotFoundError):  # closed meanwhile
                found[pid] += str(file.readlink()).removeprefix("socket:[").removesuffix("]") in inodes
    return +found


def connect(service: ForkedGunicorn, stack: ExitStack) -> http.client.HTTPConnection:
    connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)))
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    return connection


def connect_until_all_serve(service: ForkedGunicorn, stack: ExitStack) -> None:
    wait_until(lambda: connect(service, stack) and len(holders(service)) == WORKERS, 20, every=0.05)


def test_workers_hold_the_same_number(service) -> None:
    """Of connections that come one after the other, while nobody is busy."""
    with ExitStack() as stack:
        connect_until_all_serve(service, stack)
        for _ in range(CONNECTIONS):
            connect(service, stack)
        held = holders(service)
        assert max(held.values()) - min(held.values()) <= 2, held


def test_a_worker_that_hangs_costs_a_moment(service) -> None:
    """It holds the fewest and takes none; the other one serves everybody."""
    with ExitStack() as stack:
        connect_until_all_serve(service, stack)
        first, *_ = workers_of(service)
        with paused(first):
            began = time.monotonic()
            for _ in range(CONNECTIONS):
                connect(service, stack)
            assert time.monotonic() - began < CONNECTIONS * 0.1


def test_a_worker_that_died_is_not_waited_for(service) -> None:
    """Its successor takes its share."""
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
    """Whoever takes no more, has ended or was never there is nobody to wait for."""
    counts = Counts()
    one, two = counts.assign_slot(), counts.assign_slot()
    assert one != two

    def publish(slot: int | None, connections: int) -> None:
        counts.own = slot
        counts.publish(connections)

    def is_fewest(slot: int | None) -> bool:
        counts.own = slot
        return counts.is_fewest()

    assert is_fewest(one)
    publish(one, 3)
    assert is_fewest(one)
    publish(two, 2)
    assert (is_fewest(one), is_fewest(two)) == (False, True)
    counts.free_slot(two)
    assert is_fewest(one)
    assert counts.assign_slot() == two
    publish(two, 2)
    counts.leave()
    assert is_fewest(one)
    publish(two, 0)
    assert is_fewest(one), "who leaves takes none, whatever it still holds"
    assert [counts.assign_slot() for _ in range(SLOTS - 2)][-1] is not None
    assert counts.assign_slot() is None
    assert is_fewest(None)


class Listener(socket.socket):
    """It has no files left, for the first time."""

    tries = 0

    def accept(self) -> Any:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_without_files_tries_again(monkeypatch) -> None:
    """And does not spin meanwhile."""
    monkeypatch.setattr(balance, "EXHAUSTED_SECONDS", 0.2)
    loop = Loop()
    with closing(loop), Listener() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        taken = loop.create_future()

        async def connect(connection: socket.socket) -> None:
            taken.set_result(connection)

        acceptor = Acceptor(loop, listener, connect, lambda: True)
        began = time.monotonic()
        loop.run_until_complete(taken)
        taken.result().close()
        acceptor.close()
    assert time.monotonic() - began >= 0.2
    assert listener.tries == 2
