"""The one place that opens a session.

What this module keeps (the findings behind it: docs/decisions/0003-transactions.md):

- The callback may run several times, so it has no side effects outside the session.
- The callback *returns* its verdict, also when it is an error ("gone", "busy"). The transaction is committed all the
  same, and only then is the error raised: a 404 from an aborted transaction can come from data that rolls back later.
- Only a commit error labelled TransientTransactionError proves that nothing happened. Any other leaves the outcome
  unknown: the commit is sent again until the deadline, and then the caller is told so.
- Every attempt has a deadline of its own inside the total, so that one dead socket cannot eat the whole budget.
- A session whose transaction ended in doubt never goes back to the pool, and is killed on the server. Otherwise its
  locks would hold the chat for 1.5 times the server's transaction lifetime: 90 seconds by default.
"""

import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import pymongo
from bson import Binary
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.client_session_shared import TransactionOptions
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from chat_service.errors import ChatServiceError, DatabaseUnavailableError, OutcomeUnknownError
from chat_service.repository.deadline import at_most

TOTAL_SECONDS = 12.0
"""For a transaction with all its repetitions: an election (up to 11 s) fits in it. A request may have less left."""

ATTEMPT_SECONDS = 4.0
"""For one attempt: a paused primary costs this much before the new one is asked; no healthy transaction needs it."""

ABORT_SECONDS = 1.0
"""For an abort: it is a courtesy to the server, and the killer follows where it fails."""

KILL_SECONDS = 90.0
"""How long killing a session is tried: then the server has given its transaction up by itself."""

KILL_AGAIN_SECONDS = 0.5

_OPTIONS = TransactionOptions(read_concern=ReadConcern("snapshot"), write_concern=WriteConcern(w="majority", j=True))

T = TypeVar("T")
Work = Callable[[ClientSession], T | ChatServiceError]
Again = Callable[[], None]


class _TryAgainError(Exception):
    """This attempt changed nothing, and another one may succeed."""


class SessionKiller:
    """Kills abandoned sessions on the server, from one background thread that starts with the first of them.

    All of them are killed by one command, which waits for a database that is away and goes out the moment it is back.
    It is sent twice: a server that was paused first works off what had arrived, in any order, and a command of the dead
    session that comes after the kill would open its transaction again.
    """

    def __init__(self, client: MongoClient[dict[str, Any]]) -> None:
        self._client = client
        self._sessions: queue.SimpleQueue[Binary] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def kill(self, session: ClientSession) -> None:
        """Have `session` killed soon. The caller forgets it: it must not be ended, which would pool it again."""
        self._sessions.put(session.session_id["id"])
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="session-killer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        again: list[Binary] = []
        while True:
            sessions = [*again, *self._waiting(block=not again)]
            killed = kill_sessions(self._client, sessions, give_up_at=time.monotonic() + KILL_SECONDS)
            again = [session for session in sessions if killed and session not in again]
            time.sleep(KILL_AGAIN_SECONDS)

    def _waiting(self, *, block: bool) -> list[Binary]:
        """Return the sessions in the queue; with `block` there is at least one."""
        found = [self._sessions.get()] if block else []
        with suppress(queue.Empty):
            while True:
                found.append(self._sessions.get_nowait())
        return found


def kill_sessions(client: MongoClient[dict[str, Any]], sessions: Sequence[Binary], give_up_at: float) -> bool:
    """Kill the sessions of these ids, trying until it has worked or `give_up_at` has come; return whether it has."""
    while True:
        with suppress(PyMongoError), pymongo.timeout(2):
            client.admin.command({"killSessions": [{"id": session} for session in sessions]})
            return True
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.2)


class TransactionRunner:
    """Runs callbacks as snapshot-isolated, majority-committed transactions."""

    def __init__(
        self,
        client: MongoClient[dict[str, Any]],
        total_seconds: float = TOTAL_SECONDS,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self._client = client
        self._total_seconds = total_seconds
        self._attempt_seconds = attempt_seconds
        self._killer = SessionKiller(client)

    def run(self, work: Work[T], again: Again = lambda: None) -> T:
        """Run `work(session)` in a transaction, commit it, and return what it returned.

        `again()` is called before each repetition, when nothing is open; what it raises ends them.

        Raises:
            ChatServiceError: the error that `work` returned, after its transaction was committed.
            DatabaseUnavailableError: nothing was changed, and the deadline has passed.
            OutcomeUnknownError: the commit was sent, and its outcome could not be learnt before the deadline.
        """
        seconds = at_most(self._total_seconds)
        if seconds <= 0:
            raise DatabaseUnavailableError
        deadline = time.monotonic() + seconds
        for repetition in itertools.count():
            try:
                return self._attempt(work, deadline)
            except _TryAgainError as error:
                # The driver's own back-off (transactions-convenient-api): 5 ms, growing by half up to 500, with jitter.
                pause = random.random() * min(0.005 * 1.5 ** min(repetition, 20), 0.5)  # noqa: S311 - jitter, not a secret
                if time.monotonic() + pause >= deadline:
                    raise DatabaseUnavailableError from error.__cause__
                again()
                time.sleep(pause)
        raise AssertionError  # pragma: no cover - count() does not end

    def _attempt(self, work: Work[T], deadline: float) -> T:
        session = self._client.start_session(causal_consistency=False, default_transaction_options=_OPTIONS)
        session.start_transaction()
        try:
            with pymongo.timeout(self._budget(deadline)):
                verdict = work(session)
        except PyMongoError as error:
            self._give_up(session, error)
            if error.timeout or error.has_error_label("TransientTransactionError"):
                raise _TryAgainError from error
            raise
        except BaseException:
            self._abort(session)
            raise
        changed = not isinstance(verdict, ChatServiceError)
        self._commit(session, deadline, changed=changed)
        if isinstance(verdict, ChatServiceError):
            raise verdict
        return verdict

    def _commit(self, session: ClientSession, deadline: float, *, changed: bool) -> None:
        if time.monotonic() >= deadline:
            # This process was stopped, and what it has read is older than anybody reckons with: a hold on everything is
            # promised from when the longest transaction has ended (protection.py).
            self._abort(session)
            raise DatabaseUnavailableError
        for repetition in itertools.count():
            try:
                with pymongo.timeout(self._budget(deadline)):
                    session.commit_transaction()
            except PyMongoError as error:
                if error.has_error_label("TransientTransactionError"):
                    # The server has aborted it, but the driver would not send an abort to make sure.
                    self._killer.kill(session)
                    raise _TryAgainError from error
                pause = min(0.05 * 2 ** min(repetition, 10), 0.5)
                if time.monotonic() + pause < deadline and _may_settle(error):
                    time.sleep(pause)
                    continue
                self._killer.kill(session)
                raise (OutcomeUnknownError if changed else DatabaseUnavailableError) from error
            else:
                session.end_session()
                return

    def _budget(self, deadline: float) -> float:
        """Return the seconds for the next step, never so few that it could not even be tried."""
        return max(min(self._attempt_seconds, deadline - time.monotonic()), 0.05)

    def _give_up(self, session: ClientSession, error: PyMongoError) -> None:
        """Abort where the server answered; where it did not, whether an abort arrives is as unknown: kill."""
        if isinstance(error, OperationFailure) and not error.timeout:
            self._abort(session)
        else:
            self._killer.kill(session)

    def _abort(self, session: ClientSession) -> None:
        with pymongo.timeout(ABORT_SECONDS):
            session.end_session()


def _may_settle(error: PyMongoError) -> bool:
    """Tell whether sending the commit again can bring an answer: not after a refusal that would only be repeated."""
    return (
        isinstance(error, ConnectionFailure) or error.timeout or error.has_error_label("UnknownTransactionCommitResult")
    )
