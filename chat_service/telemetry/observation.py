"""What is known of a request once it is answered: one `Answered` each, for the log and the metrics.

It holds nothing of what the client sent but the ids of request and trace and the method, and these only in a known
form: no key, ticket, header, path, query or body. Of an exception it holds the class and the place, never the text,
which can quote any of these.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Flask, Response, g, request

from chat_service.repository.monitor import Tally, begin_tally
from chat_service.telemetry.request_ids import request_id
from chat_service.telemetry.trace_context import trace_id

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER_METHOD = "OTHER"
NO_ROUTE = "(none)"
"""These two stand for methods and paths that are not ours: clients can send any number of them."""

PLACE_FRAMES = 6
"""How many frames of a stack the place has: from where the error was raised to the view that called."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One request and its response."""

    request_id: str
    status: int
    trace_id: str | None = None
    method: str = OTHER_METHOD
    route: str = NO_ROUTE
    tenant_id: str | None = None
    key_id: str | None = None
    seconds: float = 0.0
    commands: int = 0
    code: str | None = None
    error: str | None = None
    place: str | None = None
    cut: bool = False
    """The response was begun and not finished: the client disconnected, or `error` happened."""


Observer = Callable[[Answered], None]


def method() -> str:
    """Return the method of the current request, or OTHER_METHOD if it is not ours."""
    return request.method if request.method in METHODS else OTHER_METHOD


def route() -> str:
    """Return the route of the current request, or NO_ROUTE if it has none."""
    return request.url_rule.rule if request.url_rule else NO_ROUTE


def place(error: BaseException) -> str:
    """Return where `error` was raised, innermost frame first."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames[-PLACE_FRAMES:]))


def note(code: str, error: BaseException | None = None, *, bug: bool = False) -> None:
    """Remember the problem that the current request is answered with, and what caused it."""
    g.code = code
    g.error = error and type(error).__name__
    g.place = place(error) if error and bug else None


def install(app: Flask, observers: Sequence[Observer]) -> None:
    """Report each request to the observers. Install first: its time begins before, and ends after, all other hooks."""
    app.before_request(_begin)
    app.after_request(partial(_finish, observers))


def _begin() -> None:
    g.began = time.perf_counter()
    g.tally = begin_tally()


def _finish(observers: Sequence[Observer], response: Response) -> Response:
    watch = _Watch(observers, g.began, g.tally, _facts(response))
    if not response.is_streamed or request.method == "HEAD":
        watch.report(cut=False)
        return response
    # A streamed response is finished when it is closed, which is after the end of this request's context.
    response.response = watch.follow(response.response)
    response.call_on_close(watch.close)
    return response


def _facts(response: Response) -> dict[str, Any]:
    caller = g.get("caller")
    return {
        "request_id": request_id(),
        "trace_id": trace_id(),
        "method": method(),
        "route": route(),
        "tenant_id": caller and caller.tenant_id,
        "key_id": caller and caller.key_id,
        "status": response.status_code,
        "code": g.get("code"),
        "error": g.get("error"),
        "place": g.get("place"),
    }


class _Watch:
    """Reports one request to the observers, when it has ended."""

    def __init__(self, observers: Sequence[Observer], began: float, tally: Tally, facts: dict[str, Any]) -> None:
        self._observers = observers
        self._began = began
        self._tally = tally
        self._facts = facts
        self._complete = False

    def follow(self, chunks: Any) -> Iterator[Any]:
        """Pass a streamed body on, and keep how it ends."""
        try:
            yield from chunks
            self._complete = True
        except Exception as error:
            self._facts.update(error=type(error).__name__, place=place(error))
            raise

    def close(self) -> None:
        """Report a response that was streamed."""
        self.report(cut=not self._complete)

    def report(self, *, cut: bool) -> None:
        """Call each observer."""
        seconds = time.perf_counter() - self._began
        answered = Answered(**self._facts, seconds=seconds, commands=self._tally.commands, cut=cut)
        for observer in self._observers:
            observer(answered)
