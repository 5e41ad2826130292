"""The HTTP client of a caller: it keeps its connection alive, or opens a new one for each request."""

import http.client
import json
import select
import time
from contextlib import closing, suppress
from typing import Any, NamedTuple

from tests.client import TenantAccess

ANSWER_SECONDS = 40
"""Timeout of the client: longer than any answer may take, so that a slow answer is recorded as slow, not as missing."""


class Answer(NamedTuple):
    began: float
    ended: float
    status: int | None
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of an error, "" for a success, None if there was no answer."""
        if self.status is None:
            return None
        if self.status < 400:
            return ""
        try:
            return str(json.loads(self.body)["code"])
        except (ValueError, KeyError):
            return "not_our_shape"


class Wire:
    """One caller's HTTP client; not safe for several threads."""

    def __init__(self, port: int, access: TenantAccess, *, keep_alive: bool = True) -> None:
        self._port = port
        self._headers = {**access.headers, "Content-Type": "application/json"}
        self._keep_alive = keep_alive
        self._connection: http.client.HTTPConnection | None = None
        self.resent = 0
        """How many requests were sent again, because the server closed a kept-alive connection meanwhile."""

    def send(self, method: str, path: str, body: Any = None, key: str | None = None) -> Answer:
        """Send a request, and return its answer. Times are those of `time.monotonic`."""
        began = time.monotonic()
        self._drop_if_ended()
        reused = self._connection is not None
        try:
            status, content = self._exchange(method, path, body, key)
        except (http.client.HTTPException, OSError):
            # A server may close an idle connection at any time; clients retry once what is safe to repeat.
            if not reused or not (key or method in {"GET", "DELETE"}):
                return Answer(began, time.monotonic(), None, b"")
            self.resent += 1
            try:
                status, content = self._exchange(method, path, body, key)
            except (http.client.HTTPException, OSError):
                return Answer(began, time.monotonic(), None, b"")
        return Answer(began, time.monotonic(), status, content)

    def send_and_hang_up(self, method: str, path: str, body: Any, key: str, after: float) -> None:
        """Send a request over its own connection, and close it `after` so many seconds, without reading an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        with closing(connection), suppress(OSError):
            connection.request(method, path, json.dumps(body), {**self._headers, "Idempotency-Key": key})
            time.sleep(after)

    def _exchange(self, method: str, path: str, body: Any, key: str | None) -> tuple[int, bytes]:
        connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        self._connection = None
        headers = {**self._headers, **({"Idempotency-Key": key} if key else {})}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        if self._keep_alive and not response.will_close:
            self._connection = connection
        else:
            connection.close()
        if response.status == 503 and not response.headers["Retry-After"]:
            return response.status, b'{"code": "no_retry_after"}'
        return response.status, content

    def _drop_if_ended(self) -> None:
        """Forget a connection that the server has closed since the last answer, as clients do before they use it."""
        if self._connection is not None and select.select([self._connection.sock], [], [], 0)[0]:
            self.close()
            self._connection = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
