"""Headers that every response has."""

from flask import Flask, Response, request

from chat_service.telemetry.request_ids import request_id

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    # No response is a page, except those that have a policy of their own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # It forbids others to embed responses (as an image or script), not to read them by CORS: right with and without it.
    "Cross-Origin-Resource-Policy": "same-origin",
}

HTTPS_ONLY = "max-age=31536000"
"""A year, for this host alone: we cannot decide for the other hosts of its domain."""


def install(app: Flask) -> None:
    """Add the headers to the responses of views and to every error."""
    app.after_request(_finish)


def _finish(response: Response) -> Response:
    # Headers that the view has set stay. Each look at werkzeug's headers goes through all of them, hence only one.
    set_by_view = {name.lower() for name, _ in response.headers}
    response.headers["X-Request-ID"] = request_id()
    if "cache-control" not in set_by_view:
        response.headers.add("Cache-Control", "private, no-cache" if "etag" in set_by_view else "no-store")
    for name, value in SECURITY.items():
        if name.lower() not in set_by_view:
            response.headers.add(name, value)
    # The server says whether it was HTTPS; gunicorn believes X-Forwarded-Proto only from `forwarded_allow_ips`.
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = HTTPS_ONLY
    return response
