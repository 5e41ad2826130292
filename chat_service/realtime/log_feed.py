"""Those who follow the log: by streams of server-sent events, or by requests that are held until there is more.

None of them has a thread. One task looks at where the logs end that somebody follows, and wakes who has something to
read. What came last is read once and kept for all who are at the end; who is further behind reads for itself.
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
"""For what all listeners ask of the database."""

LOOK_SECONDS = 0.2
"""Between two looks at where the logs end: one command for all."""

KEYS_LOOKS = 10
"""Looks after which it is asked whether a listener's key was revoked or has expired: every 2 s."""

COMMENT_SECONDS = 15.0
"""After so long without an event a comment is sent: what lies between would cut an idle connection (the contract)."""

COMMENT = b": still here\n\n"

ENTRIES = 500
"""Read at once: 0.1 MB."""

Run = Callable[..., Awaitable[Any]]
"""Runs a blocking function in a thread."""

_log = logging.getLogger(__name__)


class _Rendered(NamedTuple):
    """An entry as it goes to many."""

    kind: Kind
    for_governors: bytes
    for_others: bytes


def _render(entry: LogEntry) -> _Rendered:
    kind, text = entry.event.kind, event_text(entry, governs=True)
    return _Rendered(kind, text, event_text(entry, governs=False) if kind.is_confidential else text)


class _End:
    """Where a tenant's log ends, as far as is known here, and what came last."""

    def __init__(self) -> None:
        self.listeners = 0
        self.head: int | None = None
        self.grown = asyncio.Event()
        """Set, and replaced, when it has moved."""
        self._before = 0
        self._last: list[_Rendered] = []
        """The entries from `_before` to the head, if there were few."""

    def move(self, head: int, last: Sequence[LogEntry]) -> None:
        """Wake all who wait; `last` is what came since the last time, or nothing."""
        self.head = head
        self._before = head - len(last)
        self._last = list(map(_render, last))
        self.grown.set()
        self.grown = asyncio.Event()

    def forget(self) -> None:
        """Drop what came last: whoever was going to take it has."""
        self._last = []
        self._before = self.head or 0

    def is_after(self, seq: int) -> bool:
        """Tell whether there may be something after an entry."""
        return self.head is None or seq < self.head

    def since(self, seq: int, kind: Kind | None, *, governs: bool) -> bytes | None:
        """Return the events after an entry; None if they have to be read."""
        if self.head is None or seq < self._before:
            return None
        last = [one for one in self._last[seq - self._before :] if kind in {None, one.kind}]
        return b"".join([one.for_governors if governs else one.for_others for one in last])


class LogFeed:
    """The listeners of this process."""

    def __init__(self, log: Log, keys: ApiKeys, run: Run, most: int, most_of_tenant: int) -> None:
        """Take up to `most` listeners, `most_of_tenant` of one tenant. `run` runs what asks the database."""
        self._log = log
        self._api_keys = keys
        self._run = run
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._count = 0
        self._ends: dict[str, _End] = {}
        self._listening_keys: Counter[str] = Counter()
        """Of the listeners."""
        self._ended: set[str] = set()
        self._watching: asyncio.Task[None] | None = None
        self._is_ending = False

    def is_full_for(self, tenant_id: str) -> bool:
        """Tell whether the tenant gets no further listener."""
        end = self._ends.get(tenant_id)
        return self._count >= self._most or (end is not None and end.listeners >= self._most_of_tenant)

    async def wait(self, tenant_id: str, after: int, kind: Kind | None, seconds: float) -> None:
        """Return when the log has an entry of the kind after this one, or when the time is over.

        Raises:
            ChatServiceError: the database did not answer.
        """
        with suppress(TimeoutError), self._listening(tenant_id) as end:
            async with asyncio.timeout(seconds):
                while not self._is_ending:
                    grown = end.grown
                    page = await self._run(self._log.page, tenant_id, after, 1, kind)
                    if page.entries:
                        return
                    if page.next_after >= page.head:
                        await grown.wait()
                    after = page.next_after

    async def stream(self, listener: Listener) -> AsyncIterator[bytes]:
        """Give the events of the listener as they come, until its key ends or the process ends."""
        tenant_id, key_id = listener.caller.tenant_id, listener.caller.key_id
        after = listener.after
        metrics.count_listener(opened=True)
        self._listening_keys[key_id] += 1
        try:
            with self._listening(tenant_id) as end:
                while not self._is_ending and key_id not in self._ended:
                    grown = end.grown
                    text, after = await self._next(end, listener, after)
                    if text:
                        yield text
                    elif not end.is_after(after):
                        with suppress(TimeoutError):
                            await asyncio.wait_for(grown.wait(), COMMENT_SECONDS)
                            continue
                        yield COMMENT
        finally:
            self._listening_keys[key_id] -= 1
            self._listening_keys = +self._listening_keys
            metrics.count_listener(opened=False)

    async def _next(self, end: _End, listener: Listener, after: int) -> tuple[bytes, int]:
        """Return the next events after an entry, and the entry up to which that was looked at."""
        governs = listener.caller.governs
        known = end.since(after, listener.kind, governs=governs)
        if known is not None:
            return known, max(after, end.head or 0)
        try:
            page = await self._run(self._log.page, listener.caller.tenant_id, after, ENTRIES, listener.kind)
        except ChatServiceError:
            await asyncio.sleep(1)
            return b"", after
        if end.head is None:
            end.move(page.head, ())
        return b"".join([event_text(entry, governs=governs) for entry in page.entries]), page.next_after

    @contextmanager
    def _listening(self, tenant_id: str) -> Iterator[_End]:
        """Count a listener, and have its log looked at."""
        end = self._ends.setdefault(tenant_id, _End())
        end.listeners += 1
        self._count += 1
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            yield end
        finally:
            end.listeners -= 1
            self._count -= 1
            if not end.listeners:
                del self._ends[tenant_id]

    async def _watch(self) -> None:
        """Look at where the logs end, as long as anybody listens."""
        looks = 0
        while self._ends:
            try:
                await self._look()
                if looks % KEYS_LOOKS == 0:
                    self._ended = await self._run(self._api_keys.ended, list(self._listening_keys))
                    if self._ended:
                        self._wake_all()
            except ChatServiceError as error:
                _log.warning("The log was not looked at: %s", type(error).__name__)
            looks += 1
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        heads = await self._run(self._log.heads, list(self._ends))
        for tenant_id, end in list(self._ends.items()):
            head = heads.get(tenant_id, 0)
            if head == end.head:
                end.forget()
            elif end.head is None or head - end.head > ENTRIES:
                end.move(head, ())
            else:
                page = await self._run(self._log.page, tenant_id, end.head, ENTRIES, None)
                end.move(page.head, page.entries if page.next_after == page.head else ())

    def _wake_all(self) -> None:
        for end in self._ends.values():
            end.grown.set()
            end.grown = asyncio.Event()

    def end(self) -> None:
        """Let all listeners go: their clients come back, to another process."""
        self._is_ending = True
        self._wake_all()
