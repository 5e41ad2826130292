"""The keeping: copies the log into the ledger, outside the database."""

import logging
import time

from chat_service.jobs.runner import Job
from chat_service.proof.ledger_file import LedgerError
from chat_service.repository.ledger import Ledger

LOG_SECONDS = 10.0
"""At most one line in this time."""

_log = logging.getLogger(__name__)


class Keeping(Job):
    """One that copies; any number may, and none copies what is there."""

    name = "keeping"
    rest_seconds = 0.2

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._log_at = 0.0

    def run_once(self) -> int | None:
        """Copy what comes next of some logs, and return how many entries that were; None if there were none.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: it is gone on with later.
        """
        try:
            return self._ledger.keep_some()
        except LedgerError as error:
            # Whoever is called must know what it is, and it does not pass by itself.
            if time.monotonic() >= self._log_at:
                _log.error("The log is not kept outside the database. %s", error)
                self._log_at = time.monotonic() + LOG_SECONDS
            return None

    def is_done(self) -> bool:
        """Tell that what was in the log when nothing more came is in the ledger."""
        return True
