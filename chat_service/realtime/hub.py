"""The open sockets of this process, by chat. Only the event loop changes it."""

from collections import Counter
from collections.abc import Iterator

from chat_service.realtime.connection import Socket

ChatRef = tuple[str, str]
"""The id of a tenant, and the id of one of its chats."""


class Hub:
    """Knows every socket from before its lease is opened until it has ended."""

    def __init__(self) -> None:
        self._sockets: dict[ChatRef, set[Socket]] = {}
        self._size = 0
        self._count_of_tenant: Counter[str] = Counter()
        """How many sockets each tenant has."""

    def add(self, socket: Socket) -> None:
        """Add the socket: changes of its chat reach it from now on."""
        self._sockets.setdefault(socket.chat_ref, set()).add(socket)
        self._size += 1
        self._count_of_tenant[socket.chat_ref[0]] += 1

    def remove(self, socket: Socket) -> None:
        """Forget a socket that has ended."""
        sockets = self._sockets[socket.chat_ref]
        sockets.remove(socket)
        self._size -= 1
        self._count_of_tenant[socket.chat_ref[0]] -= 1
        if not self._count_of_tenant[socket.chat_ref[0]]:
            del self._count_of_tenant[socket.chat_ref[0]]
        if not sockets:
            del self._sockets[socket.chat_ref]

    def sockets_of(self, chat_ref: ChatRef) -> list[Socket]:
        """Return the sockets of a chat."""
        return list(self._sockets.get(chat_ref, ()))

    def has(self, chat_ref: ChatRef) -> bool:
        """Return whether the chat has a socket here. Any thread may call this."""
        return chat_ref in self._sockets

    @property
    def tenants(self) -> frozenset[str]:
        """The tenants that have sockets here. Any thread may read this."""
        return frozenset(self._count_of_tenant)

    def __len__(self) -> int:
        """Return how many sockets there are."""
        return self._size

    def __iter__(self) -> Iterator[Socket]:
        """Yield all sockets."""
        return iter([socket for sockets in self._sockets.values() for socket in sockets])
