"""Ends that are easily lost: clients that do not answer, and what happens on the way in."""

import socket
import threading
import time
from datetime import timedelta

import pytest
import websocket

from chat_service.models import NewMessage, Role
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.messages import Messages
from tests.client import TenantAccess
from tests.realtime.conftest import SLOW_SECONDS
from tests.realtime.sockets import Peer, Service
from tests.wait import wait_until


def connect_meanwhile(service: Service, path: str) -> tuple[threading.Thread, list[Peer]]:
    found: list[Peer] = []
    thread = threading.Thread(target=lambda: found.append(service.connect(path)))
    thread.start()
    return thread, found


def active(service: Service, chat_id: str) -> int:
    found: int = service.send("GET", chat_id).json()["active_connections"]
    return found


def test_a_client_that_hangs_up_on_our_close_gives_its_lease_up(service) -> None:
    """The server cancels a task 3 s after its client has left, whatever that waits for."""
    tenant_id, chat_id = service.access.tenant_id, service.chat()
    key, made = ApiKeys(service.database).create(tenant_id, "other", ["read"])
    peers = [Peer(service.gunicorn, chat_id, TenantAccess(tenant_id, key, made.id)) for _ in range(4)]
    assert active(service, chat_id) == 4
    ApiKeys(service.database).revoke(tenant_id, made.id)
    for peer in peers:
        peer.socket.sock.recv(1)
        peer.leave()
    wait_until(lambda: active(service, chat_id) == 0)


def test_a_client_that_reads_nothing_of_what_it_missed_and_leaves(service) -> None:
    """The server waits with the next message, for somebody who has gone."""
    chat_id = service.chat()
    batch = [NewMessage(Role.USER, "x" * 30_000, None, {})] * 30
    for _ in range(10):
        Messages(service.database).append(service.access.tenant_id, chat_id, batch)
    small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    for how in (Peer.leave, lambda peer: peer.socket.sock.close()):
        peer = service.connect(f"{chat_id}?after=0", sockopt=small)
        time.sleep(0.5)
        assert active(service, chat_id) == 1
        how(peer)
        wait_until(lambda: active(service, chat_id) == 0)


@pytest.mark.soak
def test_a_client_that_reads_nothing_of_what_it_missed_and_stays_1013(service) -> None:
    """Though it talks, and so does not look dead."""
    chat_id = service.chat()
    batch = [NewMessage(Role.USER, "x" * 30_000, None, {})] * 30
    for _ in range(10):
        Messages(service.database).append(service.access.tenant_id, chat_id, batch)
    peer = service.connect(f"{chat_id}?after=0", sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    deadline = time.monotonic() + 35
    while active(service, chat_id):
        assert time.monotonic() < deadline
        peer.socket.pong()
        time.sleep(1)


def test_a_chat_that_is_evicted_while_a_client_comes_in(service, slow_commit) -> None:
    """Either order of the two is right; a half-opened connection is not."""
    chat_id = service.chat()
    has_begun = slow_commit()
    thread, found = connect_meanwhile(service, chat_id)
    has_begun()
    answer = service.send("DELETE", f"{chat_id}?on_active=evict")
    thread.join()
    assert answer.status_code == 200
    assert found[0].closed() in {(4404, "chat_not_found"), (4410, "chat_deleted")}
    assert service.database.presence.count_documents({}) == 0


def test_a_key_that_is_revoked_while_its_client_comes_in(service, slow_commit) -> None:
    """It was asked for before, and will not be again."""
    chat_id = service.chat()
    has_begun = slow_commit()
    thread, found = connect_meanwhile(service, chat_id)
    has_begun()
    ApiKeys(service.database).revoke(service.access.tenant_id, service.access.key_id)
    thread.join()
    assert found[0].closed() == (4401, "invalid_api_key")
    wait_until(lambda: service.database.presence.count_documents({}) == 0)


def test_a_revoked_key_opens_nothing_by_the_cache_or_by_a_ticket(service) -> None:
    chat_id = service.chat()
    tickets = [service.send("POST", f"{chat_id}/tickets").json()["ticket"] for _ in range(8)]
    for _ in range(4):
        service.connect(chat_id).leave()
    ApiKeys(service.database).revoke(service.access.tenant_id, service.access.key_id)
    for ticket in tickets:
        with Peer(service.gunicorn, f"{chat_id}?ticket={ticket}") as peer:
            assert peer.closed() == (4401, "invalid_api_key")
    for _ in range(8):
        with service.connect(chat_id) as peer:
            assert peer.closed() == (4401, "invalid_api_key")


@pytest.mark.parametrize("seconds", [SLOW_SECONDS, 3.7])
def test_a_client_that_leaves_while_it_comes_in(service, slow_commit, seconds) -> None:
    """Also when the server cancels the handshake (after 3 s), and the lease is opened after that."""
    chat_id = service.chat()
    url = f"ws://127.0.0.1:{service.gunicorn.port}/api/v1/chats/{chat_id}/ws"
    has_begun = slow_commit(seconds)
    with pytest.raises(websocket.WebSocketTimeoutException):
        websocket.create_connection(url, 0.4, header=service.access.headers, suppress_origin=True)
    has_begun()
    time.sleep(seconds)
    wait_until(lambda: active(service, chat_id) == 0)


def test_an_unexpected_error_1011(service, failpoint) -> None:
    """The lease is given up after the close; nothing of the error is told."""
    chat_id = service.chat()
    with service.connect(chat_id) as peer:
        failpoint.arm("findAndModify", times=1, errorCode=1)
        peer.create("hello")
        assert peer.closed() == (1011, "internal_error")
    wait_until(lambda: active(service, chat_id) == 0)


def test_an_expired_key_closes_its_sockets(service) -> None:
    """Also where it was given its end while they were open, by a rotation."""
    tenant_id, chat_id, keys = service.access.tenant_id, service.chat(), ApiKeys(service.database)
    short, record = keys.create(tenant_id, "short", ["read"], life=timedelta(seconds=3))
    rotated, other = keys.create(tenant_id, "rotated", ["read"])
    with (
        Peer(service.gunicorn, chat_id, TenantAccess(tenant_id, short, record.id)) as first,
        Peer(service.gunicorn, chat_id, TenantAccess(tenant_id, rotated, other.id)) as second,
        service.connect(chat_id) as third,
    ):
        keys.rotate(tenant_id, other.id, timedelta(seconds=1))
        assert second.closed() == (4401, "invalid_api_key")
        assert first.closed() == (4401, "invalid_api_key")
        wait_until(lambda: active(service, chat_id) == 1)
        assert third.is_quiet()
