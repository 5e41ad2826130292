"""Sockets of a chat that expires."""

from datetime import datetime, timedelta

import pytest

from chat_service.repository.chats import Chats
from tests.realtime.sockets import Service
from tests.wait import wait_until

SOON = timedelta(seconds=4)
CLOCKS_APART = timedelta(milliseconds=100)
"""How far the clocks of processes differ: each estimates the database server's time from its own heartbeats."""


def set_expiry(service: Service, chat_id: str, at: datetime | None) -> None:
    Chats(service.database).update(service.access.tenant_id, chat_id, {"expires_at": at})


@pytest.mark.parametrize("is_known_before", [True, False], ids=["set before", "set while connected"])
def test_sockets_are_closed_when_the_chat_expires(service, is_known_before) -> None:
    """They are closed as by a delete, and not before; a later handshake finds no chat."""
    chat_id = service.chat()
    at = service.database.now() + SOON
    if is_known_before:
        set_expiry(service, chat_id, at)
    peers = [service.connect(chat_id) for _ in range(6)]
    if not is_known_before:
        set_expiry(service, chat_id, at)
        assert {peer.frame()["type"] for peer in peers} == {"chat.updated"}
    service.post(chat_id, "still here")
    assert [peer.contents(1) for peer in peers] == [["still here"]] * 6
    assert [peer.frame() for peer in peers] == [{"type": "chat.deleted", "chat_id": chat_id}] * 6
    assert service.database.now() >= at - timedelta(milliseconds=100), "the clocks of processes differ by this at most"
    assert {peer.closed() for peer in peers} == {(4410, "chat_deleted")}
    assert service.connect(chat_id).closed() == (4404, "chat_not_found")


def test_an_expiry_that_was_removed_closes_no_socket(service) -> None:
    chat_id = service.chat()
    at = service.database.now() + SOON
    set_expiry(service, chat_id, at)
    peers = [service.connect(chat_id) for _ in range(4)]
    set_expiry(service, chat_id, None)
    wait_until(lambda: service.database.now() > at + timedelta(seconds=1.5))
    service.post(chat_id, "still here")
    assert [peer.contents(1) for peer in peers] == [["still here"]] * 4
