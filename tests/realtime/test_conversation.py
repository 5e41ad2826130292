"""Sockets on the running service with its two workers: handshakes, frames and closes."""

import socket
from datetime import timedelta

import pytest
import websocket

from chat_service.models import NewMessage, Role
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.messages import Messages
from tests.client import CHATS, TenantAccess
from tests.realtime.sockets import Peer
from tests.wait import wait_until

UNKNOWN = "11111111-2222-4333-8444-555555555555"


class TestWhoIsLetIn:
    def test_without_a_key_4401(self, service) -> None:
        """A missing key, a wrong one, or two keys, whether the chat exists or not."""
        for path in (service.chat(), UNKNOWN, "no-uuid"):
            for header in ({}, {"X-API-Key": "wrong"}, [f"X-API-Key: {service.access.key}"] * 2):
                with Peer(service.gunicorn, path, header=header) as peer:
                    assert peer.closed() == (4401, "invalid_api_key")

    def test_another_tenants_chat_looks_like_one_that_never_existed(self, service, new_tenant) -> None:
        chat_id = service.chat()
        for path in (chat_id, UNKNOWN):
            with Peer(service.gunicorn, path, new_tenant()) as peer:
                assert peer.closed() == (4404, "chat_not_found")
        assert service.database.presence.count_documents({}) == 0

    def test_an_invalid_id_and_an_invalid_query_4400(self, service) -> None:
        chat_id = service.chat()
        with service.connect("no-uuid") as peer:
            assert peer.closed() == (4400, "invalid_chat_id")
        for query in ("after=x", "after=-1", "after=1&after=2", "what=1"):
            with service.connect(f"{chat_id}?{query}") as peer:
                assert peer.closed() == (4400, "validation_error")
        with service.connect(chat_id.upper()) as peer:
            service.post(chat_id, "hello")
            assert peer.contents(1) == ["hello"]

    def test_a_key_that_may_not_read_4403(self, service, new_tenant) -> None:
        with Peer(service.gunicorn, service.chat(), new_tenant("write", "delete")) as peer:
            assert peer.closed() == (4403, "insufficient_scope")

    def test_a_ticket_opens_one_connection_to_its_chat(self, service) -> None:
        chat_id, other = service.chat(), service.chat()
        answer = service.send("POST", f"{chat_id}/tickets")
        assert answer.status_code == 201
        ticket = answer.json()["ticket"]
        with Peer(service.gunicorn, f"{other}?ticket={ticket}") as peer:
            assert peer.closed() == (4401, "invalid_api_key")
        with Peer(service.gunicorn, f"{chat_id}?ticket={ticket}") as peer:
            peer.create("hello")
            assert peer.contents(1) == ["hello"]
            with Peer(service.gunicorn, f"{chat_id}?ticket={ticket}") as second:
                assert second.closed() == (4401, "invalid_api_key")
        assert service.send("POST", f"{UNKNOWN}/tickets").status_code == 404

    def test_an_expired_ticket_4401(self, service) -> None:
        chat_id = service.chat()
        ticket = service.send("POST", f"{chat_id}/tickets").json()["ticket"]
        expired_at = service.database.now() - timedelta(seconds=5)  # the clocks of processes differ
        service.database.tickets.update_many({}, {"$set": {"expires_at": expired_at}})
        with Peer(service.gunicorn, f"{chat_id}?ticket={ticket}") as peer:
            assert peer.closed() == (4401, "invalid_api_key")

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://"])
    def test_a_page_of_another_origin_403(self, service, origin) -> None:
        """The answer is a problem document, although it comes from the WebSocket server."""
        url = f"ws://127.0.0.1:{service.gunicorn.port}{CHATS}/{service.chat()}/ws"
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            websocket.create_connection(url, 10, header=service.access.headers, origin=origin)
        assert refused.value.status_code == 403
        assert b'"code": "forbidden_origin"' in refused.value.resp_body
        assert refused.value.resp_headers["content-type"] == "application/problem+json"

    def test_a_page_of_our_own_origin_is_welcome(self, service) -> None:
        url = f"ws://127.0.0.1:{service.gunicorn.port}{CHATS}/{service.chat()}/ws"
        origin = f"http://127.0.0.1:{service.gunicorn.port}"
        websocket.create_connection(url, 10, header=service.access.headers, origin=origin).close()

    def test_another_address_404(self, service) -> None:
        for path in ("/", "/api/v1/chats", f"{CHATS}/{UNKNOWN}", f"{CHATS}/{UNKNOWN}/ws/"):
            with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                websocket.create_connection(f"ws://127.0.0.1:{service.gunicorn.port}{path}", 10)
            assert refused.value.status_code == 404
            assert b'"code": "not_found"' in refused.value.resp_body

    def test_over_plain_http_426(self, service) -> None:
        answer = service.send("GET", f"{service.chat()}/ws")
        assert (answer.status_code, answer.headers["Upgrade"]) == (426, "websocket")
        assert answer.json()["code"] == "upgrade_required"


class TestTalk:
    def test_every_socket_of_the_chat_gets_each_message(self, service) -> None:
        """Posted over HTTP or over a socket: both workers send it, in order, and to no other chat."""
        chat_id, other = service.chat("old"), service.chat()
        peers = [service.connect(chat_id) for _ in range(8)]
        stranger = service.connect(other)
        service.post(chat_id, "one", "two")
        peers[0].create("three", role="assistant", sender_id="bot", metadata={"a": 1})
        for peer in peers:
            frames = [peer.frame() for _ in range(3)]
            assert [frame["message"]["seq"] for frame in frames] == [2, 3, 4]
            page = service.send("GET", f"{chat_id}/messages?after=1").json()["items"]
            assert [frame["message"] for frame in frames] == page
        assert stranger.is_quiet()

    def test_only_the_poster_gets_the_client_id_of_its_message(self, service) -> None:
        chat_id = service.chat()
        with service.connect(chat_id) as poster, service.connect(chat_id) as other:
            for number in range(20):
                poster.create(str(number), client_id=f"c{number}")
            assert [poster.frame()["client_id"] for _ in range(20)] == [f"c{number}" for number in range(20)]
            assert all("client_id" not in other.frame() for _ in range(20))

    def test_a_frame_sent_again_is_the_same_message(self, service) -> None:
        """After a reconnect, with the same client_id: the frame is sent back again, and the message is posted once."""
        chat_id = service.chat()
        with service.connect(chat_id) as first:
            first.create("hello", client_id="c")
            posted = first.frame()
        with service.connect(chat_id) as second:
            second.create("hello", client_id="c")
            assert second.frame() == posted
            second.create("something else", client_id="c")
            assert second.frame()["code"] == "idempotency_key_reused"
        assert service.send("GET", chat_id).json()["message_count"] == 1

    def test_after_gives_the_missed_messages_first(self, service) -> None:
        """More missed messages than one read returns, then new ones; an `after` beyond the end skips nothing."""
        chat_id = service.chat(*map(str, range(500)))
        service.send("DELETE", f"{chat_id}/messages/500")
        with service.connect(f"{chat_id}?after=3") as peer:
            assert peer.contents(496) == [str(number) for number in range(3, 499)]
            service.post(chat_id, "new")
            assert peer.contents(1) == ["new"]
        with service.connect(f"{chat_id}?after=999999") as peer:
            service.post(chat_id, "newer")
            assert peer.contents(1) == ["newer"]

    def test_changes_of_the_chat_are_sent(self, service) -> None:
        chat_id = service.chat("one")
        with service.connect(chat_id) as peer:
            service.send("PATCH", chat_id, json={"title": "new"})
            frame = peer.frame()
            assert (frame["type"], frame["chat"]["title"]) == ("chat.updated", "new")
            assert frame["chat"]["active_connections"] == 1
            service.send("PATCH", f"{chat_id}/messages/1", json={"content": "uno"})
            assert peer.frame()["type"] == "chat.updated"

    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            ({"content": ""}, "validation_error"),
            ({"content": "x" * 32_769}, "validation_error"),
            ({"content": "x", "what": 1}, "validation_error"),
            ({"content": "x", "client_id": "with space"}, "validation_error"),
            ({"content": "x", "client_id": 7}, "validation_error"),
            ({}, "validation_error"),
        ],
    )
    def test_wrong_fields_get_an_error_frame_and_the_socket_stays_open(self, service, frame, code) -> None:
        chat_id = service.chat()
        with service.connect(chat_id) as peer:
            peer.send(type="message.create", **{"client_id": "mine", **frame})
            reply = peer.frame()
            assert (reply["type"], reply["code"]) == ("error", code)
            assert reply["errors"]
            assert reply.get("client_id") == (None if "client_id" in frame else "mine")
            peer.create("right")
            assert peer.contents(1) == ["right"]

    def test_a_key_that_may_not_write_can_listen(self, service, database) -> None:
        tenant_id = service.access.tenant_id
        key, record = ApiKeys(database).create(tenant_id, "reader", ["read"])
        chat_id = service.chat()
        with Peer(service.gunicorn, chat_id, TenantAccess(tenant_id, key, record.id)) as peer:
            peer.create("hello")
            assert peer.frame()["code"] == "insufficient_scope"
            service.post(chat_id, "heard")
            assert peer.contents(1) == ["heard"]


class TestHowItEnds:
    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '"x"', "null", '{"type": "message.created"}', '{"type": ["message.create"]}', "\0"]
    )
    def test_a_frame_that_is_no_command_4400(self, service, text) -> None:
        with service.connect(service.chat()) as peer:
            peer.socket.send(text)
            assert peer.closed() == (4400, "bad_frame")

    def test_a_binary_frame_4400(self, service) -> None:
        with service.connect(service.chat()) as peer:
            peer.socket.send_binary(b"{}")
            assert peer.closed() == (4400, "bad_frame")

    def test_a_frame_over_64_kib_1009(self, service) -> None:
        with service.connect(service.chat()) as peer:
            peer.socket.send("x" * (64 * 2**10 + 1))
            assert peer.closed()[0] == 1009

    def test_a_flood_of_pings_1008(self, service) -> None:
        with service.connect(service.chat()) as peer:
            for _ in range(60):
                peer.socket.ping()
            assert peer.closed() == (1008, "too_many_pings")

    def test_a_flood_of_fragments_1009(self, service) -> None:
        with service.connect(service.chat()) as peer:
            abnf = websocket.ABNF
            peer.socket.send_frame(abnf.create_frame("{", abnf.OPCODE_TEXT, 0))
            for _ in range(1_030):
                peer.socket.send_frame(abnf.create_frame("", abnf.OPCODE_CONT, 0))
            assert peer.closed() == (1009, "too_many_fragments")

    def test_a_delete_is_refused_while_a_socket_is_open(self, service) -> None:
        chat_id = service.chat("kept")
        with service.connect(chat_id), service.connect(chat_id):
            answer = service.send("DELETE", chat_id)
            assert (answer.status_code, answer.json()["active_connections"]) == (409, 2)
            assert int(answer.headers["Retry-After"]) > 0
            assert service.send("GET", chat_id).json()["active_connections"] == 2
            connections = service.send("GET", f"{chat_id}/connections").json()["items"]
            assert len(connections) == 2
        wait_until(lambda: service.send("DELETE", chat_id).status_code == 200)

    def test_evict_closes_every_socket_4410_and_deletes(self, service) -> None:
        chat_id = service.chat("gone")
        peers = [service.connect(chat_id) for _ in range(6)]
        answer = service.send("DELETE", f"{chat_id}?on_active=evict")
        assert (answer.status_code, answer.json()["success"]) == (200, True)
        for peer in peers:
            assert peer.frame() == {"type": "chat.deleted", "chat_id": chat_id}
            assert peer.closed() == (4410, "chat_deleted")
        assert service.database.presence.count_documents({}) == 0
        with service.connect(chat_id) as late:
            assert late.closed() == (4404, "chat_not_found")

    def test_a_revoked_key_4401(self, service, database) -> None:
        """The key's sockets are closed within a second, and no other key's."""
        chat_id = service.chat()
        key, record = ApiKeys(database).create(service.access.tenant_id, "other", ["read", "write"])
        with (
            service.connect(chat_id) as peer,
            Peer(service.gunicorn, chat_id, TenantAccess(service.access.tenant_id, key, record.id)) as second,
        ):
            ApiKeys(database).revoke(service.access.tenant_id, service.access.key_id)
            assert peer.closed() == (4401, "invalid_api_key")
            second.create("still here")
            assert second.contents(1) == ["still here"]

    def test_a_client_that_leaves_without_a_close_gives_its_lease_up(self, service) -> None:
        chat_id = service.chat()
        peer = service.connect(chat_id)
        peer.leave()
        wait_until(lambda: service.send("GET", chat_id).json()["active_connections"] == 0)

    def test_a_client_that_reads_nothing_1013(self, service) -> None:
        """It does not delay the chat's other clients, and its lease is given up."""
        chat_id = service.chat()
        service.connect(chat_id, sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])  # and never reads
        reader = service.connect(chat_id)
        batch = [NewMessage(Role.USER, "x" * 30_000, None, {})] * 30

        def is_closed() -> bool:
            Messages(service.database).append(service.access.tenant_id, chat_id, batch)
            assert len(reader.contents(30)) == 30
            return bool(service.send("GET", chat_id).json()["active_connections"] == 1)

        wait_until(is_closed, 60)
