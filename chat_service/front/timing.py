"""By when an answer must come: counted from the moment at which the router took the request, where it says so."""

import re
import time

ANSWER_SECONDS = 25.0
"""After this nobody may see the answer any more: routers give up after 30."""

AFTERWARDS_SECONDS = 4.0
"""What may come after the database's time is up: an abort, the look for a lost outcome, the way back."""

AHEAD_SECONDS = 5.0
"""The router's clock may be ahead of ours by so much. Further off it is wrong, and not believed."""

BEHIND_SECONDS = 300.0
"""No request was ever that long on its way: a clock is wrong here too."""

# Heroku: milliseconds since 1970. nginx: `t=` and seconds.
_MILLISECONDS = re.compile(rb"[0-9]{13}")
_SECONDS = re.compile(rb"t=([0-9]{10}(\.[0-9]{1,6})?)")


def started_at(told: bytes | None, now: float) -> float:
    """Return when a request began, by its X-Request-Start; `now` (seconds since 1970) if that says nothing sane."""
    told = told or b""
    if _MILLISECONDS.fullmatch(told):
        began = int(told) / 1000
    elif found := _SECONDS.fullmatch(told):
        began = float(found[1])
    else:
        return now
    return min(began, now) if now - BEHIND_SECONDS < began < now + AHEAD_SECONDS else now


def deadline(told: bytes | None) -> float:
    """Return until when the database may be worked with for a request, on the clock of `time.monotonic()`."""
    now = time.time()
    return time.monotonic() + started_at(told, now) - now + ANSWER_SECONDS - AFTERWARDS_SECONDS
