"""A process that opens and closes connections to a few chats for a while, and then tells what it saw.

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
    """When the 101 had come."""
    ended_at: float
    """Just before the client closed it, or when the server's close came."""
    code: int


async def visit(line: Line, chat_id: str, seconds: float) -> Stay:
    """Stay for a while, or until the server closes."""
    ending = asyncio.create_task(line.closed())
    await asyncio.wait([ending], timeout=seconds)
    ended_at = time.monotonic()
    if not ending.done():
        line.send((1000).to_bytes(2), CLOSE)
    found = await ending
    line.writer.close()
    return Stay(chat_id, line.opened_at, ended_at, found.code)


Opener = Callable[[str], Awaitable[Line]]


async def wander(open_line: Opener, chats: set[str], moments: Random, until: float) -> list[Stay]:
    """Connect to one chat after the other, as long as there are some."""
    stays = []
    while chats and time.monotonic() < until:
        chat_id = moments.choice(sorted(chats))
        asked_at = time.monotonic()
        try:
            line = await open_line(chat_id)
        except RefusedError:
            continue
        longest = max(STAY_SECONDS, 2 * (line.opened_at - asked_at))  # or a slow machine's deletes meet nobody
        stays.append(await visit(line, chat_id, moments.random() * longest))
        if stays[-1].code == GONE:
            chats.discard(chat_id)
    return stays


async def main() -> None:
    port, access, chat_ids, seed, seconds = json.loads(sys.argv[1])
    until = time.monotonic() + seconds
    chats, open_line = set(chat_ids), partial(Line.open, port, access=TenantAccess(*access))
    found = await asyncio.gather(*(wander(open_line, chats, Random(seed + number), until) for number in range(LINES)))
    sys.stdout.write(json.dumps([stay for stays in found for stay in stays]))


if __name__ == "__main__":
    asyncio.run(main())
