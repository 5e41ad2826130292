"""CORS: which other origins may call the API from a browser. Those in CORS_ORIGINS, exactly; by default none."""

from collections.abc import Sequence

from flask import Flask, Response, request
from flask_cors import CORS

from chat_service.api.auth import API_PREFIX

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
ALLOWED_HEADERS = [
    *("X-API-Key", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "Last-Event-ID"),
    *("X-Request-ID", "traceparent", "tracestate"),
]
EXPOSED_HEADERS = [
    *("ETag", "Location", "X-Request-ID", "Retry-After", "Content-Disposition"),
    *("RateLimit", "RateLimit-Policy"),
]

MAX_AGE = 600
"""Seconds a browser caches the response to a preflight: that saves nearly all, and a removed origin is out soon."""


def install(app: Flask, origins: Sequence[str]) -> None:
    """Allow calls from `origins`. Install before auth: a browser sends no key with a preflight."""
    if not origins:
        return
    app.before_request(_answer_preflight)
    app.after_request(_vary)
    CORS(
        app,
        resources=f"{API_PREFIX}.*",
        origins=list(origins),
        methods=METHODS,
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=MAX_AGE,
        # The key is a header, and nothing here reads cookies.
        supports_credentials=False,
        always_send=False,  # else the response to a request without an Origin lists all origins
        vary_header=False,  # flask-cors leaves it out where the origin is not allowed; see _vary
        intercept_exceptions=False,  # our errors are ordinary responses
    )


def _answer_preflight() -> Response | None:
    """Answer every preflight with 204, whatever is (not) at the address: the browser then shows the real response."""
    has_preflight_headers = "Origin" in request.headers and "Access-Control-Request-Method" in request.headers
    if request.method == "OPTIONS" and has_preflight_headers and request.path.startswith(API_PREFIX):
        return Response(status=204)
    return None


def _vary(response: Response) -> Response:
    """Say that the response depends on the Origin, also where that is not allowed: a cache may keep this one too."""
    if request.path.startswith(API_PREFIX):
        response.vary.add("Origin")
    return response
