"""From the database to the sockets: what is committed, by whichever process, reaches every socket of its chat here.

One thread reads as long as this process has sockets. It hands over what concerns one of them; the event loop does the
rest. A feed that was lost closes every socket, so that clients come back and ask for what they missed.
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

UNTOLD_CHANGES = 200
"""What may wait for the event loop, at up to 0.2 MB each. Beyond it the thread waits, and the server keeps the rest."""

LINGER_POLLS = 300
"""After so many questions without a change and without a socket, half a minute, the thread ends."""

_log = logging.getLogger(__name__)


class Feed:
    """Tells the sockets of a hub what happens to their chats."""

    def __init__(self, changes: Changes, chats: Chats, presence: Presence, hub: Hub) -> None:
        self._changes = changes
        self._chats = chats
        self._presence = presence
        self._hub = hub
        self._untold = threading.Semaphore(UNTOLD_CHANGES)
        self._lock = threading.Lock()
        self._is_running = False
        self._tenants: frozenset[str] = frozenset()
        """Whose changes are read."""
        self._asked: dict[str, Future[None]] = {}
        """Tenants whose first sockets wait for that."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait_until_followed(self, tenant_id: str) -> None:
        """Return when everything of the tenant that is committed from now on will be told.

        Its socket is in the hub already. The first one of all starts the thread.

        Raises:
            DatabaseUnavailableError: the database could not be followed.
        """
        self._loop = asyncio.get_running_loop()
        with self._lock:
            if tenant_id in self._tenants:
                return
            followed = self._asked.setdefault(tenant_id, Future())
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._follow, name="feed", daemon=True).start()
        await asyncio.shield(asyncio.wrap_future(followed))  # whose socket leaves may not be the only one that waits

    def _follow(self) -> None:
        try:
            with closing(self._changes.follow(self._wanted, self._note_followed)) as coming:
                quiet = 0
                for change in coming:
                    quiet = quiet + 1 if change is None and not len(self._hub) else 0
                    if quiet > LINGER_POLLS and self._is_ended():
                        return
                    if change is not None:
                        self._hand_over(change)
        except Exception as error:  # noqa: BLE001 - whatever it was, its text may quote what no log may hold
            self._lose(error)

    def _wanted(self) -> frozenset[str]:
        with self._lock:
            return self._hub.tenants | self._asked.keys() if self._asked else self._tenants

    def _note_followed(self, tenants: frozenset[str]) -> None:
        with self._lock:
            self._tenants = tenants
            for tenant_id in tenants & self._asked.keys():
                self._asked.pop(tenant_id).set_result(None)

    def _is_ended(self) -> bool:
        """Let the next socket start a new thread, unless one has come in the meantime."""
        with self._lock:
            if not len(self._hub):
                self._is_running, self._tenants = False, frozenset()
            return not self._is_running

    def _lose(self, error: Exception) -> None:
        _log.warning("The feed of changes ended: %s", type(error).__name__)
        with self._lock:
            had_begun, asked = bool(self._tenants), list(self._asked.values())
            self._is_running, self._tenants = False, frozenset()
            self._asked.clear()
        known = isinstance(error, DatabaseUnavailableError | ChangesLostError)
        for followed in asked:
            followed.set_exception(error if known else DatabaseUnavailableError())
        if had_begun:
            self._call(self._close_all)

    def _hand_over(self, change: Change) -> None:
        match change:
            case MessageCreated(tenant_id, chat_id, message):
                if self._hub.has((tenant_id, chat_id)):
                    self._call(self._tell_message, (tenant_id, chat_id), message.seq, frames.message_created(message))
            case ChatUpdated(tenant_id, chat_id):
                if self._hub.has((tenant_id, chat_id)):
                    self._tell_update(tenant_id, chat_id)
            case ChatGone(tenant_id, chat_id):
                if self._hub.has((tenant_id, chat_id)):
                    self._tell_departure(tenant_id, chat_id)
            case KeyRevoked(key_id):
                self._call(self._close_key, key_id)
            case KeyExpires(key_id, at):
                self._call(self._end_key, key_id, at)

    def _tell_update(self, tenant_id: str, chat_id: str) -> None:
        try:
            chat = self._chats.get(tenant_id, chat_id)
        except ChatNotFoundError:
            return  # deleted since, which comes next
        except ChatServiceError as error:
            _log.warning("A change of a chat was not told: %s", type(error).__name__)
            return
        self._call(self._tell_chat, (tenant_id, chat_id), chat.expires_at, frames.chat_updated(chat))

    def _tell_departure(self, tenant_id: str, chat_id: str) -> None:
        """Close the sockets of a chat that was deleted or trashed, but not those that came after it was restored."""
        try:
            later = self._presence.since_restored(tenant_id, chat_id)
        except ChatServiceError as error:
            _log.warning("Whether a chat was restored was not found out: %s", type(error).__name__)
            self._call(self._close_room, (tenant_id, chat_id))
        else:
            self._call(self._tell_deletion, (tenant_id, chat_id), later)

    def _call(self, work: Callable[..., None], *arguments: object) -> None:
        """Have the event loop do something; wait if it is far behind."""
        self._untold.acquire()
        assert self._loop is not None  # noqa: S101 - set before the thread was started
        with suppress(RuntimeError):  # the loop is closed, and this process ends
            self._loop.call_soon_threadsafe(self._called, work, *arguments)

    def _called(self, work: Callable[..., None], *arguments: object) -> None:
        self._untold.release()
        work(*arguments)

    def _tell_message(self, owner: tuple[str, str], seq: int, frame: str) -> None:
        for socket in self._hub.sockets_of(owner):
            socket.enqueue_message(seq, frame)

    def _tell_chat(self, owner: tuple[str, str], ends_at: datetime | None, frame: str) -> None:
        for socket in self._hub.sockets_of(owner):
            socket.ends_at, socket.is_end_known = ends_at, True
            socket.enqueue(frame)

    def _tell_deletion(self, owner: tuple[str, str], later: set[str] | None) -> None:
        """Tell all sockets, or where the chat is there again, those that had a lease and have none any more."""
        for socket in self._hub.sockets_of(owner):
            if later is None or (socket.leased_until is not None and socket.connection_id not in later):
                socket.close(DELETED, frames.chat_deleted(socket.chat_id))

    def _close_room(self, owner: tuple[str, str]) -> None:
        for socket in self._hub.sockets_of(owner):
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
