"""Headers that every answer carries."""

from flask import Flask, Response, request

from chat_service.telemetry.request_ids import request_id

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    # Nothing here is a page, except those that say so with a policy of their own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # It forbids to embed answers unread (as an image or script), not to read them by CORS: right with and without it.
    "Cross-Origin-Resource-Policy": "same-origin",
}

HTTPS_ONLY = "max-age=31536000"
"""A year, for this host alone: the others of its domain are not ours to decide about."""


def install(app: Flask) -> None:
    """Add the headers to what the views return and to every error."""
    app.after_request(_finish)


def _finish(answer: Response) -> Response:
    # What the view says itself stays. Each look at werkzeug's headers goes through all of them, hence only one.
    told = {name.lower() for name, _ in answer.headers}
    answer.headers["X-Request-ID"] = request_id()
    if "cache-control" not in told:
        answer.headers.add("Cache-Control", "private, no-cache" if "etag" in told else "no-store")
    for name, value in SECURITY.items():
        if name.lower() not in told:
            answer.headers.add(name, value)
    # The server says whether it was HTTPS; gunicorn believes X-Forwarded-Proto only from `forwarded_allow_ips`.
    if request.is_secure:
        answer.headers["Strict-Transport-Security"] = HTTPS_ONLY
    return answer
