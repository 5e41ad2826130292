"""Passes changes on from the database to the sockets: a commit of any process reaches every socket of its chat here.

One thread reads the change stream as long as this process has sockets. It hands over changes that concern one of them;
the event loop does the rest. If the feed is lost, every socket is closed, so that clients reconnect and ask for what
they missed.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from datetime import datetime

from chat_service.errors import ChangesLostError, ChatNotFoundError, ChatServiceError, DatabaseUnavailableError
from chat_service.models import Change, ChatGone, ChatUpdated, KeyExpires, KeyRevoked, MessageCreated
from chat_service.realtime import frames
from chat_service.realtime.closing import DELETED, NO_KEY, RECONNECT
from chat_service.realtime.hub import Hub
from chat_service.repository.changes import Changes
from chat_service.repository.chats import Chats
from chat_service.repository.presence import Presence

PENDING_CHANGES = 200
"""Changes that may wait for the event loop, up to 0.2 MB each. Beyond it the thread waits; MongoDB keeps the rest."""

LINGER_POLLS = 300
"""After so many polls without a change and without a socket (half a minute), the thread ends."""

_log = logging.getLogger(__name__)


class Feed:
    """Tells the sockets of a hub what happens to their chats."""

    def __init__(self, changes: Changes, chats: Chats, presence: Presence, hub: Hub) -> None:
        self._changes = changes
        self._chats = chats
        self._presence = presence
        self._hub = hub
        self._pending = threading.Semaphore(PENDING_CHANGES)
        self._lock = threading.Lock()
        self._is_running = False
        self._tenants: frozenset[str] = frozenset()
        """The tenants whose changes are read."""
        self._waiting: dict[str, Future[None]] = {}
        """The tenants whose first sockets wait until their changes are read."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait_until_followed(self, tenant_id: str) -> None:
        """Return when every later commit of the tenant will reach its sockets.

        The tenant's socket is in the hub already. The first socket of all starts the thread.

        Raises:
            DatabaseUnavailableError: the database could not be followed.
        """
        self._loop = asyncio.get_running_loop()
        with self._lock:
            if tenant_id in self._tenants:
                return
            followed = self._waiting.setdefault(tenant_id, Future())
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._follow, name="feed", daemon=True).start()
        await asyncio.shield(asyncio.wrap_future(followed))  # shielded: other sockets may wait for the same future

    def _follow(self) -> None:
        try:
            with closing(self._changes.follow(self._tenants_to_follow, self._note_followed)) as changes:
                idle_polls = 0
                for change in changes:
                    idle_polls = idle_polls + 1 if change is None and not len(self._hub) else 0
                    if idle_polls > LINGER_POLLS and self._end_if_unused():
                        return
                    if change is not None:
                        self._hand_over(change)
        except Exception as error:  # noqa: BLE001 - any error: its text may quote what must not be logged
            self._lose(error)

    def _tenants_to_follow(self) -> frozenset[str]:
        with self._lock:
            return self._hub.tenants | self._waiting.keys() if self._waiting else self._tenants

    def _note_followed(self, tenants: frozenset[str]) -> None:
        with self._lock:
            self._tenants = tenants
            for tenant_id in tenants & self._waiting.keys():
                self._waiting.pop(tenant_id).set_result(None)

    def _end_if_unused(self) -> bool:
        """End the feed unless a socket has come meanwhile, and return whether it ended. The next socket restarts it."""
        with self._lock:
            if not len(self._hub):
                self._is_running, self._tenants = False, frozenset()
            return not self._is_running

    def _lose(self, error: Exception) -> None:
        _log.warning("The change stream ended: %s", type(error).__name__)
        with self._lock:
            was_following, waiting = bool(self._tenants), list(self._waiting.values())
            self._is_running, self._tenants = False, frozenset()
            self._waiting.clear()
        is_expected = isinstance(error, DatabaseUnavailableError | ChangesLostError)
        for followed in waiting:
            followed.set_exception(error if is_expected else DatabaseUnavailableError())
        if was_following:
            self._call(self._close_all)

    def _hand_over(self, change: Change) -> None:
        match change:
            case MessageCreated(tenant_id, chat_id, message):
                if self._hub.has((tenant_id, chat_id)):
                    self._call(self._send_message, (tenant_id, chat_id), message.seq, frames.message_created(message))
            case ChatUpdated(tenant_id, chat_id):
                if self._hub.has((tenant_id, chat_id)):
                    self._hand_over_update(tenant_id, chat_id)
            case ChatGone(tenant_id, chat_id):
                if self._hub.has((tenant_id, chat_id)):
                    self._hand_over_departure(tenant_id, chat_id)
            case KeyRevoked(key_id):
                self._call(self._close_key, key_id)
            case KeyExpires(key_id, at):
                self._call(self._end_key, key_id, at)

    def _hand_over_update(self, tenant_id: str, chat_id: str) -> None:
        try:
            chat = self._chats.get(tenant_id, chat_id)
        except ChatNotFoundError:
            return  # deleted since; that change comes next
        except ChatServiceError as error:
            _log.warning("A change of a chat was not sent to its connections: %s", type(error).__name__)
            return
        self._call(self._send_update, (tenant_id, chat_id), chat.expires_at, frames.chat_updated(chat))

    def _hand_over_departure(self, tenant_id: str, chat_id: str) -> None:
        """Close the sockets of a chat that was deleted or trashed, but not those that were opened after its restore."""
        try:
            leased_ids = self._presence.since_restored(tenant_id, chat_id)
        except ChatServiceError as error:
            _log.warning("It is unknown whether a chat was restored, so it is closed: %s", type(error).__name__)
            self._call(self._close_chat, (tenant_id, chat_id))
        else:
            self._call(self._close_deleted, (tenant_id, chat_id), leased_ids)

    def _call(self, work: Callable[..., None], *arguments: object) -> None:
        """Have the event loop call `work`; wait if it is far behind."""
        self._pending.acquire()
        assert self._loop is not None  # noqa: S101 - set before the thread was started
        with suppress(RuntimeError):  # the loop is closed, and this process ends
            self._loop.call_soon_threadsafe(self._run_call, work, *arguments)

    def _run_call(self, work: Callable[..., None], *arguments: object) -> None:
        self._pending.release()
        work(*arguments)

    def _send_message(self, chat_ref: tuple[str, str], seq: int, frame: str) -> None:
        for socket in self._hub.sockets_of(chat_ref):
            socket.enqueue_message(seq, frame)

    def _send_update(self, chat_ref: tuple[str, str], ends_at: datetime | None, frame: str) -> None:
        for socket in self._hub.sockets_of(chat_ref):
            socket.ends_at, socket.is_end_known = ends_at, True
            socket.enqueue(frame)

    def _close_deleted(self, chat_ref: tuple[str, str], leased_ids: set[str] | None) -> None:
        """Close all sockets of the chat; if it was restored, only those that had a lease and have none any more."""
        for socket in self._hub.sockets_of(chat_ref):
            if leased_ids is None or (socket.leased_until is not None and socket.connection_id not in leased_ids):
                socket.close(DELETED, frames.chat_deleted(socket.chat_id))

    def _close_chat(self, chat_ref: tuple[str, str]) -> None:
        for socket in self._hub.sockets_of(chat_ref):
            socket.close(RECONNECT)

    def _close_key(self, key_id: str) -> None:
        for socket in self._hub:
            if socket.caller.key_id == key_id:
                socket.close(NO_KEY)

    def _end_key(self, key_id: str, at: datetime) -> None:
        for socket in self._hub:
            if socket.caller.key_id == key_id:
                socket.note_key_end(at)

    def _close_all(self) -> None:
        for socket in self._hub:
            socket.close(RECONNECT)
