"""The shutdown of a process with many open sockets: each gets 1001, and no lease is left behind."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.repository.database import Database
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn
from tests.live.test_shutdown import request
from tests.realtime.line import CLOSE, Closed, Line, RefusedError, together
from tests.realtime.sockets import Service
from tests.wait import wait_until
from tests.workers import workers_of

SOCKETS, CHATS_OF_THEM = 500, 25
EXIT_SECONDS = 10.0


@pytest.fixture
def own(mongod: EmbeddedMongod, database: Database, new_tenant: Callable[..., TenantAccess]) -> Iterator[Service]:
    """A service of two workers, which the test shuts down."""
    with ForkedGunicorn(mongod.uri, free_port()) as gunicorn:
        yield Service(gunicorn, new_tenant(), database)


async def open_all(service: Service, sockets: int = SOCKETS) -> list[Line]:
    chat_ids = [service.chat() for _ in range(CHATS_OF_THEM)]
    port, access = service.gunicorn.port, service.access
    lines = await together(Line.open(port, chat_ids[number % CHATS_OF_THEM], access) for number in range(sockets))
    assert await asyncio.to_thread(service.database.presence.count_documents, {}) == sockets
    return lines


def terminate(service: Service) -> None:
    """Send SIGTERM to the master and all workers, as a platform does."""
    for pid in (service.gunicorn.process.pid, *workers_of(service.gunicorn)):
        os.kill(pid, signal.SIGTERM)


async def end(service: Service, ends: Callable[[Line], object]) -> tuple[list[object], float]:
    """Send SIGTERM; return how each socket ended, as `ends` reports it, and how many seconds the processes took."""
    lines = await open_all(service)
    listening = [asyncio.ensure_future(ends(line)) for line in lines]
    began = time.monotonic()
    await asyncio.to_thread(terminate, service)
    waiting = asyncio.to_thread(service.gunicorn.process.wait, EXIT_SECONDS)
    assert await waiting == 0
    seconds = time.monotonic() - began
    return await asyncio.gather(*listening), seconds


def test_500_sockets_get_1001_and_a_request_in_flight_its_answer(own, slow_commit) -> None:
    """The processes exit in under 10 s, and no presence is left."""
    chat_id = own.chat()
    answers: list[tuple[int, bytes]] = []
    arguments = (own.gunicorn.port, own.access, "DELETE", f"{CHATS}/{chat_id}")
    deleting = threading.Thread(target=lambda: answers.append(request(*arguments)))

    async def ends(line: Line) -> Closed:
        if not deleting.ident:
            has_begun = slow_commit()
            deleting.start()
            has_begun()
        return await line.closed()

    closes, seconds = asyncio.run(end(own, ends))
    print(f"{seconds:.1f} s")  # noqa: T201 - how long it took
    deleting.join()
    assert Counter(closes) == {Closed(1001, "server_shutdown"): SOCKETS}
    assert own.database.presence.count_documents({}) == 0
    assert [status for status, _ in answers] == [200]


def test_clients_that_never_answer_the_close_do_not_delay_the_shutdown(own) -> None:
    """Nor do clients that read nothing at all."""

    async def ends(line: Line) -> bytes | None:
        if id(line) % 2:
            line.writer.transport.pause_reading()
            await asyncio.sleep(EXIT_SECONDS / 2)
            line.hang_up()
            return None
        while True:
            opcode, payload = await line.read()
            if opcode == CLOSE:
                line.writer.close()
                return payload

    payloads, seconds = asyncio.run(end(own, ends))
    print(f"{seconds:.1f} s")  # noqa: T201 - how long it took
    assert {payload for payload in payloads if payload is not None} == {(1001).to_bytes(2) + b"server_shutdown"}
    assert own.database.presence.count_documents({}) == 0


def test_handshakes_under_way_leave_nothing_behind(own) -> None:
    """A process that shuts down opens no connection any more; a handshake under way is refused, or closed with 1001."""
    chat_id = own.chat()

    async def connect_until_refused() -> list[object]:
        closes: list[object] = []
        while True:
            try:
                line = await Line.open(own.gunicorn.port, chat_id, own.access)
            except OSError:
                return closes
            except RefusedError:  # cut off before the answer
                return closes
            closes.append(await line.closed())

    async def storm() -> list[object]:
        connecting = [asyncio.ensure_future(connect_until_refused()) for _ in range(40)]
        await asyncio.to_thread(wait_until, lambda: own.database.presence.count_documents({}) >= 30)
        await asyncio.to_thread(terminate, own)
        assert await asyncio.to_thread(own.gunicorn.process.wait, EXIT_SECONDS) == 0
        return [close for closes in await asyncio.gather(*connecting) for close in closes]

    closes = asyncio.run(storm())
    assert set(closes) <= {Closed(1001, "server_shutdown"), Closed(1006, "")}
    assert Counter(closes)[Closed(1001, "server_shutdown")] >= 30
    assert own.database.presence.count_documents({}) == 0


def test_a_reload_sends_sockets_to_the_new_workers(own) -> None:
    """SIGHUP: each socket of the old workers gets 1001 and can reconnect, and none of the old leases is left."""

    async def reload() -> Counter[object]:
        lines = await open_all(own, 100)
        old_workers = workers_of(own.gunicorn)
        own.gunicorn.process.send_signal(signal.SIGHUP)
        ends = await asyncio.gather(*(line.closed() for line in lines))
        new_lines = [await reconnect() for _ in range(20)]
        await asyncio.to_thread(wait_until, lambda: not old_workers & workers_of(own.gunicorn), 20)
        new_lines = [line if await is_open(line) else await reconnect() for line in new_lines]
        assert await asyncio.to_thread(own.database.presence.count_documents, {}) == 20
        for line in new_lines:
            line.hang_up()
        return Counter(ends)

    async def reconnect() -> Line:
        """Connect until a post is answered; an old worker may still accept a connection, and close it with 1001."""
        while not await is_open(line := await Line.open(own.gunicorn.port, own.chat(), own.access)):
            pass
        return line

    async def is_open(line: Line) -> bool:
        line.post("hello")
        frame = await line.frame()
        assert not isinstance(frame, Closed) or frame == Closed(1001, "server_shutdown")
        return not isinstance(frame, Closed)

    assert asyncio.run(reload()) == {Closed(1001, "server_shutdown"): 100}
    wait_until(lambda: own.database.presence.count_documents({}) == 0)
