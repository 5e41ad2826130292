"""Delivers log entries to webhooks, many at once, so that a receiver that hangs delays only its own deliveries."""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from chat_service.errors import ChatServiceError
from chat_service.jobs.runner import Job
from chat_service.jobs.sender import CONNECTIONS, Sender
from chat_service.models import Attempt
from chat_service.repository.deliveries import Deliveries
from chat_service.repository.tracer import SILENT, Tracer

REST_SECONDS = 0.5

ATTEMPTS_OF_WEBHOOK = 4
"""Attempts at once to one receiver."""

CLAIMS = 32
"""Deliveries that are claimed before new entries are looked for."""

END_SECONDS = 2.0
"""How long closing the connections may take."""

THREADS = 4
"""Threads that store the results of attempts."""

MessageJson = Callable[[Attempt], Any]

_log = logging.getLogger(__name__)


class Delivering(Job):
    """One worker, with an event loop of its own. Any number of them may run, and be killed."""

    name = "webhooks"
    rest_seconds = REST_SECONDS

    def __init__(
        self,
        deliveries: Deliveries,
        message_json: MessageJson,
        tracer: Tracer = SILENT,
        *,
        private_networks: bool,
    ) -> None:
        """`message_json` makes the body that is sent; `tracer` gets each attempt."""
        self._tracer = tracer
        self._deliveries = deliveries
        self._message_json = message_json
        self._private_networks = private_networks
        self._in_progress: Counter[str] = Counter()
        """Number of attempts in progress, by webhook."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None
        self._sender: Sender | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook-settle")

    def run_once(self) -> int | None:
        """Make deliveries of new entries, and begin attempts that are due; return how many, or None if there were none.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: what was claimed is due again when the claim is over.
        """
        looked_at, begun = self._deliveries.enqueue_some(), 0
        while begun < CLAIMS:
            with self._lock:
                free = CONNECTIONS - self._in_progress.total()
                busy = [webhook_id for webhook_id, number in self._in_progress.items() if number >= ATTEMPTS_OF_WEBHOOK]
            attempt = self._deliveries.claim(busy) if free > 0 else None
            if attempt is None:
                break
            self._begin(attempt)
            begun += 1
        return looked_at + begun or None

    def _begin(self, attempt: Attempt) -> None:
        with self._lock:
            self._in_progress[attempt.webhook_id] += 1
        asyncio.run_coroutine_threadsafe(self._send(attempt), self._running_loop())

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop, which starts with the first attempt."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop_thread = threading.Thread(target=self._loop.run_forever, name="webhook-sender", daemon=True)
            self._loop_thread.start()
        return self._loop

    async def _send(self, attempt: Attempt) -> None:
        try:
            if self._sender is None:
                self._sender = Sender(self._tracer, private_networks=self._private_networks)
            result = await self._sender.send(attempt, self._message_json(attempt))
            settle = self._deliveries.settle
            await asyncio.get_running_loop().run_in_executor(self._threads, settle, attempt, *result)
        except ChatServiceError as error:
            # The claim expires, and the delivery is attempted again.
            _log.warning("The outcome of a delivery was not stored: %s", type(error).__name__)
        finally:
            with self._lock:
                self._in_progress[attempt.webhook_id] -= 1
                self._in_progress = +self._in_progress

    def end(self) -> None:
        """Close the connections. Another worker repeats the attempts in progress."""
        if self._loop is None or self._loop_thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._cancel_attempts(), self._loop).result(END_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_thread.join(END_SECONDS)
        self._loop.close()

    async def _cancel_attempts(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sender is not None:
            await self._sender.close()

    def is_done(self) -> bool:
        """Return whether no attempt is in progress."""
        with self._lock:
            return not self._in_progress
