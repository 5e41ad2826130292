"""Frees the chats that dead processes hold, wherever those ran: their own master may have died with them."""

import logging
import threading

from chat_service.errors import ChatServiceError
from chat_service.repository.orphans import Orphans

LOOK_EVERY_SECONDS = 1.0
"""Between two looks, which cost the server about a millisecond each."""

_log = logging.getLogger(__name__)


class OrphanReaper:
    """One reaper; any number of them may run."""

    def __init__(self, orphans: Orphans, stop: threading.Event) -> None:
        self._orphans = orphans
        self._stop = stop

    def run_once(self) -> int:
        """Look once; return how many transactions were killed."""
        killed = self._orphans.reap()
        if killed:
            _log.warning("Transactions of dead processes were killed: %d", killed)
        return killed

    def run(self) -> None:
        """Look again and again until told to stop; a database that is away is looked at later."""
        while not self._stop.is_set():
            try:
                self.run_once()
            except ChatServiceError as error:
                _log.debug("Orphans were not looked for: %s", type(error).__name__)
            self._stop.wait(LOOK_EVERY_SECONDS)
