"""Requests that the front has refused: they come this far to be answered, logged and counted like all others."""

from flask import Flask, request

REFUSAL = "chat_service.refusal"
"""The WSGI variable that holds the error to answer with."""


def install(app: Flask) -> None:
    """Answer refused requests; install before the key is checked, which would ask the database."""
    app.before_request(_refuse)


def _refuse() -> None:
    refusal: Exception | None = request.environ.get(REFUSAL)
    if refusal is not None:
        raise refusal
