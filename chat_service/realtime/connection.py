"""One connection: what waits to be sent on it, in order and within bounds, and how it ends.

A message is sent if its seq is larger than that of the last one, so that none is sent twice, whether it comes from the
feed or from a page of missed messages. While a socket catches up, it only notes the seq of what the feed passes on. It
is caught up when a page has held nothing more and the feed has passed on nothing newer.
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
"""What may wait for one reader: the largest batch that can be posted, which alone must not make a reader too slow."""

ALL_QUEUES_BYTES = 64 * 2**20
SHARE_BYTES = 256 * 2**10
"""What may wait in this process, and what may still wait for each reader when that limit is reached."""

STALLED_SECONDS = 20.0
"""A reader that takes nothing for this long, while something waits, is treated as gone."""

FLUSH_SECONDS = 2.0
"""For what is still waiting when a connection is closed."""


class QueuedFrame(NamedTuple):
    """A frame that waits to be sent, with the `seq` of its message if it has one."""

    frame: str
    seq: int | None


class QueuedTotal:
    """How much waits in the queues of all sockets of this process."""

    def __init__(self) -> None:
        self.size = 0


class Socket:
    """A connection to a chat, from its handshake to its end."""

    __slots__ = (
        "_client_ids",
        "_closing",
        "_is_catching_up",
        "_is_paused",
        "_last_known_seq",
        "_last_sent_seq",
        "_progress_at",
        "_queue",
        "_queued_total",
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

    def __init__(self, send: Send, queued_total: QueuedTotal, caller: Caller, chat_id: str, connection_id: str) -> None:
        self.caller = caller
        self.chat_id = chat_id
        self.chat_ref = (caller.tenant_id, chat_id)
        self.connection_id = connection_id
        self.leased_until: datetime | None = None
        self.ends_at: datetime | None = None
        """When its chat expires."""
        self.is_end_known = False
        """Whether the feed has passed on that end since the socket was opened."""
        self.key_ends_at = caller.expires_at
        """When its key ceases to be valid."""
        self.is_open = False
        """Whether the handshake was answered."""
        self.refusal: Close | None = None
        """Why the handshake has to be refused, if there is a reason."""
        self.opened_at = time.monotonic()
        self.renewed_at = self.opened_at
        """Its lease was opened, or last renewed, no earlier than this."""
        self.sent_close: Close | None = None
        self._send = send
        self._queued_total = queued_total
        self._queue: deque[QueuedFrame] = deque()
        self._size = 0
        self._progress_at = self.opened_at
        self._is_catching_up = True
        self._last_sent_seq = 0
        self._last_known_seq = 0
        self._is_paused = False
        self._client_ids: dict[int, str] = {}
        self._sender: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def note_key_end(self, at: datetime | None) -> None:
        """Note an end of its key. An end only moves closer: nothing makes a key valid for longer."""
        if at is not None:
            self.key_ends_at = min(at, self.key_ends_at or at)

    def catch_up(self, after: int, last: int) -> None:
        """Begin after the message `after`. The chat has messages up to `last`."""
        self._last_sent_seq = after
        self._last_known_seq = max(self._last_known_seq, last)

    @property
    def missed_range(self) -> tuple[int, int]:
        """The seq of the last message sent, and of the last known: messages between them have to be looked up."""
        return self._last_sent_seq, self._last_known_seq

    def skip_to(self, seq: int) -> None:
        """Treat everything up to `seq` as sent: a page that was read when `seq` was known held nothing more."""
        self._last_sent_seq = max(self._last_sent_seq, seq)

    def end_catch_up_if_done(self) -> bool:
        """Return whether every known message was sent. If so, messages are accepted from the feed from now on."""
        if self._last_known_seq <= self._last_sent_seq:
            self._is_catching_up = False
        return not self._is_catching_up

    async def send_missed(self, messages: Sequence[tuple[int, str]]) -> int:
        """Send missed messages at the reader's pace; return their size."""
        size = sum(len(frame) for _, frame in messages)
        self._change_size(size)
        if self._is_crowded():
            self.close(TOO_SLOW)
        for seq, frame in messages:
            self._progress_at = time.monotonic()
            await self._send({"type": "websocket.send", "text": frame})
            self._last_sent_seq = seq
            self._change_size(-len(frame))
        return size

    def _is_crowded(self) -> bool:
        return self._queued_total.size > ALL_QUEUES_BYTES and self._size > SHARE_BYTES

    def enqueue_message(self, seq: int, frame: str) -> None:
        """Accept a message from the feed."""
        self._last_known_seq = max(self._last_known_seq, seq)
        if not self._is_catching_up and seq > self._last_sent_seq:
            self._last_sent_seq = seq
            self.enqueue(frame, seq)

    def enqueue(self, frame: str, seq: int | None = None) -> None:
        """Queue the frame behind those that wait. If the reader is too slow for it, the connection is closed."""
        if self._closing is not None:
            return
        if not self._size:
            self._progress_at = time.monotonic()
        self._queue.append(QueuedFrame(frame, seq))
        self._change_size(len(frame))
        if self._size > QUEUE_BYTES or self._is_crowded():
            self.close(TOO_SLOW)
        elif self._sender is None and not self._is_paused and self.is_open:
            self._sender = asyncio.create_task(self._send_queue())

    def is_stalled(self, now: float) -> bool:
        """Return whether something has waited for too long; `now` is of the monotonic clock."""
        return self._size > 0 and not self._is_paused and now - self._progress_at > STALLED_SECONDS

    def pause_sending(self) -> None:
        """Queue frames without sending them until `resume_sending`: a message of this client is being posted."""
        self._is_paused = True

    def set_client_id(self, seq: int, frame: str, client_id: str) -> None:
        """Send this client its own message with its `client_id`, now or when the feed passes it on."""
        is_queued = any(queued.seq == seq for queued in self._queue)
        if seq > self._last_sent_seq or is_queued:
            self._client_ids[seq] = client_id
        else:  # it is a repeated post of a message that was sent long ago
            self.enqueue(frames.with_client_id(frame, client_id))

    def resume_sending(self) -> None:
        """Send again, beginning with what was queued in the pause."""
        self._is_paused = False
        if self._queue and self._sender is None and self._closing is None:
            self._sender = asyncio.create_task(self._send_queue())

    async def _send_queue(self) -> None:
        try:
            while self._queue and not self._is_paused:
                frame, seq = self._queue.popleft()
                self._change_size(-len(frame))
                client_id = self._client_ids.pop(seq, None) if seq is not None else None
                text = frame if client_id is None else frames.with_client_id(frame, client_id)
                await self._send({"type": "websocket.send", "text": text})
                self._progress_at = time.monotonic()
        except OSError:
            self._drop()  # the client has disconnected; the receiving task notices that
        finally:
            self._sender = None

    def _change_size(self, change: int) -> None:
        self._size += change
        self._queued_total.size += change

    def _drop(self) -> None:
        self._queue.clear()
        self._change_size(-self._size)

    def close(self, close: Close, last_frame: str | None = None) -> None:
        """Close the connection, once. What waits, and then `last_frame`, is sent before, if the reader takes it soon.

        If its handshake was not answered yet, only the refusal is noted: the caller that answers it looks at that.
        """
        if not self.is_open:
            self.refusal = self.refusal or close
            return
        if last_frame is not None:
            self.enqueue(last_frame)
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(close))

    async def _close(self, close: Close) -> None:
        self.sent_close = close
        if close is TOO_SLOW:
            self._drop()
        elif self._sender is not None:
            await asyncio.wait([self._sender], timeout=FLUSH_SECONDS)
        self._stop_sending()
        with suppress(OSError, RuntimeError):  # it is closed already
            await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})

    async def end(self) -> None:
        """Release everything: the connection is closed."""
        if self._closing is not None:
            await self._closing
        self._stop_sending()

    def _stop_sending(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        self._drop()
