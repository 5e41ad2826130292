"""Leases when workers die or are stopped, and when the database does not answer."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.repository.database import Database
from tests.client import TenantAccess
from tests.conftest import tenant_maker
from tests.forked import ForkedGunicorn
from tests.pause import paused
from tests.realtime.sockets import Peer, Service
from tests.wait import wait_until
from tests.workers import workers_of

PROMISE_SECONDS = 30.0
CHECK_SECONDS = 3.0
"""A resumed process checks its leases within a second; the rest is for a busy machine."""


@pytest.fixture
def own(mongod: EmbeddedMongod, database: Database, new_tenant: Callable[..., TenantAccess]) -> Iterator[Service]:
    """A service of one worker, which the test kills or stops."""
    with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1") as gunicorn:
        service = Service(gunicorn, new_tenant(), database)
        with service.peers:
            yield service


def worker(service: Service) -> int:
    return min(workers_of(service.gunicorn))


def expire_all(database: Database) -> None:
    """Let all leases expire now, as they would after 25 s without a renewal."""
    database.presence.update_many({}, {"$set": {"expires_at": database.now() - timedelta(milliseconds=1)}})


def active(service: Service, chat_id: str) -> int:
    connections: int = service.send("GET", chat_id).json()["active_connections"]
    return connections


def test_a_worker_that_was_stopped_past_its_lease_closes_its_sockets(own, service) -> None:
    """Another worker's delete succeeded in the meantime, so none of its connections may go on."""
    chat_id = own.chat("one")
    peer = own.connect(chat_id)
    other_peer = own.connect(own.chat())
    with paused(worker(own)):
        expire_all(own.database)
        service.access = own.access
        assert service.send("DELETE", chat_id).status_code == 200
    began = time.monotonic()
    assert peer.closed() in {(4410, "chat_deleted"), (1012, "reconnect")}
    assert other_peer.closed() == (1012, "reconnect"), "an expired lease is never renewed, even if its chat is there"
    assert time.monotonic() - began < 5 + CHECK_SECONDS
    wait_until(lambda: own.database.presence.count_documents({}) == 0)


@pytest.mark.soak
def test_a_worker_that_was_stopped_for_real(own, service) -> None:
    """The same in real time: 26 s."""
    chat_id = own.chat()
    peer = own.connect(chat_id)
    service.access = own.access
    began = time.monotonic()
    with paused(worker(own)):
        wait_until(lambda: service.send("DELETE", chat_id).status_code == 200, PROMISE_SECONDS)
        assert time.monotonic() - began > 15, "the last renewal was about 5 s before at the most"
    resumed = time.monotonic()
    assert peer.closed()[0] in {4410, 1012}
    assert time.monotonic() - resumed < CHECK_SECONDS


@pytest.mark.soak
def test_the_409_of_a_killed_worker_ends_within_30_s(own, service) -> None:
    chat_id = own.chat()
    peer = own.connect(chat_id)
    service.access = own.access
    os.kill(worker(own), signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(Exception, match=r"lost|reset"):
        peer.closed()
    wait_until(lambda: service.send("DELETE", chat_id).status_code == 200, PROMISE_SECONDS)
    print(f"{time.monotonic() - began:.1f} s")  # noqa: T201 - how long it took


def test_a_failed_renewal_does_not_end_the_renewals(own, failpoint) -> None:
    """Whatever error the database returns, the next renewal runs, and no socket is closed."""
    chat_id = own.chat()
    peer = own.connect(chat_id)
    failpoint.arm("update", times=1, errorCode=8000)
    expires_at = own.database.presence.find_one({})["expires_at"]
    wait_until(lambda: own.database.presence.find_one({})["expires_at"] > expires_at, 20)
    peer.create("still here")
    assert peer.contents(1) == ["still here"]


@pytest.mark.soak
def test_without_renewals_a_socket_is_closed_before_its_lease_ends(own, failpoint) -> None:
    """1012 while a delete is still refused, although the database answers no renewal."""
    chat_id = own.chat()
    peer = own.connect(chat_id)
    failpoint.block("update", seconds=60.0)
    peer.socket.settimeout(PROMISE_SECONDS)
    assert peer.closed() == (1012, "reconnect")
    assert own.database.presence.find_one({})["expires_at"] > own.database.now()


@pytest.mark.soak
def test_a_database_that_hangs(tmp_path: Path) -> None:
    """Handshakes get 1013; open sockets get 1012 before their leases end; afterwards a delete succeeds."""
    with EmbeddedMongod(tmp_path) as mongod:
        database = Database(mongod.uri)
        database.prepare()
        with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1") as gunicorn:
            service = Service(gunicorn, tenant_maker(database)(), database)
            chat_id = service.chat()
            peer = service.connect(chat_id)
            peer.socket.settimeout(PROMISE_SECONDS)
            with paused(mongod.process.pid):
                began = time.monotonic()
                with Peer(gunicorn, chat_id, service.access) as late:
                    late.socket.settimeout(PROMISE_SECONDS)
                    assert late.closed() == (1013, "database_unavailable")
                assert peer.closed() == (1012, "reconnect")
                assert time.monotonic() - began < 25
            wait_until(lambda: service.send("DELETE", chat_id).status_code == 200, PROMISE_SECONDS)
        database.close()


def test_a_lease_that_could_not_be_given_up_is_removed_by_the_next_renewal(own, failpoint) -> None:
    """Also if the worker has no other lease to renew."""
    chat_id = own.chat()
    peer = own.connect(chat_id)
    failpoint.arm("delete", times=2, errorCode=8000)
    peer.leave()
    time.sleep(1)
    assert active(own, chat_id) == 1
    wait_until(lambda: active(own, chat_id) == 0, 12)
