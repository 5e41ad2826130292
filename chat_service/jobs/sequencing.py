"""The sequencing: keeps the log up with what is committed. Any number of these may run, and one of them does it."""

import time
from contextlib import ExitStack, suppress

from chat_service.errors import ChangesLostError, ChatServiceError, ClaimLostError
from chat_service.jobs.runner import Job
from chat_service.repository.sequencer import Sequencer, Tail

WAIT_SECONDS = 1.0
"""For something to happen: then the lease is renewed all the same, and where to go on is written down."""

REST_SECONDS = 0.05
"""After that, and between two steps of those who stand by."""

CLAIM_AGAIN_SECONDS = 1.0
"""Between two looks of those who stand by."""


class Sequencing(Job):
    """One that writes the log, or stands by."""

    name = "sequencing"
    rest_seconds = REST_SECONDS

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._tail: Tail | None = None
        self._following = ExitStack()
        self._claim_at = 0.0
        self._are_trees_grown = False
        """As was seen once; a worker of an earlier version that left one behind had the lease, and that is noticed."""

    def run_once(self) -> int | None:
        """Number what was committed since the last time, and return how many events that were; None if there were none.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: it is gone on with where the log ends.
        """
        try:
            if self._tail is None:
                return self._begin()
            return self._sequencer.number(self._tail.next_batch(WAIT_SECONDS)) or None
        except ClaimLostError:
            self._are_trees_grown = False
            self._stop_following()
            return None
        except ChangesLostError:
            self._stop_following()
            self._sequencer.begin_rescan()
            return None
        except ChatServiceError:
            self._stop_following()
            raise

    def _begin(self) -> int | None:
        """Take the lease, look through the receipts if that is due, and follow the database from where the log ends."""
        if time.monotonic() < self._claim_at:
            return None
        place = self._sequencer.claim()
        if place is None:
            self._claim_at = time.monotonic() + CLAIM_AGAIN_SECONDS
            return None
        if not self._are_trees_grown and (grown := self._sequencer.grow_trees()):
            return grown
        self._are_trees_grown = True
        if "token" not in place:
            self._sequencer.begin_rescan()
            return 0
        if place.get("rescan") is not None:
            return self._sequencer.rescan(place["rescan"])
        self._tail = self._following.enter_context(self._sequencer.follow(place["token"]))
        return 0

    def _stop_following(self) -> None:
        self._tail = None
        self._following.close()

    def is_done(self) -> bool:
        """Tell that what had been committed when nothing more came is in the log."""
        return True

    def end(self) -> None:
        """Let another one take over at once."""
        is_writing = self._tail is not None
        self._stop_following()
        if is_writing:
            with suppress(ChatServiceError):
                self._sequencer.give_up()
