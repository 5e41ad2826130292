"""The life of a connection: handshake, lease, what was missed, conversation, end.

The event loop waits for sockets; everything that asks the database runs in a few threads of its own, so that neither
holds up the other, and requests over HTTP keep theirs.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from chat_service import models
from chat_service.api.context import Repositories
from chat_service.api.refusals import refuse
from chat_service.errors import (
    ChatNotFoundError,
    ChatServiceError,
    InsufficientScopeError,
    InvalidApiKeyError,
    OutcomeUnknownError,
    RateLimitedError,
    TooManyConnectionsError,
    ValidationFailedError,
)
from chat_service.models import Caller, IdempotencyKey, NewMessage, Scope, Span
from chat_service.realtime import closing, frames, gate
from chat_service.realtime.closing import Close, ClosedError
from chat_service.realtime.connection import QueuedTotal, Socket
from chat_service.realtime.feed import Feed
from chat_service.realtime.frames import MessageCreate
from chat_service.realtime.hub import Hub
from chat_service.realtime.leases import Leases
from chat_service.repository.changes import Changes
from chat_service.repository.messages import is_full
from chat_service.repository.presence import Opened
from chat_service.repository.processes import own_name
from chat_service.telemetry import logs, metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

THREADS = 4
"""For handshakes, posts and renewals of all sockets together; each may hold a database connection."""

FIRST_LOOK, MISSED_MESSAGES = 10, 200
"""Read at once while a socket catches up: a few at first, and then as many as are small, up to so many."""

LOOK_BYTES = 256 * 2**10
"""What the next look should find: it lies in memory until its reader has taken it."""

ARRIVING_MOST = 200
"""Handshakes under way in a process; with four threads the last of them waits for about a second."""

DRAIN_SECONDS = 8.0
"""For closing every socket when the process ends: a client answers a close in its round trip, or is cut off in 5 s."""

_log = logging.getLogger(__name__)


class Sockets:
    """Serves the WebSockets of this process."""

    def __init__(self, repositories: Repositories, origins: Sequence[str], most: int) -> None:
        """Prepare to hold up to `most` connections; pages of `origins` may open them too."""
        self._repositories = repositories
        self._origins = origins
        self._most = most
        self._worker_id = own_name()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="realtime")
        self._hub = Hub()
        self._outboxes = QueuedTotal()
        self._arriving = 0
        self._is_ending = False
        self._keeping: asyncio.Task[None] | None = None
        self._feed = Feed(Changes(repositories.database), repositories.chats, repositories.presence, self._hub)
        now = repositories.database.now
        self._leases = Leases(repositories.presence, self._hub, self._worker_id, now, self._run)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        await receive()
        handshake = gate.read(scope)
        if handshake is None:
            await _refuse(send, 404)
        elif not gate.is_allowed_origin(scope, self._origins):
            await _refuse(send, 403)
        else:
            try:
                socket = await self._let_in(handshake, send)
            except ClosedError as refusal:
                logs.write_connection(None, 0.0, *refusal.close)
                await _turn_away(send, refusal.close)
            else:
                await self._converse(socket, send, receive)

    async def _let_in(self, handshake: gate.Handshake, send: Send) -> Socket:
        """Return the connection, leased and in the hub, but not caught up.

        Raises:
            ClosedError: it cannot be let in.
        """
        with self._as_arrival():
            repositories = self._repositories
            caller, chat_id = await self._run(gate.admit, handshake, repositories)
            after, name = handshake.after, handshake.name
            socket = Socket(send, self._outboxes, caller, chat_id, str(uuid.uuid4()))
            # Known to the feed before it is looked at what was there already, so that nothing falls in between.
            self._hub.add(socket)
            try:
                await self._feed.wait_until_followed(caller.tenant_id)
                opened = await self._run(self._open, socket, name)
                socket.leased_until, last = opened.lease.expires_at, opened.last_seq
                if not socket.is_end_known:
                    socket.ends_at = opened.expires_at
                self._require_open_door(socket)
            except BaseException as error:
                self._hub.remove(socket)
                # If the server cancels this because the client has left, the thread goes on, and hears of it from here;
                # or else it is done, and the next renewal finds the lease.
                socket.close(closing.LEFT)
                self._leases.expect_strays()
                if isinstance(error, OutcomeUnknownError | ClosedError):
                    await self._leases.give_up({socket.connection_id})
                raise
            socket.catch_up(last if after is None else min(after, last), last)
            return socket

    def _open(self, socket: Socket, name: str | None) -> Opened:
        """Open the lease, in a thread, and return it."""
        # The key may have been revoked since it was cached, or since its ticket was made, and before the feed could
        # tell this socket. It will not be asked for again as long as the connection lives.
        key = self._repositories.keys.get(socket.caller.tenant_id, socket.caller.key_id)
        socket.note_key_end(key.expires_at)
        if self._repositories.receipts.of_chats(socket.caller.tenant_id, [socket.chat_ref[1]]):
            raise ChatNotFoundError
        opened = self._repositories.presence.open(*socket.chat_ref, socket.connection_id, self._worker_id, name)
        if socket.refusal is not None:
            self._repositories.presence.close(self._worker_id, [socket.connection_id])
        return opened

    def _require_open_door(self, socket: Socket) -> None:
        """See that nothing has happened to the connection while it was on its way in.

        Raises:
            ClosedError: something has.
        """
        if self._is_ending:
            raise ClosedError(closing.GOING_AWAY)
        if socket.refusal is not None:
            raise ClosedError(socket.refusal)
        if self._leases.is_lost(socket):  # this process was stopped meanwhile
            raise ClosedError(closing.RECONNECT)

    @contextmanager
    def _as_arrival(self) -> Iterator[None]:
        """Count a handshake that is under way, and turn what is raised in it into how it is closed."""
        if self._is_ending:
            raise ClosedError(closing.GOING_AWAY)
        if self._arriving >= ARRIVING_MOST or len(self._hub) >= self._most:
            raise ClosedError(closing.TOO_MANY)
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._leases.keep())
        self._arriving += 1
        try:
            yield
        except ChatNotFoundError:
            raise ClosedError(closing.NO_CHAT) from None
        except InvalidApiKeyError:
            raise ClosedError(closing.NO_KEY) from None
        except TooManyConnectionsError:
            raise ClosedError(closing.TOO_MANY) from None
        except ChatServiceError:
            raise ClosedError(closing.UNAVAILABLE) from None
        finally:
            self._arriving -= 1

    async def _converse(self, socket: Socket, send: Send, receive: Receive) -> None:
        metrics.count_connection(opened=True)
        code = None
        try:
            # Only now: a client that is connected counts, and misses nothing.
            socket.is_open = True
            await send({"type": "websocket.accept"})
            socket.resume_sending()  # what the feed had for it meanwhile
            await self._catch_up(socket)
            while (message := await receive())["type"] == "websocket.receive":
                await self._hear(socket, message.get("text"))
            code = message.get("code")
        except ClosedError as refusal:
            socket.close(refusal.close)
        except ChatServiceError:
            socket.close(closing.UNAVAILABLE)
        except OSError:
            pass  # the client has left
        except Exception as error:  # noqa: BLE001 - whatever it was: the lease outlives the connection, not the reverse
            _log.error("A connection failed: %s", type(error).__name__)
            socket.close(closing.INTERNAL)
        finally:
            await self._end(socket, code)

    async def _catch_up(self, socket: Socket) -> None:
        limit = FIRST_LOOK
        while not socket.end_catch_up_if_done():
            sent, known = socket.missed_range
            try:
                found = await self._run(self._repositories.messages.page, *socket.chat_ref, Span(after=sent), limit)
            except ChatNotFoundError:
                raise ClosedError(closing.DELETED) from None
            size = await socket.send_missed([(message.seq, frames.message_created(message)) for message in found])
            if len(found) < limit and not is_full(found):
                socket.skip_to(known)
            limit = max(1, min(limit * LOOK_BYTES // max(size, 1), MISSED_MESSAGES))

    async def _hear(self, socket: Socket, text: str | None) -> None:
        """Do what a client's frame asks for, and tell it what was not done."""
        if text is None:
            raise ClosedError(closing.BAD_FRAME)
        wanted, client_id = frames.read(text)
        try:
            if isinstance(wanted, ValidationFailedError):
                raise wanted
            await self._post(socket, wanted, text)
        except InvalidApiKeyError:
            socket.close(closing.NO_KEY)
        except ChatNotFoundError:
            socket.close(closing.DELETED, frames.chat_deleted(socket.chat_id))
        except ChatServiceError as error:
            socket.enqueue(frames.error(error, client_id))

    async def _post(self, socket: Socket, wanted: MessageCreate, text: str) -> None:
        key = wanted.idempotency_key(*socket.chat_ref, text)
        socket.pause_sending()
        try:
            posted = await self._run(self._append, socket.caller, socket.chat_id, wanted.message, key)
            if wanted.client_id is not None:
                socket.set_client_id(posted.seq, frames.message_created(posted), wanted.client_id)
        finally:
            socket.resume_sending()

    def _append(self, caller: Caller, chat_id: str, new: NewMessage, key: IdempotencyKey | None) -> models.Message:
        """Post a message for a caller whose key and limits may have changed since the handshake."""
        caller = self._repositories.keys.current(caller)
        if Scope.WRITE not in caller.scopes:
            raise InsufficientScopeError(Scope.WRITE)
        verdict = self._repositories.limits.take(caller, Scope.WRITE)
        if verdict is not None and not verdict.granted:
            raise RateLimitedError(Scope.WRITE, verdict.retry_after)
        return self._repositories.messages.append(caller.tenant_id, chat_id, [new], key)[0]

    async def _end(self, socket: Socket, code: int | None) -> None:
        try:
            await socket.end()
        finally:  # also when the server loses its patience with a client that is gone, and cancels this
            self._hub.remove(socket)
            metrics.count_connection(opened=False)
            close = socket.sent_close or Close(code or closing.ABNORMAL, "client")
            logs.write_connection(socket.caller, time.monotonic() - socket.opened_at, *close)
            if not self._is_ending:
                await self._leases.give_up({socket.connection_id})

    async def drain(self) -> None:
        """Close every socket with 1001 and give its presence up, because the process ends."""
        self._is_ending = True
        for socket in self._hub:
            socket.close(closing.GOING_AWAY)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty(), DRAIN_SECONDS)
        if self._keeping is not None:
            self._keeping.cancel()
            await self._leases.give_up_all()

    async def _is_empty(self) -> None:
        while len(self._hub) or self._arriving:  # noqa: ASYNC110 - once in the life of a process
            await asyncio.sleep(0.05)

    async def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run something in a thread. It is done to its end, also when nobody waits for it any more."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments))


async def _turn_away(send: Send, close: Close) -> None:
    """Accept and close: a browser tells its page nothing of a handshake that was refused."""
    with suppress(OSError, RuntimeError):  # the client has left
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": close.code, "reason": close.reason})


async def _refuse(send: Send, status: int) -> None:
    """Refuse the handshake with a status and its problem (ASGI's extension `websocket.http.response`)."""
    fields, body = refuse(status)
    headers = [(name.encode(), value.encode()) for name, value in fields]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
