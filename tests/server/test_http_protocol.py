"""One connection of a worker that has to shut down."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from chat_service.server import http_protocol
from chat_service.server.balance import Counts
from chat_service.server.http_protocol import Http

FIRST = b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n"
SECOND = b"POST /second HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing signals the condition
        await asyncio.sleep(0)


def test_a_request_that_came_before_the_client_could_know_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The previous response's headers had no `Connection: close`: they were sent before the worker had to shut down."""
    monkeypatch.setattr(http_protocol, "counts", Counts())  # of a worker that need not shut down yet

    async def play() -> None:
        may_end = asyncio.Event()
        bodies: list[bytes] = []

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            fields = [(b"content-length", b"2")]
            if scope["path"] == "/second":
                more = True
                while more:
                    message = await receive()
                    bodies.append(message["body"])
                    more = message["more_body"]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": b"ok", "more_body": True})
            if scope["path"] == "/first":
                await may_end.wait()
            await send({"type": "http.response.body", "body": b""})

        config, state = Config(app, log_level="error"), ServerState()
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Http(config=config, server_state=state, app_state={"drain": list}), "127.0.0.1", 0
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(FIRST)
            assert b"close" not in await reader.readuntil(b"ok")
            (connection,) = state.connections
            connection.shutdown()
            writer.write(SECOND + b"bo")
            await until(lambda: connection.pipeline)
            may_end.set()
            await until(lambda: bodies or reader.at_eof())
            writer.write(b"dy")
            rest = await reader.read()
            writer.close()
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in rest
        assert b"".join(bodies) == b"body"

    asyncio.run(asyncio.wait_for(play(), 20))
