"""Serves the listeners of the log: streams of server-sent events, and long polls, which wait until there is more.

No listener has a thread. One task checks the heads of the logs that have listeners, and wakes those with something to
read. The latest entries are read once and kept for all listeners at the head. A listener further behind reads its own.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from chat_service.api.log import Listener, event_text
from chat_service.errors import ChatServiceError
from chat_service.models import Kind, LogEntry
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.log import Log
from chat_service.telemetry import metrics

THREADS = 2
"""For the database queries of all listeners."""

LOOK_SECONDS = 0.2
"""Between two checks of the heads: one command for all of them."""

KEY_CHECK_INTERVAL = 10
"""After so many checks, the listeners' keys are checked too, for revocation and expiry: every 2 s."""

COMMENT_SECONDS = 15.0
"""After so long without an event a comment is sent, or proxies would cut the idle connection (see the contract)."""

COMMENT = b": still here\n\n"

ENTRIES = 500
"""Entries that are read at once: 0.1 MB."""

Run = Callable[..., Awaitable[Any]]
"""Runs a blocking function in a thread."""

_log = logging.getLogger(__name__)


class _Rendered(NamedTuple):
    """An entry as it is sent to many listeners."""

    kind: Kind
    for_governors: bytes
    for_others: bytes


def _render(entry: LogEntry) -> _Rendered:
    kind, text = entry.event.kind, event_text(entry, governs=True)
    return _Rendered(kind, text, event_text(entry, governs=False) if kind.is_confidential else text)


class _LogEnd:
    """Where a tenant's log ends, as far as this process knows, and its latest entries."""

    def __init__(self) -> None:
        self.listeners = 0
        self.head: int | None = None
        self.grown = asyncio.Event()
        """Set, and replaced, when the head has moved."""
        self._last_after = 0
        self._last: list[_Rendered] = []
        """The entries after `_last_after` up to the head, if there were few."""

    def move(self, head: int, last: Sequence[LogEntry]) -> None:
        """Move the head, and wake all listeners. `last` is every entry since the last move, or empty."""
        self.head = head
        self._last_after = head - len(last)
        self._last = list(map(_render, last))
        self.grown.set()
        self.grown = asyncio.Event()

    def forget(self) -> None:
        """Drop the latest entries: every listener at the head has read them."""
        self._last = []
        self._last_after = self.head or 0

    def has_after(self, seq: int) -> bool:
        """Return whether there may be something after an entry."""
        return self.head is None or seq < self.head

    def since(self, seq: int, kind: Kind | None, *, governs: bool) -> bytes | None:
        """Return the events after an entry; None if they have to be read from the database."""
        if self.head is None or seq < self._last_after:
            return None
        last = [entry for entry in self._last[seq - self._last_after :] if kind in {None, entry.kind}]
        return b"".join([entry.for_governors if governs else entry.for_others for entry in last])


class LogFeed:
    """The listeners of this process."""

    def __init__(self, log: Log, keys: ApiKeys, run: Run, max_listeners: int, max_of_tenant: int) -> None:
        """Accept up to `max_listeners`, `max_of_tenant` of one tenant. `run` runs what asks the database."""
        self._log = log
        self._api_keys = keys
        self._run = run
        self._max_listeners = max_listeners
        self._max_of_tenant = max_of_tenant
        self._count = 0
        self._log_ends: dict[str, _LogEnd] = {}
        self._listening_keys: Counter[str] = Counter()
        """How many listeners each key has."""
        self._ended_keys: set[str] = set()
        self._watching: asyncio.Task[None] | None = None
        self._is_ending = False

    def is_full_for(self, tenant_id: str) -> bool:
        """Return whether the tenant may have no further listener."""
        log_end = self._log_ends.get(tenant_id)
        return self._count >= self._max_listeners or (log_end is not None and log_end.listeners >= self._max_of_tenant)

    async def wait(self, tenant_id: str, after: int, kind: Kind | None, seconds: float) -> None:
        """Return when the log has an entry of the kind after `after`, or when the time is over.

        Raises:
            ChatServiceError: the database did not answer.
        """
        with suppress(TimeoutError), self._listening(tenant_id) as log_end:
            async with asyncio.timeout(seconds):
                while not self._is_ending:
                    grown = log_end.grown
                    page = await self._run(self._log.page, tenant_id, after, 1, kind)
                    if page.entries:
                        return
                    if page.next_after >= page.head:
                        await grown.wait()
                    after = page.next_after

    async def stream(self, listener: Listener) -> AsyncIterator[bytes]:
        """Yield the listener's events as they come, until its key ends or the process ends."""
        tenant_id, key_id = listener.caller.tenant_id, listener.caller.key_id
        after = listener.after
        metrics.count_listener(opened=True)
        self._listening_keys[key_id] += 1
        try:
            with self._listening(tenant_id) as log_end:
                while not self._is_ending and key_id not in self._ended_keys:
                    grown = log_end.grown
                    text, after = await self._next_events(log_end, listener, after)
                    if text:
                        yield text
                    elif not log_end.has_after(after):
                        with suppress(TimeoutError):
                            await asyncio.wait_for(grown.wait(), COMMENT_SECONDS)
                            continue
                        yield COMMENT
        finally:
            self._listening_keys[key_id] -= 1
            self._listening_keys = +self._listening_keys
            metrics.count_listener(opened=False)

    async def _next_events(self, log_end: _LogEnd, listener: Listener, after: int) -> tuple[bytes, int]:
        """Return the next events after an entry, and the seq of the entry up to which they were looked up."""
        governs = listener.caller.governs
        events = log_end.since(after, listener.kind, governs=governs)
        if events is not None:
            return events, max(after, log_end.head or 0)
        try:
            page = await self._run(self._log.page, listener.caller.tenant_id, after, ENTRIES, listener.kind)
        except ChatServiceError:
            await asyncio.sleep(1)
            return b"", after
        if log_end.head is None:
            log_end.move(page.head, ())
        return b"".join([event_text(entry, governs=governs) for entry in page.entries]), page.next_after

    @contextmanager
    def _listening(self, tenant_id: str) -> Iterator[_LogEnd]:
        """Count a listener, and have its log checked."""
        log_end = self._log_ends.setdefault(tenant_id, _LogEnd())
        log_end.listeners += 1
        self._count += 1
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            yield log_end
        finally:
            log_end.listeners -= 1
            self._count -= 1
            if not log_end.listeners:
                del self._log_ends[tenant_id]

    async def _watch(self) -> None:
        """Check the heads of the logs, as long as there are listeners."""
        checks = 0
        while self._log_ends:
            try:
                await self._check_heads()
                if checks % KEY_CHECK_INTERVAL == 0:
                    self._ended_keys = await self._run(self._api_keys.ended, list(self._listening_keys))
                    if self._ended_keys:
                        self._wake_all()
            except ChatServiceError as error:
                _log.warning("The log could not be checked for new entries: %s", type(error).__name__)
            checks += 1
            await asyncio.sleep(LOOK_SECONDS)

    async def _check_heads(self) -> None:
        heads = await self._run(self._log.heads, list(self._log_ends))
        for tenant_id, log_end in list(self._log_ends.items()):
            head = heads.get(tenant_id, 0)
            if head == log_end.head:
                log_end.forget()
            elif log_end.head is None or head - log_end.head > ENTRIES:
                log_end.move(head, ())
            else:
                page = await self._run(self._log.page, tenant_id, log_end.head, ENTRIES, None)
                log_end.move(page.head, page.entries if page.next_after == page.head else ())

    def _wake_all(self) -> None:
        for log_end in self._log_ends.values():
            log_end.grown.set()
            log_end.grown = asyncio.Event()

    def end(self) -> None:
        """End all listeners. Their clients reconnect, to another process."""
        self._is_ending = True
        self._wake_all()
