"""The life of a connection: handshake, lease, missed messages, conversation, end.

The event loop waits for sockets. Everything that asks the database runs in a few threads of its own, so that neither
holds up the other, and HTTP requests keep their threads.
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
"""For handshakes, posts and renewals of all sockets together. Each thread may hold a database connection."""

FIRST_PAGE_MESSAGES, MAX_PAGE_MESSAGES = 10, 200
"""Messages read at once while a socket catches up: a few at first, then as many as are small, up to the maximum."""

PAGE_BYTES = 256 * 2**10
"""The size that the next page should have: it is in memory until its reader has taken it."""

MAX_HANDSHAKES = 200
"""Handshakes in progress in a process. With four threads, the last of them waits for about a second."""

DRAIN_SECONDS = 8.0
"""For closing every socket when the process ends. A client answers a close in its round trip, or is cut off in 5 s."""

_log = logging.getLogger(__name__)


class Sockets:
    """Serves the WebSockets of this process."""

    def __init__(self, repositories: Repositories, origins: Sequence[str], max_connections: int) -> None:
        """Prepare to hold up to `max_connections`; pages of `origins` may open them too."""
        self._repositories = repositories
        self._origins = origins
        self._max_connections = max_connections
        self._worker_id = own_name()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="realtime")
        self._hub = Hub()
        self._queued_total = QueuedTotal()
        self._handshakes = 0
        self._is_ending = False
        self._lease_keeper: asyncio.Task[None] | None = None
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
                socket = await self._connect(handshake, send)
            except ClosedError as refusal:
                logs.write_connection(None, 0.0, *refusal.close)
                await _accept_and_close(send, refusal.close)
            else:
                await self._converse(socket, send, receive)

    async def _connect(self, handshake: gate.Handshake, send: Send) -> Socket:
        """Return the connection with a lease and in the hub, but not caught up.

        Raises:
            ClosedError: the connection is refused.
        """
        with self._as_handshake():
            repositories = self._repositories
            caller, chat_id = await self._run(gate.admit, handshake, repositories)
            after, name = handshake.after, handshake.name
            socket = Socket(send, self._queued_total, caller, chat_id, str(uuid.uuid4()))
            # The feed knows the socket before existing messages are looked up, so that none is missed in between.
            self._hub.add(socket)
            try:
                await self._feed.wait_until_followed(caller.tenant_id)
                opened = await self._run(self._open, socket, name)
                socket.leased_until, last_seq = opened.lease.expires_at, opened.last_seq
                if not socket.is_end_known:
                    socket.ends_at = opened.expires_at
                self._require_open(socket)
            except BaseException as error:
                self._hub.remove(socket)
                # If the server cancels this because the client has disconnected, the thread goes on, and this close
                # tells it. If the thread is done, the next renewal finds the lease.
                socket.close(closing.LEFT)
                self._leases.expect_strays()
                if isinstance(error, OutcomeUnknownError | ClosedError):
                    await self._leases.give_up({socket.connection_id})
                raise
            socket.catch_up(last_seq if after is None else min(after, last_seq), last_seq)
            return socket

    def _open(self, socket: Socket, name: str | None) -> Opened:
        """Open the lease, in a thread, and return it."""
        # The key may have been revoked since it was cached, or since its ticket was made, and before the feed could
        # tell this socket. The key is not read again while the connection lives.
        key = self._repositories.keys.get(socket.caller.tenant_id, socket.caller.key_id)
        socket.note_key_end(key.expires_at)
        if self._repositories.receipts.of_chats(socket.caller.tenant_id, [socket.chat_ref[1]]):
            raise ChatNotFoundError
        opened = self._repositories.presence.open(*socket.chat_ref, socket.connection_id, self._worker_id, name)
        if socket.refusal is not None:
            self._repositories.presence.close(self._worker_id, [socket.connection_id])
        return opened

    def _require_open(self, socket: Socket) -> None:
        """Check that nothing has closed the connection during its handshake.

        Raises:
            ClosedError: something has.
        """
        if self._is_ending:
            raise ClosedError(closing.GOING_AWAY)
        if socket.refusal is not None:
            raise ClosedError(socket.refusal)
        if self._leases.is_lost(socket):  # this process was suspended meanwhile
            raise ClosedError(closing.RECONNECT)

    @contextmanager
    def _as_handshake(self) -> Iterator[None]:
        """Count a handshake in progress, and turn an error in it into the reason of its close."""
        if self._is_ending:
            raise ClosedError(closing.GOING_AWAY)
        if self._handshakes >= MAX_HANDSHAKES or len(self._hub) >= self._max_connections:
            raise ClosedError(closing.TOO_MANY)
        if self._lease_keeper is None:
            self._lease_keeper = asyncio.create_task(self._leases.keep())
        self._handshakes += 1
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
            self._handshakes -= 1

    async def _converse(self, socket: Socket, send: Send, receive: Receive) -> None:
        metrics.count_connection(opened=True)
        code = None
        try:
            # Only now: a client that is connected has a lease, and misses nothing.
            socket.is_open = True
            await send({"type": "websocket.accept"})
            socket.resume_sending()  # sends what the feed has queued meanwhile
            await self._catch_up(socket)
            while (message := await receive())["type"] == "websocket.receive":
                await self._handle_frame(socket, message.get("text"))
            code = message.get("code")
        except ClosedError as refusal:
            socket.close(refusal.close)
        except ChatServiceError:
            socket.close(closing.UNAVAILABLE)
        except OSError:
            pass  # the client has disconnected
        except Exception as error:  # noqa: BLE001 - any error: no connection may outlive its lease
            _log.error("A WebSocket failed: %s", type(error).__name__)
            socket.close(closing.INTERNAL)
        finally:
            await self._end(socket, code)

    async def _catch_up(self, socket: Socket) -> None:
        limit = FIRST_PAGE_MESSAGES
        while not socket.end_catch_up_if_done():
            last_sent, last_known = socket.missed_range
            try:
                messages = await self._run(
                    self._repositories.messages.page, *socket.chat_ref, Span(after=last_sent), limit
                )
            except ChatNotFoundError:
                raise ClosedError(closing.DELETED) from None
            size = await socket.send_missed([(message.seq, frames.message_created(message)) for message in messages])
            if len(messages) < limit and not is_full(messages):
                socket.skip_to(last_known)
            limit = max(1, min(limit * PAGE_BYTES // max(size, 1), MAX_PAGE_MESSAGES))

    async def _handle_frame(self, socket: Socket, text: str | None) -> None:
        """Do what a client's frame asks for, or tell the client why it was not done."""
        if text is None:
            raise ClosedError(closing.BAD_FRAME)
        request, client_id = frames.read(text)
        try:
            if isinstance(request, ValidationFailedError):
                raise request
            await self._post(socket, request, text)
        except InvalidApiKeyError:
            socket.close(closing.NO_KEY)
        except ChatNotFoundError:
            socket.close(closing.DELETED, frames.chat_deleted(socket.chat_id))
        except ChatServiceError as error:
            socket.enqueue(frames.error(error, client_id))

    async def _post(self, socket: Socket, request: MessageCreate, text: str) -> None:
        key = request.idempotency_key(*socket.chat_ref, text)
        socket.pause_sending()
        try:
            posted = await self._run(self._append, socket.caller, socket.chat_id, request.message, key)
            if request.client_id is not None:
                socket.set_client_id(posted.seq, frames.message_created(posted), request.client_id)
        finally:
            socket.resume_sending()

    def _append(self, caller: Caller, chat_id: str, message: NewMessage, key: IdempotencyKey | None) -> models.Message:
        """Post a message for a caller whose key and limits may have changed since the handshake."""
        caller = self._repositories.keys.current(caller)
        if Scope.WRITE not in caller.scopes:
            raise InsufficientScopeError(Scope.WRITE)
        verdict = self._repositories.limits.take(caller, Scope.WRITE)
        if verdict is not None and not verdict.granted:
            raise RateLimitedError(Scope.WRITE, verdict.retry_after)
        return self._repositories.messages.append(caller.tenant_id, chat_id, [message], key)[0]

    async def _end(self, socket: Socket, code: int | None) -> None:
        try:
            await socket.end()
        finally:  # also if the server cancels this, because it no longer waits for a client that is gone
            self._hub.remove(socket)
            metrics.count_connection(opened=False)
            close = socket.sent_close or Close(code or closing.ABNORMAL, "client")
            logs.write_connection(socket.caller, time.monotonic() - socket.opened_at, *close)
            if not self._is_ending:
                await self._leases.give_up({socket.connection_id})

    async def drain(self) -> None:
        """Close every socket with 1001 and give up its presence, because the process ends."""
        self._is_ending = True
        for socket in self._hub:
            socket.close(closing.GOING_AWAY)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wait_until_empty(), DRAIN_SECONDS)
        if self._lease_keeper is not None:
            self._lease_keeper.cancel()
            await self._leases.give_up_all()

    async def _wait_until_empty(self) -> None:
        while len(self._hub) or self._handshakes:  # noqa: ASYNC110 - once in the life of a process
            await asyncio.sleep(0.05)

    async def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run `work` in a thread. It runs to its end, also if its caller is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments))


async def _accept_and_close(send: Send, close: Close) -> None:
    """Accept and close: a browser does not tell its page why a handshake was refused."""
    with suppress(OSError, RuntimeError):  # the client has disconnected
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": close.code, "reason": close.reason})


async def _refuse(send: Send, status: int) -> None:
    """Refuse the handshake with a status and its problem (ASGI's extension `websocket.http.response`)."""
    fields, body = refuse(status)
    headers = [(name.encode(), value.encode()) for name, value in fields]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
