"""Tells webhooks what the log has: many at once, so that a receiver which hangs delays nobody but itself."""

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

OF_WEBHOOK = 4
"""Tries at once to one receiver."""

AT_ONCE = 32
"""Claimed before new entries are looked for."""

END_SECONDS = 2.0
"""To close the connections."""

THREADS = 4
"""That put down what came of tries."""

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
        """`message_json` says what is sent; `tracer` is told of each try."""
        self._tracer = tracer
        self._deliveries = deliveries
        self._message_json = message_json
        self._private_networks = private_networks
        self._under_way: Counter[str] = Counter()
        """Tries, by webhook."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: threading.Thread | None = None
        self._sender: Sender | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook-settle")

    def run_once(self) -> int | None:
        """Make deliveries of new entries, and begin tries that are due; return of how many, None if there were none.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: what was claimed is due again when the claim is over.
        """
        looked_at, begun = self._deliveries.enqueue_some(), 0
        while begun < AT_ONCE:
            with self._lock:
                free = CONNECTIONS - self._under_way.total()
                busy = [webhook_id for webhook_id, number in self._under_way.items() if number >= OF_WEBHOOK]
            attempt = self._deliveries.claim(busy) if free > 0 else None
            if attempt is None:
                break
            self._begin(attempt)
            begun += 1
        return looked_at + begun or None

    def _begin(self, attempt: Attempt) -> None:
        with self._lock:
            self._under_way[attempt.webhook_id] += 1
        asyncio.run_coroutine_threadsafe(self._send(attempt), self._started())

    def _started(self) -> asyncio.AbstractEventLoop:
        """Return the event loop, which begins with the first try."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._sending = threading.Thread(target=self._loop.run_forever, name="webhook-sender", daemon=True)
            self._sending.start()
        return self._loop

    async def _send(self, attempt: Attempt) -> None:
        try:
            if self._sender is None:
                self._sender = Sender(self._tracer, private_networks=self._private_networks)
            told = await self._sender.send(attempt, self._message_json(attempt))
            settle = self._deliveries.settle
            await asyncio.get_running_loop().run_in_executor(self._threads, settle, attempt, *told)
        except ChatServiceError as error:
            # The claim runs out, and it is tried again.
            _log.warning("What came of a delivery was not put down: %s", type(error).__name__)
        finally:
            with self._lock:
                self._under_way[attempt.webhook_id] -= 1
                self._under_way = +self._under_way

    def end(self) -> None:
        """Close the connections; what is under way is tried again by another worker."""
        if self._loop is None or self._sending is None:
            return
        asyncio.run_coroutine_threadsafe(self._let_go(), self._loop).result(END_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._sending.join(END_SECONDS)
        self._loop.close()

    async def _let_go(self) -> None:
        tries = asyncio.all_tasks() - {asyncio.current_task()}
        for one in tries:
            one.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
        if self._sender is not None:
            await self._sender.close()

    def is_done(self) -> bool:
        """Tell whether no try is under way."""
        with self._lock:
            return not self._under_way
