"""Ends of connections that are easily missed: clients that do not answer, and events during the handshake."""

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


def connect_in_thread(service: Service, path: str) -> tuple[threading.Thread, list[Peer]]:
    """Return a thread that connects, and the list that will hold its peer."""
    peers: list[Peer] = []
    thread = threading.Thread(target=lambda: peers.append(service.connect(path)))
    thread.start()
    return thread, peers


def active(service: Service, chat_id: str) -> int:
    connections: int = service.send("GET", chat_id).json()["active_connections"]
    return connections


def test_a_client_that_hangs_up_on_the_servers_close_gives_its_lease_up(service) -> None:
    """The server cancels a task 3 s after its client has left, whatever it waits for; the lease is given up still."""
    tenant_id, chat_id = service.access.tenant_id, service.chat()
    key, record = ApiKeys(service.database).create(tenant_id, "other", ["read"])
    peers = [Peer(service.gunicorn, chat_id, TenantAccess(tenant_id, key, record.id)) for _ in range(4)]
    assert active(service, chat_id) == 4
    ApiKeys(service.database).revoke(tenant_id, record.id)
    for peer in peers:
        peer.socket.sock.recv(1)
        peer.leave()
    wait_until(lambda: active(service, chat_id) == 0)


def test_a_client_that_leaves_without_reading_what_it_missed(service) -> None:
    """Its lease is given up, although the server waits to send the next message to it."""
    chat_id = service.chat()
    batch = [NewMessage(Role.USER, "x" * 30_000, None, {})] * 30
    for _ in range(10):
        Messages(service.database).append(service.access.tenant_id, chat_id, batch)
    small_buffer = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    for leave in (Peer.leave, lambda peer: peer.socket.sock.close()):
        peer = service.connect(f"{chat_id}?after=0", sockopt=small_buffer)
        time.sleep(0.5)
        assert active(service, chat_id) == 1
        leave(peer)
        wait_until(lambda: active(service, chat_id) == 0)


@pytest.mark.soak
def test_a_client_that_stays_without_reading_what_it_missed_1013(service) -> None:
    """It is closed although it sends frames, and so does not look dead."""
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


def test_a_chat_that_is_evicted_while_a_client_connects(service, slow_commit) -> None:
    """Either may come first; a half-opened connection may not stay."""
    chat_id = service.chat()
    has_begun = slow_commit()
    thread, peers = connect_in_thread(service, chat_id)
    has_begun()
    answer = service.send("DELETE", f"{chat_id}?on_active=evict")
    thread.join()
    assert answer.status_code == 200
    assert peers[0].closed() in {(4404, "chat_not_found"), (4410, "chat_deleted")}
    assert service.database.presence.count_documents({}) == 0


def test_a_key_that_is_revoked_while_its_client_connects(service, slow_commit) -> None:
    """It is closed, although the handshake checks the key only once, before the revocation."""
    chat_id = service.chat()
    has_begun = slow_commit()
    thread, peers = connect_in_thread(service, chat_id)
    has_begun()
    ApiKeys(service.database).revoke(service.access.tenant_id, service.access.key_id)
    thread.join()
    assert peers[0].closed() == (4401, "invalid_api_key")
    wait_until(lambda: service.database.presence.count_documents({}) == 0)


def test_a_revoked_key_opens_nothing_by_the_cache_or_by_a_ticket(service) -> None:
    """The cache has the key from earlier connections; the tickets were made before the revocation."""
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
def test_a_client_that_leaves_during_its_handshake(service, slow_commit, seconds) -> None:
    """Its lease is given up, also if the server cancels the handshake (after 3 s) before the lease is opened."""
    chat_id = service.chat()
    url = f"ws://127.0.0.1:{service.gunicorn.port}/api/v1/chats/{chat_id}/ws"
    has_begun = slow_commit(seconds)
    with pytest.raises(websocket.WebSocketTimeoutException):
        websocket.create_connection(url, 0.4, header=service.access.headers, suppress_origin=True)
    has_begun()
    time.sleep(seconds)
    wait_until(lambda: active(service, chat_id) == 0)


def test_an_unexpected_error_1011(service, failpoint) -> None:
    """The lease is given up after the close; the close says nothing about the error."""
    chat_id = service.chat()
    with service.connect(chat_id) as peer:
        failpoint.arm("findAndModify", times=1, errorCode=1)
        peer.create("hello")
        assert peer.closed() == (1011, "internal_error")
    wait_until(lambda: active(service, chat_id) == 0)


def test_an_expired_key_closes_its_sockets(service) -> None:
    """Also if a rotation gave the key its expiry while the sockets were open."""
    tenant_id, chat_id, keys = service.access.tenant_id, service.chat(), ApiKeys(service.database)
    short_key, short_record = keys.create(tenant_id, "short", ["read"], life=timedelta(seconds=3))
    rotated_key, rotated_record = keys.create(tenant_id, "rotated", ["read"])
    with (
        Peer(service.gunicorn, chat_id, TenantAccess(tenant_id, short_key, short_record.id)) as first,
        Peer(service.gunicorn, chat_id, TenantAccess(tenant_id, rotated_key, rotated_record.id)) as second,
        service.connect(chat_id) as third,
    ):
        keys.rotate(tenant_id, rotated_record.id, timedelta(seconds=1))
        assert second.closed() == (4401, "invalid_api_key")
        assert first.closed() == (4401, "invalid_api_key")
        wait_until(lambda: active(service, chat_id) == 1)
        assert third.is_quiet()
