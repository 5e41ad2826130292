"""A refusal as bytes, for what never becomes a request of the application: the one error shape, with its headers."""

from collections.abc import Iterable

from chat_service.api import headers, problems
from chat_service.api.problems import Problem
from chat_service.telemetry import logs
from chat_service.telemetry.observation import Answered


def refusal(problem: Problem, request_id: str, more: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the whole response, after which the connection is closed; the log has a line of it."""
    body = problems.body(problem, request_id)
    head = [
        f"HTTP/1.1 {problem.status} {problem.title}",
        f"Content-Type: {problems.MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {request_id}",
        "Cache-Control: no-store",
        *(f"{name}: {value}" for name, value in headers.SECURITY.items()),
        *(f"{name}: {value}" for name, value in more),
        "Connection: close",
    ]
    logs.write(Answered(request_id, problem.status, code=problem.code))
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body
