"""gunicorn's ASGI worker, with its own refusals in our error shape.

What is not HTTP never reaches the application, so gunicorn answers it: in plain text that quotes the request. The one
method that writes such an answer is replaced here; a test holds it against the pinned gunicorn.
"""

from collections.abc import Iterable

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from chat_service.api import problems
from chat_service.api.context import new_request_id


class ProblemProtocol(ASGIProtocol):  # type: ignore[misc]  # gunicorn ships no types
    """One connection."""

    def _send_error_response(self, status: int, message: str, extra_headers: Iterable[tuple[str, str]] = ()) -> None:
        del message  # it quotes the request
        problem = problems.HTTP.get(status, problems.INTERNAL)
        request_id = new_request_id()
        body = problems.body(problem, request_id)
        head = [
            f"HTTP/1.1 {problem.status} {problem.title}",
            f"Content-Type: {problems.MEDIA_TYPE}",
            f"Content-Length: {len(body)}",
            f"X-Request-ID: {request_id}",
            "Cache-Control: no-store",
            *(f"{name}: {value}" for name, value in extra_headers),
            "Connection: close",
        ]
        self._safe_write("\r\n".join([*head, "", ""]).encode("latin-1") + body)


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]  # gunicorn ships no types
    """The worker class to name in gunicorn.conf.py."""

    def init_process(self) -> None:
        """Start the worker with our protocol; it has no setting for it, and looks the name up when it listens."""
        gasgi.ASGIProtocol = ProblemProtocol
        super().init_process()
