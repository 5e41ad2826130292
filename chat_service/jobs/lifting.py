"""Removes the marks of released holds from their chats, so that jobs which skipped these chats process them again."""

from chat_service.jobs.runner import Job
from chat_service.repository.holds import Holds

REST_SECONDS = 5.0


class Lifting(Job):
    """One worker. Any number of them may run."""

    name = "lifting"
    rest_seconds = REST_SECONDS

    def __init__(self, holds: Holds) -> None:
        self._holds = holds

    def run_once(self) -> int | None:
        """Remove the mark from some chats, and return from how many; None if no chat has the mark of a released hold.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: the job looks again later.
        """
        return self._holds.lift_some()

    def is_done(self) -> bool:
        """Return whether no chat has the mark of a released hold."""
        return self._holds.are_lifted()
