"""What a WebSocket waits with.

asyncio's own Event and Queue make a deque of 0.6 KB for every list of waiters, which is nearly always empty: 6 KB for
each connection that does nothing.
"""

import asyncio
from typing import Any


class Flag:
    """Like asyncio.Event."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake whoever waits."""
        self._is_set = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Have the next one wait."""
        self._is_set = False

    async def wait(self) -> None:
        """Return when it is set."""
        if not self._is_set:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)


class Mailbox:
    """Like asyncio.Queue without a limit, for one reader."""

    __slots__ = ("_has_some", "_items")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._has_some = Flag()

    def qsize(self) -> int:
        """Return how many items there are."""
        return len(self._items)

    async def put(self, item: Any) -> None:
        """Add an item."""
        self._items.append(item)
        self._has_some.set()

    async def get(self) -> Any:
        """Take the oldest item; wait for one."""
        while not self._items:
            self._has_some.clear()
            await self._has_some.wait()
        return self._items.pop(0)
