"""The trace that a request belongs to, as its caller says it: W3C Trace Context, `traceparent`.

A value that is not one is ignored, as the standard asks: it never is an error.
"""

import re

from flask import g, request

HEADER = "traceparent"

_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-.*)?",
    re.ASCII,
)
"""A later version than 00 may say more behind a dash."""


def trace_id_of(traceparent: str) -> str | None:
    """Return the id of the trace; None if this is no valid `traceparent`."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return None if found is None or (found["version"] == "00" and found["more"]) else found["trace_id"]


def trace_id() -> str | None:
    """Return the id of the trace that the current request belongs to, if its caller or a tracer has said one."""
    if "trace_id" not in g:
        g.trace_id = trace_id_of(request.headers.get(HEADER, ""))
    found: str | None = g.trace_id
    return found


def join(trace_id: str) -> None:
    """Let the current request belong to a trace."""
    g.trace_id = trace_id
