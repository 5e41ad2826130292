"""Sockets of a chat that goes to the trash and comes back."""

from datetime import timedelta

from chat_service.repository.deletions import Deletions
from chat_service.repository.trash import Trash
from tests.realtime.sockets import Service

LAG_SECONDS = 2.0


def evict(service: Service, chat_id: str) -> None:
    """Move the chat to the trash although somebody is connected."""
    tenant_id = service.access.tenant_id
    Deletions(service.database).move_to_trash(tenant_id, chat_id, "key", timedelta(days=1), evict=True)


def restore(service: Service, chat_id: str) -> None:
    Trash(service.database).restore(service.access.tenant_id, chat_id, "key")


def test_sockets_are_closed_as_by_a_delete(service) -> None:
    """4410, and later handshakes find no chat until it is restored."""
    chat_id = service.chat("one")
    peer = service.connect(chat_id)
    evict(service, chat_id)
    assert peer.frame() == {"type": "chat.deleted", "chat_id": chat_id}
    assert peer.closed() == (4410, "chat_deleted")
    assert service.connect(chat_id).closed() == (4404, "chat_not_found")
    restore(service, chat_id)
    back = service.connect(f"{chat_id}?after=0")
    service.post(chat_id, "two")
    assert back.contents(2) == ["one", "two"]


def test_a_feed_that_lags_closes_only_sockets_from_before_the_trashing(service, failpoint) -> None:
    """It delivers the trashing when the chat is restored and others are connected: these get nothing of it."""
    chat_id = service.chat()
    before = [service.connect(chat_id) for _ in range(6)]
    failpoint.block("getMore", seconds=LAG_SECONDS)()
    evict(service, chat_id)
    restore(service, chat_id)
    after = [service.connect(chat_id) for _ in range(6)]
    failpoint.disarm()
    # A renewal may find the lease gone before the feed says why.
    assert {peer.closed() for peer in before} <= {(4410, "chat_deleted"), (1012, "reconnect")}
    service.post(chat_id, "still here")
    assert [peer.contents(1) for peer in after] == [["still here"]] * 6
