"""One connection: what waits to be sent on it, in order and within bounds, and how it ends.

A message is sent when its seq is larger than the last one's, so that none is sent twice, wherever it came from: the
feed, or a look at what was missed. While it catches up, a socket only notes what the feed has; it is caught up when a
look has found nothing more and the feed has had nothing newer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from chat_service.models import Caller
from chat_service.realtime import frames
from chat_service.realtime.closing import TOO_SLOW, Close

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

QUEUE_BYTES = 4 * 2**20
"""What may wait for one reader: the largest batch that can be posted, so that it alone makes nobody slow."""

ALL_QUEUES_BYTES = 64 * 2**20
SHARE_BYTES = 256 * 2**10
"""What may wait in this process, and what each reader may have waiting even when that is reached."""

STALLED_SECONDS = 20.0
"""A reader that has taken nothing for so long, while something waited, is gone or as good as gone."""

LAST_WORDS_SECONDS = 2.0
"""For what is still waiting when a connection is closed."""


class QueuedFrame(NamedTuple):
    """A frame that waits to be sent; `seq` if it tells of a message."""

    frame: str
    seq: int | None


class QueuedTotal:
    """How much waits in the outboxes of all sockets of this process."""

    def __init__(self) -> None:
        self.size = 0


class Socket:
    """A connection to a chat that was let in."""

    __slots__ = (
        "_catching_up",
        "_closing",
        "_last_seq",
        "_mine",
        "_moved_at",
        "_outbox",
        "_outboxes",
        "_posting",
        "_seen",
        "_send",
        "_sender",
        "_size",
        "caller",
        "chat_id",
        "chat_ref",
        "connection_id",
        "ends_at",
        "is_end_known",
        "is_open",
        "key_ends_at",
        "leased_until",
        "opened_at",
        "refusal",
        "renewed_at",
        "sent_close",
    )

    def __init__(self, send: Send, outboxes: QueuedTotal, caller: Caller, chat_id: str, connection_id: str) -> None:
        self.caller = caller
        self.chat_id = chat_id
        self.chat_ref = (caller.tenant_id, chat_id)
        self.connection_id = connection_id
        self.leased_until: datetime | None = None
        self.ends_at: datetime | None = None
        """When its chat is gone."""
        self.is_end_known = False
        """Whether the feed has told that since the socket came."""
        self.key_ends_at = caller.expires_at
        """When its key is none any more."""
        self.is_open = False
        """Whether the handshake was answered."""
        self.refusal: Close | None = None
        """Why it is not to be answered, if there is a reason."""
        self.opened_at = time.monotonic()
        self.renewed_at = self.opened_at
        """Its lease was not asked for, or renewed, before this."""
        self.sent_close: Close | None = None
        self._send = send
        self._outboxes = outboxes
        self._outbox: deque[QueuedFrame] = deque()
        self._size = 0
        self._moved_at = self.opened_at
        self._catching_up = True
        self._last_seq = 0
        self._seen = 0
        self._posting = False
        self._mine: dict[int, str] = {}
        self._sender: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def note_key_end(self, at: datetime | None) -> None:
        """Take note of an end of its key. It only comes sooner: nothing makes a key's life longer."""
        if at is not None:
            self.key_ends_at = min(at, self.key_ends_at or at)

    def catch_up(self, after: int, last: int) -> None:
        """Begin after the message `after`; there are messages up to `last`."""
        self._last_seq = after
        self._seen = max(self._seen, last)

    @property
    def missed_range(self) -> tuple[int, int]:
        """The last message that was sent, and the last that is known of: what lies between is to be looked up."""
        return self._last_seq, self._seen

    def skip_to(self, seq: int) -> None:
        """Take everything up to `seq` for sent: a look that was begun when it was there has found nothing more."""
        self._last_seq = max(self._last_seq, seq)

    def end_catch_up_if_done(self) -> bool:
        """Tell whether nothing is known of that was not sent; if so, messages are taken from the feed from now on."""
        if self._seen <= self._last_seq:
            self._catching_up = False
        return not self._catching_up

    async def send_missed(self, messages: Sequence[tuple[int, str]]) -> int:
        """Send messages that were missed, at the pace of the reader; return how large they are."""
        size = sum(len(frame) for _, frame in messages)
        self._count(size)
        if self._is_crowded():
            self.close(TOO_SLOW)
        for seq, frame in messages:
            self._moved_at = time.monotonic()
            await self._send({"type": "websocket.send", "text": frame})
            self._last_seq = seq
            self._count(-len(frame))
        return size

    def _is_crowded(self) -> bool:
        return self._outboxes.size > ALL_QUEUES_BYTES and self._size > SHARE_BYTES

    def enqueue_message(self, seq: int, frame: str) -> None:
        """Take a message from the feed."""
        self._seen = max(self._seen, seq)
        if not self._catching_up and seq > self._last_seq:
            self._last_seq = seq
            self.enqueue(frame, seq)

    def enqueue(self, frame: str, seq: int | None = None) -> None:
        """Have the frame sent after those that wait. A reader that is too slow for it is let go."""
        if self._closing is not None:
            return
        if not self._size:
            self._moved_at = time.monotonic()
        self._outbox.append(QueuedFrame(frame, seq))
        self._count(len(frame))
        if self._size > QUEUE_BYTES or self._is_crowded():
            self.close(TOO_SLOW)
        elif self._sender is None and not self._posting and self.is_open:
            self._sender = asyncio.create_task(self._empty_outbox())

    def is_stalled(self, now: float) -> bool:
        """Tell whether something has waited for too long; `now` is of the monotonic clock."""
        return self._size > 0 and not self._posting and now - self._moved_at > STALLED_SECONDS

    def pause_sending(self) -> None:
        """Keep what comes until `resume_sending`: a message of this client is on its way."""
        self._posting = True

    def set_client_id(self, seq: int, frame: str, client_id: str) -> None:
        """Tell this client its own message under its own name for it, now or when the feed has it."""
        waits = any(waiting.seq == seq for waiting in self._outbox)
        if seq > self._last_seq or waits:
            self._mine[seq] = client_id
        else:  # it is the repetition of one that was sent long ago
            self.enqueue(frames.with_client_id(frame, client_id))

    def resume_sending(self) -> None:
        """Go on sending."""
        self._posting = False
        if self._outbox and self._sender is None and self._closing is None:
            self._sender = asyncio.create_task(self._empty_outbox())

    async def _empty_outbox(self) -> None:
        try:
            while self._outbox and not self._posting:
                frame, seq = self._outbox.popleft()
                self._count(-len(frame))
                client_id = self._mine.pop(seq, None) if seq is not None else None
                text = frame if client_id is None else frames.with_client_id(frame, client_id)
                await self._send({"type": "websocket.send", "text": text})
                self._moved_at = time.monotonic()
        except OSError:
            self._drop()  # the client has left; whoever listens to it hears of that
        finally:
            self._sender = None

    def _count(self, more: int) -> None:
        self._size += more
        self._outboxes.size += more

    def _drop(self) -> None:
        self._outbox.clear()
        self._count(-self._size)

    def close(self, close: Close, last: str | None = None) -> None:
        """Close the connection, once; `last` is sent before, with what waits, if the reader takes it soon.

        One whose handshake was not answered yet is refused by whoever is about to answer it.
        """
        if not self.is_open:
            self.refusal = self.refusal or close
            return
        if last is not None:
            self.enqueue(last)
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(close))

    async def _close(self, close: Close) -> None:
        self.sent_close = close
        if close is TOO_SLOW:
            self._drop()
        elif self._sender is not None:
            await asyncio.wait([self._sender], timeout=LAST_WORDS_SECONDS)
        self._stop_sending()
        with suppress(OSError, RuntimeError):  # it has closed by itself
            await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})

    async def end(self) -> None:
        """Let go of everything; the connection is closed."""
        if self._closing is not None:
            await self._closing
        self._stop_sending()

    def _stop_sending(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        self._drop()
