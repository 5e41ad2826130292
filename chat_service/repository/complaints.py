"""Logs what is wrong outside this process, without repeating it again and again."""

import logging
import threading
import time
from collections.abc import Iterable

REPEAT_SECONDS = 10.0
"""After this time the same sentence is logged again."""

_log = logging.getLogger(__name__)


class Complaints:
    """Logs each sentence at most once in `REPEAT_SECONDS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged_at: dict[str, float] = {}

    def say(self, sentences: Iterable[str]) -> None:
        """Log the sentences that were not logged lately. They must contain no value of a caller and no password."""
        now = time.monotonic()
        with self._lock:
            self._logged_at = {text: at for text, at in self._logged_at.items() if now - at < REPEAT_SECONDS}
            new = [text for text in sentences if text not in self._logged_at]
            self._logged_at.update(dict.fromkeys(new, now))
        for text in new:
            _log.error("%s", text)
