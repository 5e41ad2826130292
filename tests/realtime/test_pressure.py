"""Clients that are too slow, too many, too loud or gone: memory is bounded, closes are right, others are unaffected."""

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import websocket
from uvicorn.config import Config
from uvicorn.server import ServerState

from chat_service.embedded.process import free_port
from chat_service.models import NewMessage, Role
from chat_service.realtime import connection
from chat_service.realtime.closing import TOO_SLOW
from chat_service.realtime.connection import QueuedTotal, Socket
from chat_service.repository.messages import Messages
from chat_service.server.websocket_protocol import PING_SECONDS, PINGS, PONG_SECONDS, WebSocket
from tests.forked import ForkedGunicorn
from tests.realtime.line import Line, together
from tests.realtime.sockets import Service
from tests.wait import wait_until
from tests.workers import workers_of

SLOW_READERS, SLOW_CHATS = 50, 10
MEBIBYTE = 2**20
POSTED_MEBIBYTES = 200
GROWTH_MEBIBYTES = 160
"""64 in queues, plus what one batch takes on its way through the feed and what the allocator keeps of that."""


@pytest.fixture
def small_service(mongod, database, new_tenant) -> Any:
    """A service of one worker with low caps on connections."""
    caps = {"CONNECTIONS_PER_CHAT": "3", "CONNECTIONS_PER_TENANT": "5", "CONNECTIONS_PER_WORKER": "7"}
    with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1", **caps) as gunicorn:
        service = Service(gunicorn, new_tenant(), database)
        with service.peers:
            yield service


def test_the_connections_of_a_chat_a_tenant_and_a_worker_are_capped(small_service, new_tenant) -> None:
    """1013 too_many_connections. A client that leaves makes room; other chats and tenants are counted separately."""
    service, full = small_service, (1013, "too_many_connections")
    chat_id, other = service.chat(), service.chat()
    first = [service.connect(chat_id) for _ in range(3)]
    assert service.connect(chat_id).closed() == full
    first[0].leave()
    wait_until(lambda: service.database.presence.count_documents({}) == 2)
    time.sleep(1)  # the tenant's connections are counted once a second
    others = [service.connect(chat_id), service.connect(other), service.connect(other)]
    time.sleep(1)
    assert service.connect(other).closed() == full, "the tenant has five"
    neighbour = Service(service.gunicorn, new_tenant(), service.database)
    with neighbour.peers:
        others += [neighbour.connect(neighbour.chat()) for _ in range(2)]
        assert neighbour.connect(neighbour.chat()).closed() == full, "the worker has seven"
    assert all(peer.is_quiet(0.05) for peer in [*first[1:], *others[:3]])


def memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("query", ["", "?after=0"], ids=["listening", "catching up"])
def test_slow_readers_do_not_fill_the_memory(mongod, database, new_tenant, query) -> None:
    """50 slow readers, and 200 MiB for their chats; a client that reads gets everything in the meantime."""
    environment = {"WEB_CONCURRENCY": "1", "MAX_BODY_BYTES": str(8 * MEBIBYTE)}
    with ForkedGunicorn(mongod.uri, free_port(), **environment) as gunicorn:
        service = Service(gunicorn, new_tenant(), database)
        chat_ids = [service.chat() for _ in range(SLOW_CHATS)]
        batch = [NewMessage(Role.USER, "x" * 32_000, None, {})] * 64  # 2 MiB
        quiet_chat_id = service.chat()

        def post_all() -> None:
            for number in range(POSTED_MEBIBYTES // 2):
                Messages(database).append(service.access.tenant_id, chat_ids[number % SLOW_CHATS], batch)

        async def squeeze() -> None:
            if query:
                await asyncio.to_thread(post_all)
            reader = await Line.open(gunicorn.port, quiet_chat_id, service.access)
            pid = min(workers_of(gunicorn))
            memory_before = memory(pid)
            paths = [chat_ids[number % SLOW_CHATS] + query for number in range(SLOW_READERS)]
            slow = await together(Line.open(gunicorn.port, path, service.access) for path in paths)
            for line in slow:
                line.writer.transport.pause_reading()
            posting = asyncio.create_task(asyncio.sleep(4) if query else asyncio.to_thread(post_all))
            peak, received = memory_before, 0
            while not posting.done():
                reader.post(f"{received}")
                frame = await asyncio.wait_for(reader.frame(), 30)
                assert frame["message"]["content"] == f"{received}"
                received += 1
                peak = max(peak, memory(pid))
                await asyncio.sleep(0.05)
            await posting
            print(f"{memory_before:.0f} MiB before, {peak:.0f} at the most, {received} messages received")  # noqa: T201
            for line in [*slow, reader]:
                line.hang_up()
            assert peak - memory_before < GROWTH_MEBIBYTES

        asyncio.run(squeeze())
        wait_until(lambda: database.presence.count_documents({}) == 0)


class Transport:
    """The transport of a WebSocket, which keeps what is written to it, and whether it was closed."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_ended = False

    def get_extra_info(self, _: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_ended

    def close(self) -> None:
        self.is_ended = True

    def write_eof(self) -> None:
        """Do nothing: the test needs no end of the stream."""

    abort = close

    def pause_reading(self) -> None:
        """Do nothing: the test delivers the bytes."""

    resume_reading = pause_reading


class Clock:
    """The timers of an event loop, run by the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self._loop = asyncio.new_event_loop()
        self._loop.close()
        self._timers: list[tuple[float, asyncio.TimerHandle, Any]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, function: Any, *arguments: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(0, function, arguments, self._loop)
        self._timers.append((self.now + seconds, handle, partial(function, *arguments)))
        return handle

    def create_task(self, work: Any) -> "asyncio.Future[None]":
        """Drop the work: there is no application."""
        work.close()
        return asyncio.Future(loop=self._loop)

    def advance_to(self, now: float) -> None:
        while due := sorted((timer for timer in self._timers if timer[0] <= now), key=lambda timer: timer[0]):
            self.now = due[0][0]
            self._timers.remove(due[0])
            if not due[0][1].cancelled():
                due[0][2]()
        self.now = now


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
def idle() -> tuple[WebSocket, Transport, Clock]:
    """A WebSocket that was accepted at the time 0, with its transport and its clock."""
    transport, clock = Transport(), Clock()
    config = Config(
        None,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        ws_per_message_deflate=False,
        interface="asgi3",
        lifespan="off",
    )
    config.loaded, config.loaded_app = True, None
    protocol = WebSocket(config=config, server_state=ServerState(), app_state={}, _loop=clock)
    protocol.connection_made(transport)
    protocol.data_received(HANDSHAKE)
    asyncio.run(protocol.send({"type": "websocket.accept"}))
    transport.written.clear()
    return protocol, transport, clock


SILENT_SECONDS = PING_SECONDS + PONG_SECONDS
"""After this time the connection of a client that has answered nothing is closed."""


class TestPings:
    def test_a_silent_client_is_pinged_and_then_closed(self, idle) -> None:
        _, transport, clock = idle
        clock.advance_to(PING_SECONDS - 1)
        assert transport.written == b""
        clock.advance_to(PING_SECONDS + 1)
        assert transport.written[:2] == b"\x89\x04"
        clock.advance_to(SILENT_SECONDS - 1)
        assert not transport.is_ended
        clock.advance_to(SILENT_SECONDS + 1)
        assert transport.is_ended

    def test_a_client_that_answers_stays_connected(self, idle) -> None:
        protocol, transport, clock = idle
        clock.advance_to(PING_SECONDS + 1)
        protocol.data_received(b"\x8a\x84\0\0\0\0" + transport.written[2:6])
        clock.advance_to(SILENT_SECONDS + 1)
        assert not transport.is_ended

    def test_a_client_that_sends_and_never_reads_is_closed(self, idle) -> None:
        """Pongs that answer no ping do not keep it alive."""
        protocol, transport, clock = idle
        for second in range(0, int(SILENT_SECONDS) + 2, 5):
            clock.advance_to(second)
            protocol.data_received(b"\x8a\x80\0\0\0\0")
        assert transport.is_ended

    def test_a_client_that_pings_without_end_is_closed(self, idle) -> None:
        """1008: each pong would wait in memory until the client reads it."""
        protocol, transport, _ = idle
        protocol.data_received(b"\x89\x80\0\0\0\0" * (PINGS + 1))
        assert transport.written.endswith(b"\x88\x10" + (1008).to_bytes(2) + b"too_many_pings")

    @pytest.mark.soak
    def test_a_dead_peer_gives_its_lease_up(self, service) -> None:
        """In real time: the peer answers no ping, and no TCP error tells that it is gone."""
        chat_id = service.chat()
        service.connect(chat_id)
        time.sleep(SILENT_SECONDS - 5)
        assert service.send("GET", chat_id).json()["active_connections"] == 1
        wait_until(lambda: service.send("GET", chat_id).json()["active_connections"] == 0, 10)


class TestQueues:
    """The limits of what may wait to be sent. There is no network, and nothing is ever sent."""

    def socket(self, total: QueuedTotal) -> Socket:
        async def never(_: object) -> None:
            await asyncio.Event().wait()

        socket = Socket(never, total, TenantAccessOnly, "chat", "connection")
        socket.is_open = True
        socket.end_catch_up_if_done()
        return socket

    def test_a_full_total_closes_only_a_socket_beyond_its_share(self, monkeypatch) -> None:
        monkeypatch.setattr(connection, "ALL_QUEUES_BYTES", 10_000)
        monkeypatch.setattr(connection, "SHARE_BYTES", 1_000)

        async def fill() -> None:
            total = QueuedTotal()
            small, large = self.socket(total), self.socket(total)
            small.enqueue("x" * 900)
            large.enqueue("x" * 9_500)
            assert small.sent_close is None
            small.enqueue("x" * 50)
            await asyncio.sleep(0)
            assert small.sent_close is None, "its queue is smaller than its share"
            large.enqueue("x")
            await asyncio.sleep(0)
            assert large.sent_close is TOO_SLOW
            await asyncio.sleep(0)
            assert total.size <= 950
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run(fill())


class TenantAccessOnly:
    """The part of an access that a socket needs."""

    tenant_id = "t"
    expires_at = None


class TestProtocol:
    """RFC 6455, byte by byte."""

    @pytest.mark.parametrize(
        ("sent", "code"),
        [
            (b"\x81\x01x", 1002),
            (b"\x81\x82\0\0\0\0\xff\xff", 1007),
            (b"\x83\x80\0\0\0\0", 1002),
            (b"\xc1\x80\0\0\0\0", 1002),
            (b"\x80\x80\0\0\0\0", 1002),
            (b"\x09\x80\0\0\0\0", 1002),
            (b"\x81\xff" + (2**62).to_bytes(8) + b"\0\0\0\0", 1009),
            (b"\x81\xff" + (65_537).to_bytes(8) + b"\0\0\0\0", 1009),
            (b"\x88\x81\0\0\0\0x", 1002),
            (b"\x88\x82\0\0\0\0\x03\xee", 1002),
        ],
        ids=[
            "not masked",
            "not UTF-8",
            "an unknown opcode",
            "an extension bit",
            "a continuation of no message",
            "a fragmented ping",
            "2^62 bytes",
            "one byte over 64 KiB",
            "half a close code",
            "an invalid close code",
        ],
    )
    def test_a_wrong_frame_is_closed_with_its_code(self, service, sent, code) -> None:
        chat_id = service.chat()
        with service.connect(chat_id) as peer:
            peer.socket.sock.sendall(sent + b"\0" * 100_000)
            assert peer.closed()[0] == code
        wait_until(lambda: service.send("GET", chat_id).json()["active_connections"] == 0)

    def test_fragmented_messages_in_a_flood_are_all_posted(self, service) -> None:
        """300 at once, each in two fragments: none is lost, and they are posted in order."""
        chat_id = service.chat()
        with service.connect(chat_id) as peer:
            for number in range(300):
                text = f'{{"type": "message.create", "content": "{number}"}}'
                peer.socket.send_frame(websocket.ABNF.create_frame(text[:9], websocket.ABNF.OPCODE_TEXT, 0))
                peer.socket.send_frame(websocket.ABNF.create_frame(text[9:], websocket.ABNF.OPCODE_CONT, 1))
            assert peer.contents(300) == [str(number) for number in range(300)]

    def test_a_clients_close_is_answered_with_its_code(self, service) -> None:
        with service.connect(service.chat()) as peer:
            peer.socket.send((4_321).to_bytes(2) + b"bye", websocket.ABNF.OPCODE_CLOSE)
            assert peer.closed() == (4321, "bye")
            peer.socket.sock.settimeout(5)
            assert peer.socket.sock.recv(1) == b"", "and then the server hangs up"
