"""The trace that a request belongs to, as its caller sends it: W3C Trace Context, `traceparent`.

An invalid value is ignored, as the standard asks: it is never an error.
"""

import re

from flask import g, request

HEADER = "traceparent"

_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-.*)?",
    re.ASCII,
)
"""A later version than 00 may have more after a dash."""


def trace_id_of(traceparent: str) -> str | None:
    """Return the id of the trace, or None if this is no valid `traceparent`."""
    fields = _TRACEPARENT.fullmatch(traceparent)
    return None if fields is None or (fields["version"] == "00" and fields["more"]) else fields["trace_id"]


def trace_id() -> str | None:
    """Return the id of the trace that the current request belongs to, if its caller or a tracer has set one."""
    if "trace_id" not in g:
        g.trace_id = trace_id_of(request.headers.get(HEADER, ""))
    current: str | None = g.trace_id
    return current


def join(trace_id: str) -> None:
    """Set the trace that the current request belongs to."""
    g.trace_id = trace_id
