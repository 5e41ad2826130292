"""The open sockets of this process, by chat. Changed from the event loop alone."""

from collections import Counter
from collections.abc import Iterator

from chat_service.realtime.outbox import Socket

Owner = tuple[str, str]
"""A tenant's id and a chat's."""


class Hub:
    """Knows every socket from before its lease is opened until it has ended."""

    def __init__(self) -> None:
        self._rooms: dict[Owner, set[Socket]] = {}
        self._size = 0
        self._sockets_of: Counter[str] = Counter()
        """By tenant."""

    def add(self, socket: Socket) -> None:
        """Let the socket hear of its chat from now on."""
        self._rooms.setdefault(socket.owner, set()).add(socket)
        self._size += 1
        self._sockets_of[socket.owner[0]] += 1

    def remove(self, socket: Socket) -> None:
        """Forget a socket that has ended."""
        room = self._rooms[socket.owner]
        room.remove(socket)
        self._size -= 1
        self._sockets_of[socket.owner[0]] -= 1
        if not self._sockets_of[socket.owner[0]]:
            del self._sockets_of[socket.owner[0]]
        if not room:
            del self._rooms[socket.owner]

    def room(self, owner: Owner) -> list[Socket]:
        """Return the sockets of a chat."""
        return list(self._rooms.get(owner, ()))

    def has(self, owner: Owner) -> bool:
        """Tell whether the chat has a socket here; this may be asked from any thread."""
        return owner in self._rooms

    @property
    def tenants(self) -> frozenset[str]:
        """The tenants that have sockets here; this may be asked from any thread."""
        return frozenset(self._sockets_of)

    def __len__(self) -> int:
        """Return how many sockets there are."""
        return self._size

    def __iter__(self) -> Iterator[Socket]:
        """Give all sockets."""
        return iter([socket for room in self._rooms.values() for socket in room])
