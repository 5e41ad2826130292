"""What is wrong outside, said in the log, and not again and again."""

import logging
import threading
import time
from collections.abc import Iterable

AGAIN_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Complaints:
    """Says each sentence at most once in `AGAIN_SECONDS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}

    def say(self, sentences: Iterable[str]) -> None:
        """Log those that were not said a moment ago. They hold no value of a caller's, and no password."""
        now = time.monotonic()
        with self._lock:
            self._said = {text: at for text, at in self._said.items() if now - at < AGAIN_SECONDS}
            new = [text for text in sentences if text not in self._said]
            self._said.update(dict.fromkeys(new, now))
        for text in new:
            _log.error("%s", text)
