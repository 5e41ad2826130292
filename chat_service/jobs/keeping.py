"""Copies the log into the ledger, outside the database."""

import logging
import time

from chat_service.jobs.runner import Job
from chat_service.proof.ledger_file import LedgerError
from chat_service.repository.ledger import Ledger

LOG_SECONDS = 10.0
"""At most one line is logged in this time."""

_log = logging.getLogger(__name__)


class Keeping(Job):
    """One copying worker. Any number may run, and none copies what the ledger has."""

    name = "keeping"
    rest_seconds = 0.2

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next_log_at = 0.0

    def run_once(self) -> int | None:
        """Copy the next entries of some logs, and return how many those were; None if there were none.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the copying is continued later.
        """
        try:
            return self._ledger.copy_some()
        except LedgerError as error:
            # An operator has to act, for this does not pass by itself, and must see the cause.
            if time.monotonic() >= self._next_log_at:
                _log.error("The log is not copied to the ledger. %s", error)
                self._next_log_at = time.monotonic() + LOG_SECONDS
            return None

    def is_done(self) -> bool:
        """Return True: when there was nothing more to copy, the ledger has all of the log."""
        return True
