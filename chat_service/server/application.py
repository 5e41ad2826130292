"""The ASGI application that uvicorn calls: WebSockets go to realtime/, requests to the WSGI application.

A request goes this way: its head names the tenant; its body is read whole (bodies.py); it waits for a place
(admission.py); a thread answers it (bridge.py). Without a valid key its body is never read.
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
"""For refusals and for paths outside the API, health among them: answered however busy the service is. A readiness
probe may hold one thread for a second, until the outage it looks for is known."""

FRESH_SECONDS = 0.5
"""How old the authentication of a key may be when its request runs. An older one is repeated."""


class Application:
    """An ASGI application that consists of the service's WSGI application and its WebSockets."""

    def __init__(  # noqa: PLR0913 - its parts, which asgi.py puts together
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
        """Run up to `threads` requests at once. A body may have `max_body_bytes`, that of an import `max_import_bytes`.

        `end()` is called after the last request, before the process ends.
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
        """Serve one request, one WebSocket, or the lifespan of the process."""
        match scope["type"]:
            case "lifespan":
                await self._serve_lifespan(scope, receive, send)
            case "websocket":
                await self._sockets(scope, receive, send)
            case _:
                await self._serve(environ_of(scope), receive, send)

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["state"]["drain"] = self.drain
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.drain()
        await self._express.run(self._end)
        await send({"type": "lifespan.shutdown.complete"})

    def drain(self) -> "asyncio.Task[None]":
        """Close every WebSocket and stream, because the process ends. Requests in flight finish by themselves."""
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
        except Exception as error:  # noqa: BLE001 - a refusal, or a bug: logged and answered like a view's
            await self._refuse(error, environ, receive, send)

    async def _serve_tenant(self, environ: Environ, receive: Receive, send: Send) -> None:
        """Answer a request that needs a key.

        Raises:
            TimeoutError: its body did not arrive in time.
            ChatServiceError: the request is refused, and nothing was done.
        """
        key = environ.get("HTTP_X_API_KEY", "")
        deadline = deadline_of(environ.get("HTTP_X_REQUEST_START"))
        caller, tenant_id = self._keys.recall(key)
        long_poll = waiting_for(environ)
        if caller is None and (length_of(environ) != 0 or long_poll):
            caller = await self._authenticate(key, tenant_id, deadline)
            tenant_id = caller.tenant_id
        if long_poll and caller is not None:
            deadline += await self._wait_for_log(caller, *long_poll)
        if environ["PATH_INFO"] == PATH and tenant_id is not None and self._log_feed.is_full_for(tenant_id):
            environ[IS_FULL] = True
        authenticated_at = time.monotonic()
        reading = self._bodies.read(environ, receive, tenant_id or "")
        async with reading as body:
            if body is None:  # the client disconnected while it was sending: there is nobody to answer
                return
            deadline += reading.seconds  # a router's timeout does not run while it forwards the body
            weight = weigh(environ["PATH_INFO"], attach(environ, body))
            place = await self._admission.enter(tenant_id, weight, deadline)
            if place is None:
                raise DatabaseUnavailableError
            # Only now: while this request waited, the responses of others may have piled up unread.
            if environ["REQUEST_METHOD"] == "GET" and tenant_id and self._bridge.has_too_much_unread(tenant_id):
                place.leave()
                raise TooMuchUnreadError
            # Nothing may fail between here and the thread: only the end of the thread gives the place back.
            if time.monotonic() - authenticated_at < FRESH_SECONDS:
                environ[CALLER] = caller
            set_deadline(deadline)
            await self._bridge.answer(
                environ, receive, send, self._threads, tenant_id=tenant_id or "", on_first_part=place.leave
            )

    async def _wait_for_log(self, caller: Caller, after: int, kind: Kind | None, seconds: int) -> float:
        """Wait until the log has what the request asks for; return how many seconds that took.

        Raises:
            TooManyListenersError: the tenant, or this process, has as many listeners as it may.
            ChatServiceError: the database did not answer.
        """
        if self._log_feed.is_full_for(caller.tenant_id):
            raise TooManyListenersError
        began = time.monotonic()
        await self._log_feed.wait(caller.tenant_id, after, kind, seconds)
        return time.monotonic() - began

    async def _authenticate(self, key: str, tenant_id: str | None, deadline: float) -> Caller:
        """Return the caller whose key it is, in a thread that may ask the database.

        Raises:
            InvalidApiKeyError: the key is not valid.
            DatabaseUnavailableError: the database could not be asked.
        """
        place = await self._admission.enter(tenant_id, Weight.LIGHT, deadline)
        if place is None:
            raise DatabaseUnavailableError
        set_deadline(deadline)
        authentication = self._threads.run(contextvars.copy_context().run, self._keys.authenticate, key)
        authentication.add_done_callback(lambda _: place.leave())
        return await asyncio.shield(authentication)

    async def _refuse(self, error: Exception, environ: Environ, receive: Receive, send: Send) -> None:
        environ[REFUSAL] = error
        await self._bridge.answer(environ, receive, send, self._express)
