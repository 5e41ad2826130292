"""Rate limits over HTTP: a token for each request, 429 when there is none, and headers that say what is left.

The headers are those of draft-ietf-httpapi-ratelimit-headers-11 (May 2026). A token bucket in its terms: the quota `q`
is what a full bucket holds and the window `w` the seconds in which it fills, so a client that sends at most `q`
requests in any `w` seconds is never refused. `r` is what is left. `t` is the time until the bucket is full again; in a
429 it equals Retry-After, because the draft does not want Retry-After to be earlier than `t`.
"""

import orjson
from flask import Flask, Response, g, request

from chat_service.api.context import caller, repositories
from chat_service.errors import RateLimitedError, ValidationFailedError
from chat_service.models import Scope


def install(app: Flask) -> None:
    """Add the headers to the response of every request that was counted."""
    app.after_request(_add_headers)


def count_request(scope: Scope, counts: str | None) -> None:
    """Count the current request: take one token, or one for each item of the list `counts` in its body.

    Raises:
        RateLimitedError: there are not enough tokens.
        ValidationFailedError: there never will be, because the limit's burst is less. Nothing was counted.
    """
    limits = repositories().limits
    limit = limits.of(caller().limits, scope)
    if limit is None:
        return
    tokens = _length(counts) if counts else 1
    if counts and tokens > limit.burst:
        # Not a 429: a client that waits and retries would do so for ever.
        raise ValidationFailedError({counts: [f"Send at most {limit.burst}: your rate limit allows no more at once."]})
    verdict = limits.take(caller(), scope, tokens)
    if verdict is None:
        return
    g.rate_limit = scope, verdict
    if not verdict.granted:
        raise RateLimitedError(scope.value, verdict.retry_after)


def _length(name: str) -> int:
    """Return the length of a list in the body; 1 if there is no list, which the view will refuse."""
    try:
        items = orjson.loads(request.get_data())[name]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 1
    return max(len(items), 1) if isinstance(items, list) else 1


def _add_headers(response: Response) -> Response:
    if "rate_limit" in g:
        scope, verdict = g.rate_limit
        response.headers["RateLimit-Policy"] = f'"{scope}";q={verdict.limit.burst};w={verdict.limit.window}'
        response.headers["RateLimit"] = f'"{scope}";r={verdict.left};t={verdict.retry_after or verdict.full_after}'
    return response
