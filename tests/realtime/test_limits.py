"""Handshakes and posts over a socket take tokens of the rate limits."""

from contextlib import suppress

import websocket

from chat_service.models import RateLimit, Scope
from chat_service.repository.tenants import Tenants
from tests.wait import wait_until


def test_a_message_takes_a_token_of_the_same_bucket_as_a_post(service, database) -> None:
    """The tenant's current limit applies, although the connection was opened before it was set."""
    chat_id = service.chat()
    with service.connect(chat_id) as peer:
        Tenants(database).set_limits(service.access.tenant_id, {Scope.WRITE: RateLimit(0.01, 2)})
        wait_until(lambda: service.send("POST", f"{chat_id}/messages", json={"content": "x"}).status_code == 429)
        while peer.socket.connected:
            peer.create("mine", client_id="c")
            while (frame := peer.frame())["type"] == "message.created":
                pass
            if frame["code"] == "rate_limited":
                break
        assert frame["retry_after"] > 0
        assert frame["client_id"] == "c"


def test_a_handshake_takes_a_token_of_reading(service, database) -> None:
    chat_id = service.chat()
    Tenants(database).set_limits(service.access.tenant_id, {Scope.READ: RateLimit(0.01, 1)})

    def is_refused() -> bool:
        peer = service.connect(chat_id)
        peer.socket.settimeout(0.3)
        with suppress(websocket.WebSocketTimeoutException):
            assert peer.closed() == (1013, "rate_limited")
            return True
        return False

    wait_until(is_refused)
