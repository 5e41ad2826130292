"""Clients that are too slow, too many, too loud or gone: bounded memory, the right close, and others unharmed."""

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
"""64 in queues, what one batch takes on its way through the feed, and what the allocator keeps of it."""


@pytest.fixture
def small_service(mongod, database, new_tenant) -> Any:
    """A service of one worker that lets few in."""
    caps = {"CONNECTIONS_PER_CHAT": "3", "CONNECTIONS_PER_TENANT": "5", "CONNECTIONS_PER_WORKER": "7"}
    with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1", **caps) as gunicorn:
        service = Service(gunicorn, new_tenant(), database)
        with service.peers:
            yield service


def test_there_may_be_so_many_of_a_chat_a_tenant_and_a_worker(small_service, new_tenant) -> None:
    """1013 too_many_connections; who leaves makes room, and others are not counted along."""
    service, full = small_service, (1013, "too_many_connections")
    chat_id, other = service.chat(), service.chat()
    first = [service.connect(chat_id) for _ in range(3)]
    assert service.connect(chat_id).closed() == full
    first[0].leave()
    wait_until(lambda: service.database.presence.count_documents({}) == 2)
    time.sleep(1)  # the tenant's connections are counted once a second
    stays = [service.connect(chat_id), service.connect(other), service.connect(other)]
    time.sleep(1)
    assert service.connect(other).closed() == full, "the tenant has five"
    neighbour = Service(service.gunicorn, new_tenant(), service.database)
    with neighbour.peers:
        stays += [neighbour.connect(neighbour.chat()) for _ in range(2)]
        assert neighbour.connect(neighbour.chat()).closed() == full, "the worker has seven"
    assert all(peer.is_quiet(0.05) for peer in [*first[1:], *stays[:3]])


def memory(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("query", ["", "?after=0"], ids=["listening", "catching up"])
def test_slow_readers_do_not_fill_the_memory(mongod, database, new_tenant, query) -> None:
    """50 of them, and 200 MiB for their chats; somebody who reads hears everything meanwhile."""
    environment = {"WEB_CONCURRENCY": "1", "MAX_BODY_BYTES": str(8 * MEBIBYTE)}
    with ForkedGunicorn(mongod.uri, free_port(), **environment) as gunicorn:
        service = Service(gunicorn, new_tenant(), database)
        chat_ids = [service.chat() for _ in range(SLOW_CHATS)]
        post = [NewMessage(Role.USER, "x" * 32_000, None, {})] * 64  # 2 MiB
        quiet = service.chat()

        def post_all() -> None:
            for number in range(POSTED_MEBIBYTES // 2):
                Messages(database).append(service.access.tenant_id, chat_ids[number % SLOW_CHATS], post)

        async def squeeze() -> None:
            if query:
                await asyncio.to_thread(post_all)
            good = await Line.open(gunicorn.port, quiet, service.access)
            pid = min(workers_of(gunicorn))
            before = memory(pid)
            paths = [chat_ids[number % SLOW_CHATS] + query for number in range(SLOW_READERS)]
            slow = await together(Line.open(gunicorn.port, path, service.access) for path in paths)
            for line in slow:
                line.writer.transport.pause_reading()
            posting = asyncio.create_task(asyncio.sleep(4) if query else asyncio.to_thread(post_all))
            most, heard = before, 0
            while not posting.done():
                good.post(f"{heard}")
                found = await asyncio.wait_for(good.frame(), 30)
                assert found["message"]["content"] == f"{heard}"
                heard += 1
                most = max(most, memory(pid))
                await asyncio.sleep(0.05)
            await posting
            print(f"{before:.0f} MiB before, {most:.0f} at the most, {heard} messages heard")  # noqa: T201
            for line in [*slow, good]:
                line.hang_up()
            assert most - before < GROWTH_MEBIBYTES

        asyncio.run(squeeze())
        wait_until(lambda: database.presence.count_documents({}) == 0)


class Transport:
    """What a WebSocket writes to, and how it is ended."""

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
        """Nothing is written after."""

    abort = close

    def pause_reading(self) -> None:
        """Nothing comes."""

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
        """There is no application."""
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
    """A WebSocket that was accepted at 0."""
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
    found = WebSocket(config=config, server_state=ServerState(), app_state={}, _loop=clock)
    found.connection_made(transport)
    found.data_received(HANDSHAKE)
    asyncio.run(found.send({"type": "websocket.accept"}))
    transport.written.clear()
    return found, transport, clock


SILENT_SECONDS = PING_SECONDS + PONG_SECONDS
"""After this a client that has answered nothing is given up."""


class TestPings:
    def test_a_silent_client_is_pinged_and_in_the_end_given_up(self, idle) -> None:
        _, transport, clock = idle
        clock.advance_to(PING_SECONDS - 1)
        assert transport.written == b""
        clock.advance_to(PING_SECONDS + 1)
        assert transport.written[:2] == b"\x89\x04"
        clock.advance_to(SILENT_SECONDS - 1)
        assert not transport.is_ended
        clock.advance_to(SILENT_SECONDS + 1)
        assert transport.is_ended

    def test_one_that_answers_lives_on(self, idle) -> None:
        found, transport, clock = idle
        clock.advance_to(PING_SECONDS + 1)
        found.data_received(b"\x8a\x84\0\0\0\0" + transport.written[2:6])
        clock.advance_to(SILENT_SECONDS + 1)
        assert not transport.is_ended

    def test_one_that_talks_and_never_reads_is_given_up(self, idle) -> None:
        """What it says is no answer to a ping, which it never gets to see."""
        found, transport, clock = idle
        for second in range(0, int(SILENT_SECONDS) + 2, 5):
            clock.advance_to(second)
            found.data_received(b"\x8a\x80\0\0\0\0")
        assert transport.is_ended

    def test_one_that_pings_without_end_is_closed(self, idle) -> None:
        """1008: each answer would wait in memory until it is read."""
        found, transport, _ = idle
        found.data_received(b"\x89\x80\0\0\0\0" * (PINGS + 1))
        assert transport.written.endswith(b"\x88\x10" + (1008).to_bytes(2) + b"too_many_pings")

    @pytest.mark.soak
    def test_a_dead_peer_gives_its_lease_up(self, service) -> None:
        """For real: it answers no ping, and its network says nothing."""
        chat_id = service.chat()
        service.connect(chat_id)
        time.sleep(SILENT_SECONDS - 5)
        assert service.send("GET", chat_id).json()["active_connections"] == 1
        wait_until(lambda: service.send("GET", chat_id).json()["active_connections"] == 0, 10)


class TestQueues:
    """What may wait, without a network: nobody takes anything."""

    def socket(self, all_of_them: QueuedTotal) -> Socket:
        async def never(_: object) -> None:
            await asyncio.Event().wait()

        found = Socket(never, all_of_them, TenantAccessOnly, "chat", "connection")
        found.is_open = True
        found.end_catch_up_if_done()
        return found

    def test_one_reader_may_have_its_own_limit_and_all_together_theirs(self, monkeypatch) -> None:
        monkeypatch.setattr(connection, "ALL_QUEUES_BYTES", 10_000)
        monkeypatch.setattr(connection, "SHARE_BYTES", 1_000)

        async def fill() -> None:
            together = QueuedTotal()
            small, large = self.socket(together), self.socket(together)
            small.enqueue("x" * 900)
            large.enqueue("x" * 9_500)
            assert small.sent_close is None
            small.enqueue("x" * 50)
            await asyncio.sleep(0)
            assert small.sent_close is None, "it has less than its share"
            large.enqueue("x")
            await asyncio.sleep(0)
            assert large.sent_close is TOO_SLOW
            await asyncio.sleep(0)
            assert together.size <= 950
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run(fill())


class TenantAccessOnly:
    tenant_id = "t"
    expires_at = None


class TestProtocol:
    """RFC 6455, as bytes."""

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
            "an opcode of nobody",
            "a bit of an extension",
            "the rest of no message",
            "a ping in parts",
            "more than anything",
            "a byte over 64 KiB",
            "half a close code",
            "a close code of nobody",
        ],
    )
    def test_a_frame_that_is_wrong(self, service, sent, code) -> None:
        chat_id = service.chat()
        with service.connect(chat_id) as peer:
            peer.socket.sock.sendall(sent + b"\0" * 100_000)
            assert peer.closed()[0] == code
        wait_until(lambda: service.send("GET", chat_id).json()["active_connections"] == 0)

    def test_messages_in_parts_and_in_a_flood_are_all_heard(self, service) -> None:
        """300 at once, each in two parts: none is lost, they are posted in their order."""
        chat_id = service.chat()
        with service.connect(chat_id) as peer:
            for number in range(300):
                text = f'{{"type": "message.create", "content": "{number}"}}'
                peer.socket.send_frame(websocket.ABNF.create_frame(text[:9], websocket.ABNF.OPCODE_TEXT, 0))
                peer.socket.send_frame(websocket.ABNF.create_frame(text[9:], websocket.ABNF.OPCODE_CONT, 1))
            assert peer.contents(300) == [str(number) for number in range(300)]

    def test_a_close_of_the_clients_is_answered_with_its_code(self, service) -> None:
        with service.connect(service.chat()) as peer:
            peer.socket.send((4_321).to_bytes(2) + b"bye", websocket.ABNF.OPCODE_CLOSE)
            assert peer.closed() == (4321, "bye")
            peer.socket.sock.settimeout(5)
            assert peer.socket.sock.recv(1) == b"", "and then the server hangs up"
