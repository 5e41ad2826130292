"""The id by which a request is found in the log."""

import random
import re

from flask import g, request

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:-]{1,128}")


def new_request_id() -> str:
    """Return a fresh request id."""
    # Nobody has to be unable to guess it, and asking the kernel for randomness gives another thread the turn.
    return f"{random.getrandbits(128):032x}"


def request_id() -> str:
    """Return the caller's X-Request-ID when it is a sane one, or one made for this request."""
    if "request_id" not in g:
        told = request.headers.get("X-Request-ID", "")
        g.request_id = told if _SANE_REQUEST_ID.fullmatch(told) else new_request_id()
    found: str = g.request_id
    return found
