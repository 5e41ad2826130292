"""Passes requests from ASGI to the WSGI application: a thread answers each, and a stream holds none between two parts.

A small response takes one thread once. Each part of a stream is made by a thread that is free again before the part is
sent, so a slow reader costs a socket and one part in memory, and nothing else.
"""

import asyncio
import contextvars
import io
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any

from chat_service.api.log import LISTENER, Listener
from chat_service.api.refusals import refuse
from chat_service.server.threads import Threads
from chat_service.telemetry.observation import place

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Environ = dict[str, Any]
WsgiApp = Callable[..., Iterable[bytes]]
Follow = Callable[[Listener], AsyncIterator[bytes]]
"""Yields what follows a response whose view has left a listener."""

SCOPE, HAS_NO_END = "chat_service.scope", "chat_service.has_no_end"
"""The key of the connection's scope in a request's environ; the key that this scope has while a response is endless."""

PART_BYTES = 64 * 2**10
"""A response is made, and handed to the connection, in parts of this size: small ones in one go, exports in bounded
memory. The connection accepts the next part when its reader has read most of the last one."""


ALL_UNREAD_BYTES = 96 * 2**20
TENANT_UNREAD_BYTES = 48 * 2**20
"""How much may wait for slow readers in a process, and for those of one tenant. Beyond it, reads of the tenant are
refused until its readers have read some."""

_log = logging.getLogger(__name__)


class ResponseCutError(Exception):
    """A response could not be finished; the text is the class of the error."""


def environ_of(scope: Scope) -> Environ:
    """Return the WSGI environ (PEP 3333) of a request, still without its body.

    Header fields with an underscore in their name are left out: WSGI cannot tell them from those with a dash.
    """
    host, port = scope.get("server") or ("localhost", 80)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or 0),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        SCOPE: scope,
    }
    if scope.get("client"):
        environ["REMOTE_ADDR"] = scope["client"][0]
    for name, value in scope["headers"]:
        if b"_" not in name:
            variable = _variable(name)
            text = value.decode("latin-1")
            environ[variable] = f"{environ[variable]},{text}" if variable in environ else text
    return environ


def _variable(name: bytes) -> str:
    variable = name.decode("latin-1").upper().replace("-", "_")
    return variable if variable in {"CONTENT_LENGTH", "CONTENT_TYPE"} else f"HTTP_{variable}"


class Bridge:
    """Lets the WSGI application answer ASGI requests."""

    def __init__(self, app: WsgiApp, streams: Threads, follow: Follow) -> None:
        """Make all but the first part of a stream in threads of `streams`, so that exports leave other threads free.

        `follow` yields what comes after the response to a listener; it has no thread.
        """
        self._app = app
        self._follow = follow
        self._streams = streams
        self._unread: Counter[str] = Counter()

    def has_too_much_unread(self, tenant_id: str) -> bool:
        """Return whether so much waits for the tenant's slow readers that its reads have to be refused."""
        unread = self._unread[tenant_id]
        return unread > TENANT_UNREAD_BYTES or (unread > PART_BYTES and self._unread.total() > ALL_UNREAD_BYTES)

    async def answer(  # noqa: PLR0913 - a request as ASGI passes it, and the threads that answer it
        self,
        environ: Environ,
        receive: Receive,
        send: Send,
        threads: Threads,
        *,
        tenant_id: str = "",
        on_first_part: Callable[[], object] = lambda: None,
    ) -> None:
        """Answer one request of a tenant; the first part is made in one of `threads`.

        `on_first_part()` is called when that thread is free again, also after an error.

        Raises:
            ResponseCutError: the application failed after its response had begun, which then has no clean end.
        """
        response = _Response(self._app, contextvars.copy_context())
        first = threads.run(response.begin, environ)
        first.add_done_callback(lambda _: on_first_part())
        try:
            await self._wait_for_step(first, response)
            listener = environ.pop(LISTENER, None)
            response.is_followed = listener is not None
            await self._flush(response, send, tenant_id)
            if not response.is_complete:
                await self._stream(response, receive, send, tenant_id)
            if listener is not None:
                environ.get(SCOPE, {})[HAS_NO_END] = True
                await self._follow_listener(listener, receive, send)
        except Exception as error:  # noqa: BLE001 - any error: its text may quote what must not be logged
            if response.is_begun:
                raise ResponseCutError(type(error).__name__) from None
            _log.error("A request failed: %s at %s", type(error).__name__, place(error))
            await _answer_with_a_problem(send)

    async def _stream(self, response: "_Response", receive: Receive, send: Send, tenant_id: str) -> None:
        disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            while not response.is_complete:
                if disconnected.done():
                    await self._streams.run(response.close)
                    return
                await self._wait_for_step(self._streams.run(response.proceed), response)
                await self._flush(response, send, tenant_id)
        finally:
            disconnected.cancel()

    async def _follow_listener(self, listener: Listener, receive: Receive, send: Send) -> None:
        """Send what follows the response, at the reader's pace, until the reader disconnects or nothing more comes."""
        disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
        following = asyncio.ensure_future(_send_all(self._follow(listener), send))
        try:
            await asyncio.wait([disconnected, following], return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (disconnected, following):
                task.cancel()
            await asyncio.wait([disconnected, following])

    async def _wait_for_step(self, step: "asyncio.Future[None]", response: "_Response") -> None:
        """Wait for a step of the application. If the wait is cancelled, close the response after the step."""
        try:
            await asyncio.shield(step)
        except asyncio.CancelledError:
            step.add_done_callback(lambda _: self._streams.run(response.close))
            raise

    async def _flush(self, response: "_Response", send: Send, tenant_id: str) -> None:
        """Send what the application has made so far, at the reader's pace."""
        head, body = response.take_part()
        has_more = response.is_followed or not response.is_complete
        if head is not None:
            await send(head)
        if len(body) <= PART_BYTES:
            await send({"type": "http.response.body", "body": body, "more_body": has_more})
            return
        self._unread[tenant_id] += len(body)
        try:
            for start in range(0, len(body), PART_BYTES):
                more = start + PART_BYTES < len(body) or has_more
                await send({"type": "http.response.body", "body": body[start : start + PART_BYTES], "more_body": more})
        finally:
            self._unread[tenant_id] -= len(body)
            self._unread = +self._unread


async def _send_all(parts: AsyncIterator[bytes], send: Send) -> None:
    async for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has disconnected. What it sends before that belongs to no request."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer_with_a_problem(send: Send) -> None:
    fields, body = refuse(500)
    headers = [(name.lower().encode(), value.encode()) for name, value in fields]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Response:
    """The response to one request. The application makes it part by part, always in the context of its request."""

    def __init__(self, app: WsgiApp, context: contextvars.Context) -> None:
        self._app = app
        self._run = context.run
        self._body: Any = None
        self._chunks: Iterator[bytes] = iter(())
        self._head: Message | None = None
        self._part: list[bytes] = []
        self.is_begun = False
        """Whether a part of it may have been sent."""
        self.is_complete = False
        """Whether the application has made all of it."""
        self.is_followed = False
        """Whether something follows what the application makes."""

    def begin(self, environ: Environ) -> None:
        """Call the application, in a thread, and make the first part."""
        self._run(self._begin, environ)

    def _begin(self, environ: Environ) -> None:
        self._body = self._app(environ, self._start)
        self._chunks = iter(self._body)
        self._make_part()

    def proceed(self) -> None:
        """Make the next part, in a thread. After the last one the response is closed."""
        self._run(self._make_part)

    def _make_part(self) -> None:
        try:
            size = 0
            for chunk in self._chunks:
                self._part.append(chunk)
                size += len(chunk)
                if size >= PART_BYTES:
                    return
        except BaseException:
            self._close()
            raise
        self.is_complete = True
        self._close()

    def close(self) -> None:
        """Let the application clean up, in a thread, after a response that was not finished."""
        self._run(self._close)

    def _close(self) -> None:
        body, self._body = self._body, None
        if hasattr(body, "close"):
            body.close()

    def _start(self, status: str, headers: list[tuple[str, str]], _: object = None) -> Callable[[bytes], None]:
        fields = [(name.encode("latin-1").lower(), value.strip().encode("latin-1")) for name, value in headers]
        self._head = {"type": "http.response.start", "status": int(status.split(" ", 1)[0]), "headers": fields}
        return self._part.append

    def take_part(self) -> tuple[Message | None, bytes]:
        """Return the head, unless an earlier call did, and the body that was made since the last call."""
        head, self._head = self._head, None
        part, self._part = self._part, []
        self.is_begun = True
        return head, part[0] if len(part) == 1 else b"".join(part)
