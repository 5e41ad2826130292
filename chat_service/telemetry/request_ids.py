"""Request ids, by which a request is found in the log."""

import random
import re

from flask import g, request

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:-]{1,128}")


def new_request_id() -> str:
    """Return a fresh request id."""
    # It may be guessable, and to ask the kernel for randomness would let another thread run.
    return f"{random.getrandbits(128):032x}"


def request_id() -> str:
    """Return the caller's X-Request-ID if it is a sane one, or one made for this request."""
    if "request_id" not in g:
        header = request.headers.get("X-Request-ID", "")
        g.request_id = header if _SANE_REQUEST_ID.fullmatch(header) else new_request_id()
    current: str = g.request_id
    return current
