"""A process that opens and closes connections to a few chats for a while, and then prints what it saw as JSON.

python -m tests.realtime.connector '[port, ["tenant", "key", "key id"], ["chat", …], seed, seconds]'
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import NamedTuple

from tests.client import TenantAccess
from tests.realtime.line import CLOSE, Line, RefusedError

GONE = 4404
LINES = 16
STAY_SECONDS = 0.3


class Stay(NamedTuple):
    """One connection as its client saw it; times of the monotonic clock, which all processes share."""

    chat_id: str
    opened_at: float
    """When the 101 had arrived."""
    ended_at: float
    """Just before the client closed it, or when the server's close arrived."""
    code: int


async def visit(line: Line, chat_id: str, seconds: float) -> Stay:
    """Stay for a while, or until the server closes."""
    closing = asyncio.create_task(line.closed())
    await asyncio.wait([closing], timeout=seconds)
    ended_at = time.monotonic()
    if not closing.done():
        line.send((1000).to_bytes(2), CLOSE)
    close = await closing
    line.writer.close()
    return Stay(chat_id, line.opened_at, ended_at, close.code)


Opener = Callable[[str], Awaitable[Line]]


async def wander(open_line: Opener, chats: set[str], rng: Random, until: float) -> list[Stay]:
    """Connect to one random chat after the other until the time is up or all chats are deleted."""
    stays = []
    while chats and time.monotonic() < until:
        chat_id = rng.choice(sorted(chats))
        requested_at = time.monotonic()
        try:
            line = await open_line(chat_id)
        except RefusedError:
            continue
        # Else no delete on a slow machine meets a connection.
        longest_seconds = max(STAY_SECONDS, 2 * (line.opened_at - requested_at))
        stays.append(await visit(line, chat_id, rng.random() * longest_seconds))
        if stays[-1].code == GONE:
            chats.discard(chat_id)
    return stays


async def main() -> None:
    port, access, chat_ids, seed, seconds = json.loads(sys.argv[1])
    until = time.monotonic() + seconds
    chats, open_line = set(chat_ids), partial(Line.open, port, access=TenantAccess(*access))
    stays = await asyncio.gather(*(wander(open_line, chats, Random(seed + number), until) for number in range(LINES)))
    sys.stdout.write(json.dumps([stay for stays_of_line in stays for stay in stays_of_line]))


if __name__ == "__main__":
    asyncio.run(main())
