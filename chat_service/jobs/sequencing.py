"""Writes committed events into the log. Any number of these jobs may run, and the one with the lease does it."""

import time
from contextlib import ExitStack, suppress

from chat_service.errors import ChangesLostError, ChatServiceError, ClaimLostError
from chat_service.jobs.runner import Job
from chat_service.repository.sequencer import Sequencer, Tail

WAIT_SECONDS = 1.0
"""How long to wait for events. After this the lease is renewed, and the position stored, also without events."""

REST_SECONDS = 0.05
"""After that, and between two steps of a job that stands by."""

CLAIM_AGAIN_SECONDS = 1.0
"""Between two attempts of a job that stands by to get the lease."""


class Sequencing(Job):
    """One worker. It writes the log, or stands by."""

    name = "sequencing"
    rest_seconds = REST_SECONDS

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._tail: Tail | None = None
        self._following = ExitStack()
        self._next_claim_at = 0.0
        self._are_trees_grown = False
        """Whether all trees were found complete. Only a worker of an earlier version leaves one behind. It needs the
        lease for that, and this worker then notices that it has lost it."""

    def run_once(self) -> int | None:
        """Number the events committed since the last call, and return how many those were; None if there were none.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the job continues where the log ends.
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
        """Claim the lease, rescan the receipts if that is due, and follow the database from where the log ends."""
        if time.monotonic() < self._next_claim_at:
            return None
        position = self._sequencer.claim()
        if position is None:
            self._next_claim_at = time.monotonic() + CLAIM_AGAIN_SECONDS
            return None
        if not self._are_trees_grown and (grown := self._sequencer.grow_trees()):
            return grown
        self._are_trees_grown = True
        if "token" not in position:
            self._sequencer.begin_rescan()
            return 0
        if position.get("rescan") is not None:
            return self._sequencer.rescan(position["rescan"])
        self._tail = self._following.enter_context(self._sequencer.follow(position["token"]))
        return 0

    def _stop_following(self) -> None:
        self._tail = None
        self._following.close()

    def is_done(self) -> bool:
        """Return True: when no event was left to number, the log has all that was committed."""
        return True

    def end(self) -> None:
        """Let another worker take over at once."""
        is_writing = self._tail is not None
        self._stop_following()
        if is_writing:
            with suppress(ChatServiceError):
                self._sequencer.give_up()
