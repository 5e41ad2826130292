"""Refusals outside the views, in the same shape as all errors and with the headers of every response.

A request that the server has refused reaches the application all the same, to be answered, logged and counted like all
others. What never becomes a request is answered by the server, with what `refuse` and `refusal` return.
"""

from collections.abc import Iterable

from flask import Flask, request

from chat_service.api import headers, problems
from chat_service.telemetry import logs
from chat_service.telemetry.observation import Answered
from chat_service.telemetry.request_ids import new_request_id

REFUSAL = "chat_service.refusal"
"""The WSGI variable that holds the error to answer with."""

Header = tuple[str, str]


_public_url = ""


def install(app: Flask) -> None:
    """Answer refused requests; install before the key is checked, which would ask the database."""
    app.before_request(_refuse)


def _refuse() -> None:
    refusal: Exception | None = request.environ.get(REFUSAL)
    if refusal is not None:
        raise refusal


def name_service(public_url: str) -> None:
    """Set the address of the service, for the problems of what is refused outside the application."""
    global _public_url  # noqa: PLW0603 - one service to a process
    _public_url = public_url


def refuse(status: int, more: Iterable[Header] = ()) -> tuple[list[Header], bytes]:
    """Return the headers, `more` among them, and the body of a response after which the connection is closed.

    The refusal is logged. A status that is not in the table of problems is answered as an internal error.
    """
    problem = problems.HTTP.get(status, problems.INTERNAL)
    request_id = new_request_id()
    body = problems.body(problem, request_id, _public_url)
    logs.write(Answered(request_id, problem.status, code=problem.code))
    return [
        ("Content-Type", problems.MEDIA_TYPE),
        ("Content-Length", str(len(body))),
        ("X-Request-ID", request_id),
        ("Cache-Control", "no-store"),
        *headers.SECURITY.items(),
        *more,
        ("Connection", "close"),
    ], body


def refusal(status: int, more: Iterable[Header] = ()) -> bytes:
    """Return the same response as it goes over the wire."""
    fields, body = refuse(status, more)
    problem = problems.HTTP.get(status, problems.INTERNAL)
    head = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(head).encode("latin-1") + body
