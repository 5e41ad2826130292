"""Rate limits over HTTP: a token for each request, 429 when there is none, and headers that tell what is left.

The headers are those of draft-ietf-httpapi-ratelimit-headers-11 (May 2026). A token bucket in its words: the quota `q`
is what a full bucket holds and the window `w` the seconds in which it fills, so who sends at most `q` requests in any
`w` seconds is never refused. `r` is what is left. `t` is when the bucket is full again; in a 429 it is Retry-After,
which the draft does not want to be earlier than it.
"""

import orjson
from flask import Flask, Response, g, request

from chat_service.api.context import caller, repositories
from chat_service.errors import RateLimitedError, ValidationFailedError
from chat_service.models import Scope


def install(app: Flask) -> None:
    """Add the headers to every answer to a request that was counted."""
    app.after_request(_tell)


def take(scope: Scope, counts: str | None) -> None:
    """Count the current request: one token, or as many as there are items in the list `counts` of its body.

    Raises:
        RateLimitedError: there are not as many.
        ValidationFailedError: there never will be: the limit's burst is less. Nothing was counted.
    """
    limits = repositories().limits
    limit = limits.of(caller().limits, scope)
    if limit is None:
        return
    tokens = _length(counts) if counts else 1
    if counts and tokens > limit.burst:
        # Not a 429: whoever waits and repeats that would do so for ever.
        raise ValidationFailedError({counts: [f"Your rate limit lets at most {limit.burst} through at once."]})
    verdict = limits.take(caller(), scope, tokens)
    if verdict is None:
        return
    g.rate_limit = scope, verdict
    if not verdict.granted:
        raise RateLimitedError(scope.value, verdict.retry_after)


def _length(name: str) -> int:
    """Return the length of a list in the body; 1 where there is none, which the view will refuse."""
    try:
        items = orjson.loads(request.get_data())[name]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 1
    return max(len(items), 1) if isinstance(items, list) else 1


def _tell(answer: Response) -> Response:
    if "rate_limit" in g:
        scope, verdict = g.rate_limit
        answer.headers["RateLimit-Policy"] = f'"{scope}";q={verdict.limit.burst};w={verdict.limit.window}'
        answer.headers["RateLimit"] = f'"{scope}";r={verdict.left};t={verdict.retry_after or verdict.full_after}'
    return answer
