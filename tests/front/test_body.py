"""A body that takes too long to arrive."""

import asyncio
import time
from typing import Any

import pytest
from flask import Flask

from chat_service.front import asgi
from chat_service.front.admission import Admission

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "path": "/api/v1/chats",
    "query_string": b"",
    "headers": [(b"host", b"localhost"), (b"content-length", b"1000")],
}


@pytest.mark.parametrize("either_database", ["mongomock"], indirect=True)
def test_a_body_that_drips_is_not_waited_for(app: Flask, monkeypatch) -> None:
    """Each part comes soon, and all of it never: 408 in the shape of all errors, and no key was looked at."""
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.2)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def play() -> None:
        front = asgi.BodyFirst(app, None, max_body_bytes=2**20, threads=1, admission=Admission(1, lambda: 0.0))
        await asyncio.wait_for(front(dict(SCOPE), receive, send), 5)

    asyncio.run(play())
    assert sent[0]["status"] == 408
    assert b'"code": "request_timeout"' in sent[1]["body"]


@pytest.mark.parametrize("either_database", ["mongomock"], indirect=True)
def test_a_place_is_given_back_whatever_happens(app: Flask) -> None:
    """Requests that cannot be told to WSGI, views that fail, clients that leave: the only thread is free again."""

    def fails(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["QUERY_STRING"] == "fail":
            raise RuntimeError
        if environ["QUERY_STRING"] == "slow":
            time.sleep(0.2)
        return app.wsgi_app(environ, start_response)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: dict[str, Any]) -> None:
        """Nobody looks."""

    async def play() -> None:
        admission = Admission(1, lambda: 0.0)
        front = asgi.BodyFirst(fails, None, max_body_bytes=2**20, threads=1, admission=admission)
        for query in (b"\xff", b"fail", b"slow", b""):
            request = asyncio.ensure_future(front({**SCOPE, "headers": [], "query_string": query}, receive, send))
            await asyncio.sleep(0.05)
            if query == b"slow":
                request.cancel()
            await asyncio.wait([request], timeout=2)
        assert await asyncio.wait_for(admission.enter(time.monotonic() + 20), 2)

    asyncio.run(play())
