"""Runs transactions: retries, deadlines, and commits whose outcome is unknown. No other module starts one.

Invariants (docs/decisions/0003-transactions.md has the findings behind them):

- The callback may run several times, so it must have no side effects outside the session.
- The callback *returns* its verdict, even if that is an error ("gone", "busy"). The transaction is committed all the
  same, and the error is raised only then: a 404 from an aborted transaction can rest on data that rolls back later.
- Only a commit error labelled TransientTransactionError proves that nothing happened. After any other commit error the
  outcome is unknown: the commit is sent again until the deadline, and then OutcomeUnknownError is raised.
- Every attempt has its own deadline within the total, so that one dead socket cannot use up the whole budget.
- A session whose transaction ended in doubt never returns to the pool, and is killed on the server. Otherwise its locks
  would block the chat for 1.5 times the server's transaction lifetime: 90 seconds by default.
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
"""For a transaction with all its retries: an election (up to 11 s) fits in it. A request may have less time left."""

ATTEMPT_SECONDS = 4.0
"""For one attempt: a paused primary costs this much before the new one is asked. A healthy transaction takes less."""

ABORT_SECONDS = 1.0
"""For an abort: it only frees the server's resources earlier."""

KILL_SECONDS = 90.0
"""How long the killing of a session is retried: after that the server has aborted its transaction by itself."""

KILL_AGAIN_SECONDS = 0.5
"""From the first kill of a session to the second."""

_OPTIONS = TransactionOptions(read_concern=ReadConcern("snapshot"), write_concern=WriteConcern(w="majority", j=True))

T = TypeVar("T")
Work = Callable[[ClientSession], T | ChatServiceError]
BeforeRetry = Callable[[], None]


class _TryAgainError(Exception):
    """This attempt changed nothing, and a retry may succeed."""


class SessionKiller:
    """Kills abandoned sessions on the server, from one background thread that starts with the first of them.

    One command kills all waiting sessions. While the database is away it is retried, and it is sent as soon as the
    database is back. Each session is killed twice: a server that was paused first processes the commands that had
    arrived, in any order. A command of the dead session that runs after the kill would open its transaction again.
    """

    def __init__(self, client: MongoClient[dict[str, Any]]) -> None:
        self._client = client
        self._sessions: queue.SimpleQueue[Binary] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def kill(self, session: ClientSession) -> None:
        """Queue `session` to be killed. The caller must not end it: that would return it to the pool."""
        self._sessions.put(session.session_id["id"])
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="session-killer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        killed_once: list[Binary] = []
        while True:
            sessions = [*killed_once, *self._queued_sessions(block=not killed_once)]
            killed = kill_sessions(self._client, sessions, give_up_at=time.monotonic() + KILL_SECONDS)
            killed_once = [session for session in sessions if killed and session not in killed_once]
            time.sleep(KILL_AGAIN_SECONDS)

    def _queued_sessions(self, *, block: bool) -> list[Binary]:
        """Remove all sessions from the queue and return them; with `block`, wait until there is at least one."""
        sessions = [self._sessions.get()] if block else []
        with suppress(queue.Empty):
            while True:
                sessions.append(self._sessions.get_nowait())
        return sessions


def kill_sessions(client: MongoClient[dict[str, Any]], sessions: Sequence[Binary], give_up_at: float) -> bool:
    """Kill the sessions with these ids, with retries until `give_up_at`; return whether it succeeded."""
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

    def run(self, work: Work[T], before_retry: BeforeRetry = lambda: None) -> T:
        """Run `work(session)` in a transaction, commit it, and return the result of `work`.

        `before_retry()` is called before each retry, when no transaction is open. An error that it raises ends the
        retries, and is raised here.

        Raises:
            ChatServiceError: the error that `work` returned, after its transaction was committed.
            DatabaseUnavailableError: nothing was changed, and the deadline has passed.
            OutcomeUnknownError: the commit was sent, and its outcome did not become known before the deadline.
        """
        seconds = at_most(self._total_seconds)
        if seconds <= 0:
            raise DatabaseUnavailableError
        deadline = time.monotonic() + seconds
        for retry in itertools.count():
            try:
                return self._attempt(work, deadline)
            except _TryAgainError as error:
                # The driver's own back-off (transactions-convenient-api): 5 ms, growing by half up to 500, with jitter.
                pause = random.random() * min(0.005 * 1.5 ** min(retry, 20), 0.5)  # noqa: S311 - jitter, not a secret
                if time.monotonic() + pause >= deadline:
                    raise DatabaseUnavailableError from error.__cause__
                before_retry()
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
            # This process was stopped, and what it has read is too old. A hold on everything is promised as soon as the
            # longest transaction must have ended (protection.py), and relies on none committing later than that.
            self._abort(session)
            raise DatabaseUnavailableError
        for retry in itertools.count():
            try:
                with pymongo.timeout(self._budget(deadline)):
                    session.commit_transaction()
            except PyMongoError as error:
                if error.has_error_label("TransientTransactionError"):
                    # The server has aborted the transaction, but the driver would not send an abort to make sure.
                    self._killer.kill(session)
                    raise _TryAgainError from error
                pause = min(0.05 * 2 ** min(retry, 10), 0.5)
                if time.monotonic() + pause < deadline and _may_learn_outcome(error):
                    time.sleep(pause)
                    continue
                self._killer.kill(session)
                raise (OutcomeUnknownError if changed else DatabaseUnavailableError) from error
            else:
                session.end_session()
                return

    def _budget(self, deadline: float) -> float:
        """Return the seconds for the next step: at least 50 ms, so that it can be tried at all."""
        return max(min(self._attempt_seconds, deadline - time.monotonic()), 0.05)

    def _give_up(self, session: ClientSession, error: PyMongoError) -> None:
        """Abort if the server answered; otherwise kill, because nobody knows whether an abort would arrive."""
        if isinstance(error, OperationFailure) and not error.timeout:
            self._abort(session)
        else:
            self._killer.kill(session)

    def _abort(self, session: ClientSession) -> None:
        with pymongo.timeout(ABORT_SECONDS):
            session.end_session()


def _may_learn_outcome(error: PyMongoError) -> bool:
    """Return whether sending the commit again can reveal its outcome; False for a refusal that would only recur."""
    return (
        isinstance(error, ConnectionFailure) or error.timeout or error.has_error_label("UnknownTransactionCommitResult")
    )
