"""The whole body first, then a thread.

A request takes one of the few worker threads only when it has arrived completely, so that slow senders cost a socket
each and nothing else. It also settles framing once for all: what reaches the application has a Content-Length that is
true, and a body that was cut off is never taken for a whole one.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from typing import Any, cast
from urllib.parse import urlsplit

from a2wsgi.asgi_typing import HTTPScope
from a2wsgi.wsgi import Body, WSGIResponder, build_environ

from chat_service.front.threads import Threads

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


FLUSH_BYTES = 64 * 2**10
"""A response is handed to the event loop in parts of this size: small answers in one go, exports in bounded memory."""


class ResponseCutError(Exception):
    """A response could not be finished; the text is the class of what went wrong."""


class _ClientGoneError(Exception):
    """The reader of a streamed response has left, so the rest of it need not be made."""


class BodyFirst:
    """An ASGI application that reads each body up to the limit and hands it to a WSGI application in a thread pool."""

    def __init__(self, app: Any, *, max_body_bytes: int, threads: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._threads = Threads(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if not scope["path"].startswith("/"):
            scope["path"] = urlsplit(scope["path"]).path  # the absolute form (RFC 9112, section 3.2.2)
        body = await self._read(scope, receive)
        if body is not None:  # else the client left before it had sent everything: there is nobody to answer
            await _Responder(self._app, self._threads, receive, send).respond(scope, body)

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
        self._kept: list[Message] = []
        self._kept_bytes = 0
        self._client_gone: asyncio.Future[Message] | None = None
        self._flushing: Future[None] | None = None

    async def respond(self, scope: Scope, body: bytes) -> None:
        """Run the application in a thread and send its response.

        Raises:
            ResponseCutError: the application failed; what was sent of its response, if anything, has no clean end.
        """
        environ = build_environ(cast("HTTPScope", scope), cast("Body", io.BytesIO(body)))
        try:
            await self._threads.run(self.wsgi, environ, self.start_response)
            if self._flushing is not None:
                await asyncio.wrap_future(self._flushing)
            await self._flush(self._kept)
        except _ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, its text may quote what no log may hold
            raise ResponseCutError(type(error).__name__) from None
        finally:
            if self._client_gone is not None:
                self._client_gone.cancel()

    def send(self, message: Any) -> None:
        """Take a part of the response from the application's thread; wait for slow readers now and then.

        One flush is under way while the application makes what the next one takes.
        """
        self._kept.append(message)
        self._kept_bytes += len(message.get("body", b""))
        if self._kept_bytes >= FLUSH_BYTES:
            if self._flushing is not None:
                self._flushing.result()
            flush = self._flush_while_there_is_a_reader(self._kept)
            self._kept, self._kept_bytes = [], 0
            self._flushing = asyncio.run_coroutine_threadsafe(flush, self.loop)

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


async def _lifespan(receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})
