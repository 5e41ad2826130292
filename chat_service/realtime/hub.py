"""The open sockets of this process, by chat. Changed from the event loop alone."""

from collections import Counter
from collections.abc import Iterator

from chat_service.realtime.connection import Socket

ChatRef = tuple[str, str]
"""A tenant's id and a chat's."""


class Hub:
    """Knows every socket from before its lease is opened until it has ended."""

    def __init__(self) -> None:
        self._rooms: dict[ChatRef, set[Socket]] = {}
        self._size = 0
        self._count_of_tenant: Counter[str] = Counter()
        """By tenant."""

    def add(self, socket: Socket) -> None:
        """Let the socket hear of its chat from now on."""
        self._rooms.setdefault(socket.chat_ref, set()).add(socket)
        self._size += 1
        self._count_of_tenant[socket.chat_ref[0]] += 1

    def remove(self, socket: Socket) -> None:
        """Forget a socket that has ended."""
        room = self._rooms[socket.chat_ref]
        room.remove(socket)
        self._size -= 1
        self._count_of_tenant[socket.chat_ref[0]] -= 1
        if not self._count_of_tenant[socket.chat_ref[0]]:
            del self._count_of_tenant[socket.chat_ref[0]]
        if not room:
            del self._rooms[socket.chat_ref]

    def sockets_of(self, owner: ChatRef) -> list[Socket]:
        """Return the sockets of a chat."""
        return list(self._rooms.get(owner, ()))

    def has(self, owner: ChatRef) -> bool:
        """Tell whether the chat has a socket here; this may be asked from any thread."""
        return owner in self._rooms

    @property
    def tenants(self) -> frozenset[str]:
        """The tenants that have sockets here; this may be asked from any thread."""
        return frozenset(self._count_of_tenant)

    def __len__(self) -> int:
        """Return how many sockets there are."""
        return self._size

    def __iter__(self) -> Iterator[Socket]:
        """Give all sockets."""
        return iter([socket for room in self._rooms.values() for socket in room])
