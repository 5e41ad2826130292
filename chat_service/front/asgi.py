"""The whole body first, then a thread.

A request takes one of the few worker threads only when it has arrived completely, and between two parts of a streamed
response it has none: slow senders and slow readers cost a socket each and nothing else. Who may have a thread is
settled in `admission.py`. What does not ask the database needs no leave and has threads of its own, so that the service
can tell of its health however busy it is.

It also settles framing once for all: what reaches the application has a Content-Length that is true, and a body that
was cut off is never taken for a whole one.
"""

import asyncio
import contextvars
import io
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

from a2wsgi.asgi_typing import HTTPScope
from a2wsgi.wsgi import Body, WSGIResponder, build_environ
from a2wsgi.wsgi_typing import Environ
from werkzeug.exceptions import RequestTimeout

from chat_service.api.auth import API_PREFIX
from chat_service.api.refusals import REFUSAL
from chat_service.errors import DatabaseUnavailableError
from chat_service.front import timing
from chat_service.front.admission import Admission
from chat_service.front.threads import Threads
from chat_service.realtime.endpoint import Sockets
from chat_service.repository.deadline import set_deadline

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_SECONDS = 60.0
"""For a body to arrive: the largest that is read by default needs 70 KB/s."""

EXPRESS_THREADS = 4
"""For what asks nobody. A readiness probe may hold one for a second, until the outage it looks for is known."""

FLUSH_BYTES = 64 * 2**10
"""A response is handed to the event loop in parts of this size: small answers in one go, exports in bounded memory."""


class ResponseCutError(Exception):
    """A response could not be finished; the text is the class of what went wrong."""


class _ClientGoneError(Exception):
    """The reader of a streamed response has left, so the rest of it need not be made."""


class BodyFirst:
    """An ASGI application: WebSockets go to `sockets`, whole requests to a WSGI application in threads."""

    def __init__(self, app: Any, sockets: Sockets, *, max_body_bytes: int, threads: int, admission: Admission) -> None:
        self._app = app
        self._sockets = sockets
        self._max_body_bytes = max_body_bytes
        self._admission = admission
        self._arriving = timing.Limit(BODY_SECONDS)
        self._threads = Threads(threads, "wsgi")
        # For what follows the first part of a streamed response: many exports at once leave the other threads free.
        self._streams = Threads(max(threads // 2, 1), "stream")
        self._express = Threads(EXPRESS_THREADS, "express")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
            return
        if not scope["path"].startswith("/"):
            scope["path"] = urlsplit(scope["path"]).path  # the absolute form (RFC 9112, section 3.2.2)
        try:
            body = await self._arriving.keep(self._read(scope, receive))
        except TimeoutError:
            await self._refuse(RequestTimeout(), scope, receive, send)
            return
        if body is not None:  # else the client left before it had sent everything: there is nobody to answer
            await self._answer(scope, body, receive, send)

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        environ = _environ(scope, body)
        if not ("/" + scope["path"].lstrip("/")).startswith(API_PREFIX):
            await _Responder(self._app, self._express, receive, send).respond(environ)
            return
        told = next((value for name, value in scope["headers"] if name == b"x-request-start"), None)
        deadline = timing.deadline(told)
        if not await self._admission.enter(deadline):
            await self._refuse(DatabaseUnavailableError(), scope, receive, send)
            return
        # From here to the thread nothing may fail: the place is given back when the thread is done.
        set_deadline(deadline)
        responder = _Responder(self._app, self._threads, receive, send)
        responder.then(self._streams, self._admission.leave)
        await responder.respond(environ)

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        environ = _environ(scope, b"")
        environ[REFUSAL] = error  # type: ignore[literal-required]  # a variable of ours
        await _Responder(self._app, self._express, receive, send).respond(environ)

    async def drain(self) -> None:
        """Close every WebSocket, because the process ends; requests end by themselves."""
        await self._sockets.drain()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.drain()
        await send({"type": "lifespan.shutdown.complete"})

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, or None if it was cut off. Of one that is too large only the size is passed on."""
        # Names with an underscore would be the same as those with a dash once they are WSGI variables.
        headers = [(name, value) for name, value in scope["headers"] if b"_" not in name]
        if (b"transfer-encoding", b"chunked") in headers:
            headers.remove((b"transfer-encoding", b"chunked"))  # which is undone here
        scope["headers"] = headers
        told = next((value for name, value in headers if name == b"content-length"), None)
        if told is not None and int(told) > self._max_body_bytes:
            return b""  # the application answers 413 by the Content-Length, after it has checked the key
        body = bytearray()
        while len(body) <= self._max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if told is None and body:
            headers.append((b"content-length", str(len(body)).encode()))
        return bytes(body)


def _environ(scope: Scope, body: bytes) -> Environ:
    return build_environ(cast("HTTPScope", scope), cast("Body", io.BytesIO(body)))


class _Responder(WSGIResponder):
    """a2wsgi's responder with two hand-offs between thread and loop for a small answer, instead of nine.

    What the application sends is kept until there is enough of it, and what is left when it returns is sent by the
    loop itself. Measured in docs/decisions/0005-front.md.
    """

    def __init__(self, app: Any, threads: Threads, receive: Receive, send: Send) -> None:
        # Not its own, which makes a queue and asks for an executor that nothing here uses.
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.response_started = False
        self.exc_info = None
        self._threads = threads
        self._receive = receive
        self._send = send
        self._streams = threads
        self._leave: Callable[[], None] = lambda: None
        self._run = contextvars.copy_context().run
        self._body: Any = None
        self._chunks: Iterator[bytes] = iter(())
        self._kept: list[Message] = []
        self._kept_bytes = 0
        self._client_gone: asyncio.Future[Message] | None = None

    def then(self, streams: Threads, leave: Callable[[], None]) -> None:
        """Call `leave` once the first part of the response is made, and make the others in a thread of `streams`."""
        self._streams = streams
        self._leave = leave

    async def respond(self, environ: Environ) -> None:
        """Run the application in a thread and send its response.

        Raises:
            ResponseCutError: the application failed; what was sent of its response, if anything, has no clean end.
        """
        try:
            beginning = self._threads.run(self._run, self._begin, environ)
            beginning.add_done_callback(lambda _: self._leave())
            if await self._unless_cancelled(beginning):
                await self._stream()
            await self._flush(self._taken())
        except _ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, its text may quote what no log may hold
            raise ResponseCutError(type(error).__name__) from None
        finally:
            if self._client_gone is not None:
                self._client_gone.cancel()

    async def _unless_cancelled(self, step: asyncio.Future[bool]) -> bool:
        """Wait for a step of the application. A thread cannot be stopped: if nobody waits any more, close it after."""
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            step.add_done_callback(lambda _: self._streams.run(self._run, self._close))
            raise

    async def _next(self) -> bool:
        return await self._unless_cancelled(self._streams.run(self._run, self._go_on))

    def _begin(self, environ: Environ) -> bool:
        """Call the application and take the first part of its response; return whether there is more."""
        self._body = self.app(environ, self.start_response)
        self._chunks = iter(self._body)
        return self._go_on()

    def _go_on(self) -> bool:
        """Take the next part of the response, and return whether there is more. After the last it is closed."""
        more = False
        try:
            for chunk in self._chunks:
                self.send({"type": "http.response.body", "body": chunk, "more_body": True})
                if self._kept_bytes >= FLUSH_BYTES:
                    more = True
                    return True
            self.send({"type": "http.response.body", "body": b""})
            return False
        finally:
            if not more:
                self._close()

    def _close(self) -> None:
        body, self._body = self._body, None
        getattr(body, "close", lambda: None)()

    def send(self, message: Any) -> None:
        """Keep a part of the response; called in the application's thread."""
        self._kept.append(message)
        self._kept_bytes += len(message.get("body", b""))

    def _taken(self) -> list[Message]:
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        return kept

    async def _stream(self) -> None:
        """Send what is kept while the application makes what comes next, until nothing more comes."""
        more = True
        while more:
            flush = self._flush_while_there_is_a_reader(self._taken())
            coming = asyncio.ensure_future(self._next())
            try:
                await flush
            except BaseException:
                # It is closed by a thread too, after the one that is in it has come out.
                with suppress(Exception):
                    if await coming:
                        await self._streams.run(self._run, self._close)
                raise
            more = await coming

    async def _flush_while_there_is_a_reader(self, kept: list[Message]) -> None:
        # With the body read, the next thing to receive is that the client has left. gunicorn 27 never wakes a send that
        # waits for a slow reader when that reader leaves, so whichever comes first is waited for.
        self._client_gone = self._client_gone or asyncio.ensure_future(self._receive())
        flush = asyncio.ensure_future(self._flush(kept))
        await asyncio.wait([flush, self._client_gone], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        if self._client_gone.done():
            flush.cancel()
            raise _ClientGoneError
        await flush

    async def _flush(self, kept: list[Message]) -> None:
        for message in kept:
            await self._send(message)
