"""Takes the marks of released holds from their chats, so that the jobs which passed them over take them up again."""

from chat_service.jobs.runner import Job
from chat_service.repository.holds import Holds

REST_SECONDS = 5.0


class Lifting(Job):
    """One worker; any number of them may run."""

    name = "lifting"
    rest_seconds = REST_SECONDS

    def __init__(self, holds: Holds) -> None:
        self._holds = holds

    def run_once(self) -> int | None:
        """Take the mark from some chats, and return from how many; None if no chat has that of a released hold.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: it is looked for again later.
        """
        return self._holds.lift_some()

    def is_done(self) -> bool:
        """Tell whether no chat has the mark of a released hold."""
        return self._holds.are_lifted()
