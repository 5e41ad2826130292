"""The whole body first, then a thread.

A request takes one of the few worker threads only when it has arrived completely, so that slow senders cost a socket
each and nothing else. It also settles framing once for all: what reaches the application has a Content-Length that is
true, and a body that was cut off is never taken for a whole one.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from a2wsgi import WSGIMiddleware
from a2wsgi.wsgi_typing import WSGIApp

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class BodyFirst:
    """An ASGI application that reads each body up to the limit and hands it to a WSGI application in a thread pool."""

    def __init__(self, app: WSGIApp, *, max_body_bytes: int, threads: int) -> None:
        self._app = WSGIMiddleware(app, workers=threads)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._read(scope, receive)
        if body is None:
            return  # the client left before it had sent everything: there is nobody to answer
        await self._app(scope, _once(body), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, or None if it was cut off. Of one that is too large only the size is passed on."""
        # Names with an underscore would be the same as those with a dash once they are WSGI variables.
        headers = [(name, value) for name, value in scope["headers"] if b"_" not in name]
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


def _once(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
