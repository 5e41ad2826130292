"""`Application`: slow bodies, bodies without a valid key, released places, unread responses, and the bodies' budget."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from flask import Flask

from chat_service.api.context import Repositories
from chat_service.realtime.log_feed import LogFeed
from chat_service.server import bodies, deadlines
from chat_service.server.admission import Admission, Weight
from chat_service.server.application import Application
from chat_service.server.bodies import Budget
from chat_service.server.bridge import TENANT_UNREAD_BYTES, Bridge, environ_of
from chat_service.server.threads import Threads

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "path": "/api/v1/chats",
    "query_string": b"",
    "headers": [(b"host", b"localhost"), (b"content-length", b"1000")],
}


async def never(_: Any) -> AsyncIterator[bytes]:
    """Yield nothing after a response."""
    return
    yield


async def ignore(_: dict[str, Any]) -> None:
    """Drop an ASGI message."""


def serving(app: Flask, wsgi: Any = None, admission: Admission | None = None, threads: int = 1) -> Application:
    keys = Repositories.of(app.extensions).keys
    admission = admission or Admission(1, lambda: 0.0)
    sizes = {"max_body_bytes": 2**20, "max_import_bytes": 2**22}
    feed = LogFeed(Repositories.of(app.extensions).log, keys, Threads(1, "log").run, 10, 10)
    return Application(wsgi or app, None, feed, keys, admission, threads=threads, **sizes)


@pytest.mark.parametrize("either_database", ["mongomock"], indirect=True)
def test_a_body_that_drips_is_not_waited_for(app: Flask, alice, monkeypatch) -> None:
    """Each part arrives soon but the body never ends: the client gets 408 in the format of all errors."""
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [*SCOPE["headers"], (b"x-api-key", alice.access.key.encode())]
    asyncio.run(asyncio.wait_for(serving(app)({**SCOPE, "headers": headers}, receive, send), 5))
    assert sent[0]["status"] == 408
    assert b'"code": "request_timeout"' in sent[1]["body"]


@pytest.mark.parametrize("either_database", ["mongomock"], indirect=True)
def test_a_body_that_comes_slowly_takes_nothing_of_its_answers_time(app: Flask, alice, monkeypatch) -> None:
    """The time for the response counts from the end of the body, as a router's timeout does."""
    monkeypatch.setattr(deadlines, "ANSWER_SECONDS", deadlines.AFTERWARDS_SECONDS + 0.5)
    sent: list[dict[str, Any]] = []
    parts = [(0.2, b"{"), (0.2, b" "), (0.2, b" "), (0.2, b"}")]

    async def receive() -> dict[str, Any]:
        seconds, part = parts.pop(0)
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"4"), (b"content-type", b"application/json")]
    headers.append((b"x-api-key", alice.access.key.encode()))
    asyncio.run(asyncio.wait_for(serving(app)({**SCOPE, "headers": headers}, receive, send), 5))
    assert sent[0]["status"] == 201


@pytest.mark.parametrize("either_database", ["mongomock"], indirect=True)
@pytest.mark.parametrize("key", [[], [(b"x-api-key", b"wrong")], [(b"x-api-key", b"k" * 300)]])
def test_a_body_without_a_good_key_is_refused_before_it_is_read(app: Flask, key) -> None:
    sent: list[dict[str, Any]] = []

    async def never() -> dict[str, Any]:
        raise AssertionError("somebody asks for the body")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(asyncio.wait_for(serving(app)({**SCOPE, "headers": [*SCOPE["headers"], *key]}, never, send), 5))
    assert sent[0]["status"] == 401
    assert b'"code": "invalid_api_key"' in sent[1]["body"]


@pytest.mark.parametrize("either_database", ["mongomock"], indirect=True)
def test_a_place_is_given_back_whatever_happens(app: Flask) -> None:
    """The only place is free again after a query that WSGI cannot express, a view that fails, a client that leaves."""

    def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["QUERY_STRING"] == "fail":
            raise RuntimeError
        if environ["QUERY_STRING"] == "slow":
            time.sleep(0.2)
        return app.wsgi_app(environ, start_response)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def play() -> None:
        admission = Admission(1, lambda: 0.0)
        application = serving(app, wsgi, admission)
        for query in (b"\xff", b"fail", b"slow", b""):
            request = asyncio.ensure_future(
                application({**SCOPE, "headers": [], "query_string": query}, receive, ignore)
            )
            await asyncio.sleep(0.05)
            if query == b"slow":
                request.cancel()
            await asyncio.wait([request], timeout=2)
        assert await asyncio.wait_for(admission.enter("tenant", Weight.LIGHT, time.monotonic() + 20), 2)

    asyncio.run(play())


def test_an_application_that_fails_before_its_answer_is_answered_for() -> None:
    """The client gets 500 in the format of all errors, and none of the exception's text."""
    sent: list[dict[str, Any]] = []

    def fails(_environ: dict[str, Any], _start_response: Any) -> Any:
        raise RuntimeError("a secret")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def play() -> None:
        threads = Threads(1, "test")
        await Bridge(fails, threads, never).answer(environ_of({**SCOPE, "headers": []}), ignore, send, threads)

    asyncio.run(play())
    assert sent[0]["status"] == 500
    assert b'"code": "internal_error"' in sent[1]["body"]
    assert b"secret" not in sent[1]["body"]


@pytest.mark.parametrize("either_database", ["mongomock"], indirect=True)
def test_who_has_much_unread_gets_no_more_before_it_is_read(app: Flask, alice, bob) -> None:
    """A tenant whose clients do not read gets 429, another one 200; and the first gets 200 once its clients read."""
    page = b"x" * 2**20
    readers = TENANT_UNREAD_BYTES // len(page) + 1

    def answers_with_a_page(environ: dict[str, Any], start_response: Any) -> Any:
        if "/page" not in environ["PATH_INFO"]:
            return app.wsgi_app(environ, start_response)
        start_response("200 OK", [])
        return [page]

    async def play() -> None:
        application = serving(app, answers_with_a_page, Admission(4, lambda: 0.0), threads=4)
        may_read = asyncio.Event()

        async def slow_send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                await may_read.wait()

        async def get(caller: Any, path: str, send: Any) -> None:
            headers = [(b"host", b"localhost"), (b"x-api-key", caller.access.key.encode())]
            await application({**SCOPE, "method": "GET", "path": path, "headers": headers}, ignore, send)

        async def status(caller: Any) -> int:
            sent: list[dict[str, Any]] = []

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            await get(caller, "/api/v1/chats", send)
            return sent[0]["status"]

        assert await status(alice) == await status(bob) == 200
        waiting = [asyncio.ensure_future(get(alice, "/api/v1/page", slow_send)) for _ in range(readers)]
        while await status(alice) == 200:
            pass  # some of the pages are not made yet
        assert (await status(alice), await status(bob)) == (429, 200)
        may_read.set()
        await asyncio.gather(*waiting)
        assert await status(alice) == 200

    asyncio.run(asyncio.wait_for(play(), 60))


class TestBudget:
    """The memory that the request bodies of a process may take, and each tenant's share of it."""

    def test_a_tenant_beyond_its_share_waits_for_its_own_only(self) -> None:
        async def play() -> None:
            budget = Budget(total=100, share=40)
            await budget.reserve("a", 30)
            waiting = asyncio.ensure_future(budget.reserve("a", 20))
            await asyncio.wait_for(budget.reserve("b", 40), 1)
            assert not waiting.done()
            budget.release("a", 30)
            await asyncio.wait_for(waiting, 1)

        asyncio.run(play())

    def test_all_tenants_together_have_a_limit_and_who_leaves_waits_no_more(self) -> None:
        async def play() -> None:
            budget = Budget(total=100, share=40)
            for tenant in "abc":
                await budget.reserve(tenant, 30)
            leaves, stays = (asyncio.ensure_future(budget.reserve(tenant, 20)) for tenant in "de")
            await asyncio.sleep(0)
            leaves.cancel()
            budget.release("a", 30)
            await asyncio.wait_for(stays, 1)
            assert leaves.cancelled()
            await asyncio.wait_for(budget.reserve("f", 20), 1)

        asyncio.run(play())
