"""A body that takes too long to arrive."""

import asyncio
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
        front = asgi.BodyFirst(app, max_body_bytes=2**20, threads=1, admission=Admission(1, lambda: 0.0))
        await asyncio.wait_for(front(dict(SCOPE), receive, send), 5)

    asyncio.run(play())
    assert sent[0]["status"] == 408
    assert b'"code": "request_timeout"' in sent[1]["body"]
