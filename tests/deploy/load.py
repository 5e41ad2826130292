"""Callers that go on while the service is replaced."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

from tests.client import CHATS
from tests.wait import wait_until


class Load:
    """Threads that create chats one after the other, until `end` is called."""

    def __init__(self, connect: Callable[[], HTTPConnection], headers: Mapping[str, str], *keeps: bool) -> None:
        """Start a thread for each of `keeps`: if true it keeps one connection, else it opens one for each request."""
        self._connect = connect
        self._headers = headers
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor()
        self.statuses: list[int] = []
        self._callers = [self._pool.submit(self._call, keeps=keep) for keep in keeps]

    def _call(self, *, keeps: bool) -> None:
        while not self._stop.is_set():
            with closing(self._connect()) as connection:
                while not self._stop.wait(0.005):
                    connection.request("POST", CHATS, "{}", self._headers)
                    response = connection.getresponse()
                    response.read()
                    self.statuses.append(response.status)
                    if not keeps:
                        break

    def wait_for_more(self) -> None:
        """Wait for thirty more responses, or until a thread has failed."""
        expected = len(self.statuses) + 30
        wait_until(lambda: len(self.statuses) > expected or any(caller.done() for caller in self._callers))

    def end(self) -> set[int]:
        """Stop the threads and return the statuses of all responses; raise what a thread met instead of a response."""
        self._stop.set()
        with self._pool:
            for caller in self._callers:
                caller.result()
        return set(self.statuses)
