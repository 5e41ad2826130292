"""What uvicorn calls for each connection: WebSockets go to realtime/, requests to the WSGI application.

The way of a request: its head tells the tenant; its body is read whole (bodies.py); it gets a place among those that
are worked on (admission.py); a thread answers it (bridge.py). A body without a good key is never read.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable

from werkzeug.exceptions import RequestTimeout

from chat_service.api.auth import API_PREFIX, CALLER
from chat_service.api.log import IS_FULL, PATH, waiting_for
from chat_service.api.refusals import REFUSAL
from chat_service.errors import DatabaseUnavailableError, TooManyListenersError, TooMuchUnreadError
from chat_service.models import Caller, Kind
from chat_service.realtime.endpoint import Sockets
from chat_service.realtime.log_feed import LogFeed
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.deadline import set_deadline
from chat_service.server.admission import Admission, Weight, weigh
from chat_service.server.bodies import Bodies, attach, length_of
from chat_service.server.bridge import Bridge, Environ, Receive, ResponseCutError, Scope, Send, WsgiApp, environ_of
from chat_service.server.deadlines import deadline_of
from chat_service.server.threads import Threads

EXPRESS_THREADS = 4
"""For what asks nobody: health and refusals, however busy the service is. A readiness probe may hold one for a second,
until the outage it looks for is known."""

FRESH_SECONDS = 0.5
"""How old the answer to whose key this is may be when the request is worked on; beyond it, it is asked for again."""


class Application:
    """An ASGI application over the service's WSGI application and its sockets."""

    def __init__(  # noqa: PLR0913 - what it is put together from, in asgi.py
        self,
        app: WsgiApp,
        sockets: Sockets,
        log_feed: LogFeed,
        keys: ApiKeys,
        admission: Admission,
        *,
        threads: int,
        max_body_bytes: int,
        max_import_bytes: int,
        end: Callable[[], object] = lambda: None,
    ) -> None:
        """Work on up to `threads` requests at once, each with a body of up to as many bytes as its kind may have.

        `end()` is called once there are no more, before the process ends.
        """
        self._end = end
        self._sockets = sockets
        self._log_feed = log_feed
        self._keys = keys
        self._admission = admission
        self._bodies = Bodies(max_body_bytes, max_import_bytes)
        self._threads = Threads(threads, "request")
        self._express = Threads(EXPRESS_THREADS, "express")
        self._bridge = Bridge(app, Threads(max(threads // 2, 1), "stream"), log_feed.stream)
        self._draining: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, one WebSocket, or the life of the process."""
        match scope["type"]:
            case "lifespan":
                await self._live(scope, receive, send)
            case "websocket":
                await self._sockets(scope, receive, send)
            case _:
                await self._serve(environ_of(scope), receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["state"]["drain"] = self.drain
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.drain()
        await self._express.run(self._end)
        await send({"type": "lifespan.shutdown.complete"})

    def drain(self) -> "asyncio.Task[None]":
        """Close every WebSocket and stream, because the process ends; requests end by themselves."""
        self._log_feed.end()
        if self._draining is None:
            self._draining = asyncio.create_task(self._sockets.drain())
        return self._draining

    async def _serve(self, environ: Environ, receive: Receive, send: Send) -> None:
        if not ("/" + environ["PATH_INFO"].lstrip("/")).startswith(API_PREFIX):
            await self._bridge.answer(environ, receive, send, self._express)
            return
        try:
            await self._serve_tenant(environ, receive, send)
        except TimeoutError:
            await self._refuse(RequestTimeout(), environ, receive, send)
        except ResponseCutError:
            raise
        except Exception as error:  # noqa: BLE001 - a refusal, or a bug, which is logged and answered like one of the views
            await self._refuse(error, environ, receive, send)

    async def _serve_tenant(self, environ: Environ, receive: Receive, send: Send) -> None:
        """Answer a request that needs a key.

        Raises:
            TimeoutError: its body did not arrive in time.
            ChatServiceError: it is refused, and nothing was done.
        """
        key = environ.get("HTTP_X_API_KEY", "")
        end = deadline_of(environ.get("HTTP_X_REQUEST_START"))
        caller, tenant_id = self._keys.recall(key)
        waiting = waiting_for(environ)
        if caller is None and (length_of(environ) != 0 or waiting):
            caller = await self._authenticate(key, tenant_id, end)
            tenant_id = caller.tenant_id
        if waiting and caller is not None:
            end += await self._wait(caller, *waiting)
        if environ["PATH_INFO"] == PATH and tenant_id is not None and self._log_feed.is_full_for(tenant_id):
            environ[IS_FULL] = True
        asked_at = time.monotonic()
        reading = self._bodies.read(environ, receive, tenant_id or "")
        async with reading as body:
            if body is None:  # the client left before it had sent everything: there is nobody to answer
                return
            end += reading.seconds  # a router's clock stands still while it passes the body on
            weight = weigh(environ["PATH_INFO"], attach(environ, body))
            place = await self._admission.enter(tenant_id, weight, end)
            if place is None:
                raise DatabaseUnavailableError
            # Only now: while this one waited for its place, others may have made answers that nobody takes.
            if environ["REQUEST_METHOD"] == "GET" and tenant_id and self._bridge.has_too_much_unread(tenant_id):
                place.leave()
                raise TooMuchUnreadError
            # From here to the thread nothing may fail: the place is given back when the thread is done.
            if time.monotonic() - asked_at < FRESH_SECONDS:
                environ[CALLER] = caller
            set_deadline(end)
            await self._bridge.answer(
                environ, receive, send, self._threads, tenant_id=tenant_id or "", on_first_part=place.leave
            )

    async def _wait(self, caller: Caller, after: int, kind: Kind | None, seconds: int) -> float:
        """Hold a request until the log has what it waits for; return how many seconds that took.

        Raises:
            TooManyListenersError: as many wait as may.
            ChatServiceError: the database did not answer.
        """
        if self._log_feed.is_full_for(caller.tenant_id):
            raise TooManyListenersError
        began = time.monotonic()
        await self._log_feed.wait(caller.tenant_id, after, kind, seconds)
        return time.monotonic() - began

    async def _authenticate(self, key: str, tenant_id: str | None, end: float) -> Caller:
        """Return whose key it is, in a thread that may ask the database.

        Raises:
            InvalidApiKeyError: it is not a good one.
            DatabaseUnavailableError: nobody could be asked.
        """
        place = await self._admission.enter(tenant_id, Weight.LIGHT, end)
        if place is None:
            raise DatabaseUnavailableError
        set_deadline(end)
        asking = self._threads.run(contextvars.copy_context().run, self._keys.authenticate, key)
        asking.add_done_callback(lambda _: place.leave())
        return await asyncio.shield(asking)

    async def _refuse(self, error: Exception, environ: Environ, receive: Receive, send: Send) -> None:
        environ[REFUSAL] = error
        await self._bridge.answer(environ, receive, send, self._express)
