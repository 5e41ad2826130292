"""Posts to one chat that meet in one process share a transaction.

Every post writes its chat's document, so two transactions at once would conflict, and one of them would have to start
again. Instead the posts of a process to one chat stand in line: the first runs its transaction, and the next one takes
along everybody who has come meanwhile. A lone post finds no line and waits for nobody.

What this module keeps:

1. First come, first served: the line is never overtaken, so a poster's messages get their numbers in its order.
2. Who waits, waits for posts to the same chat of the same tenant only, and never without a deadline.
3. What a transaction comes to is told to each post that it carried: its own messages, or the error. Where the database
   refuses what a shared one brings, each is tried alone, so that nobody suffers for another's message.
4. A post with an Idempotency-Key is carried alone, since its record belongs to one request.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from chat_service.errors import ChatServiceError, DatabaseUnavailableError, OutcomeUnknownError
from chat_service.models import IdempotencyKey, Message, NewMessage

SHARED_MESSAGES = 1_000
"""In one transaction: what a single request may bring, so a shared one is never slower than the slowest alone."""

SHARED_CHARACTERS = 2**20
"""Of content in one transaction, for the same reason: more than that a post only carries by itself."""

LINE_SECONDS = 10.0
"""In line: with the 12 s of a transaction it stays within the 25 s in which every request is answered."""

CARRIED_SECONDS = 20.0
"""For the outcome once another thread carries the post: longer than any transaction, whose end always tells it."""

Append = Callable[[str, str, Sequence[NewMessage], IdempotencyKey | None], list[Message]]
"""Appends messages to a chat of a tenant in one transaction, all or none."""


class _Post:
    """One caller's messages, and what became of them."""

    __slots__ = ("called", "error", "kept", "key", "new")

    def __init__(self, new: Sequence[NewMessage], key: IdempotencyKey | None) -> None:
        self.new = new
        self.key = key
        self.called = threading.Event()
        """Set when there is an outcome, and when there is none yet because it is this post's turn to lead."""
        self.kept: list[Message] | None = None
        self.error: BaseException | None = None

    @property
    def is_carried(self) -> bool:
        return self.kept is not None or self.error is not None

    def outcome(self) -> list[Message]:
        if self.error is not None:
            raise self.error
        return self.kept or []


class Lines:
    """The posts of this process, in a line for each chat that has more than one."""

    def __init__(self, append: Append) -> None:
        self._append = append
        self._lock = threading.Lock()
        # A line is there as long as a transaction runs for its chat; who leads stands in it no more.
        self._lines: dict[tuple[str, str], deque[_Post]] = {}

    def post(
        self, tenant_id: str, chat_id: str, new: Sequence[NewMessage], key: IdempotencyKey | None = None
    ) -> list[Message]:
        """Append the messages as `append` does, with others or alone, and return those of this post.

        Raises:
            ChatServiceError: what `append` raised for the transaction that carried this post.
            DatabaseUnavailableError: the post was not carried in time, and is not going to be.
        """
        chat = (tenant_id, chat_id)
        post = _Post(new, key)
        with self._lock:
            line = self._lines.get(chat)
            if line is None:
                self._lines[chat] = deque()
            else:
                line.append(post)
        if line is not None:
            self._wait(line, post)
        if not post.is_carried:
            self._lead(chat, post)
        return post.outcome()

    def _wait(self, line: deque[_Post], post: _Post) -> None:
        """Wait until `post` is carried, or it is its turn to lead."""
        if post.called.wait(LINE_SECONDS):
            return
        with self._lock:
            if post in line:
                line.remove(post)
                raise DatabaseUnavailableError
        if not post.called.wait(CARRIED_SECONDS):
            raise OutcomeUnknownError

    def _lead(self, chat: tuple[str, str], post: _Post) -> None:
        """Carry `post` and those behind it that fit, and call the next one to lead."""
        with self._lock:
            posts = _take(post, self._lines[chat])
        try:
            self._carry(chat, posts)
        finally:
            with self._lock:
                line = self._lines[chat]
                following = line.popleft() if line else None
                if following is None:
                    del self._lines[chat]
            if following is not None:
                following.called.set()
            for carried in posts:
                carried.called.set()

    def _carry(self, chat: tuple[str, str], posts: list[_Post]) -> None:
        """Append what `posts` bring in one transaction, and note the outcome of each."""
        new = [message for post in posts for message in post.new]
        try:
            kept = self._append(*chat, new, posts[0].key)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the thread of each post
            if len(posts) > 1 and isinstance(error, Exception) and not isinstance(error, ChatServiceError):
                for post in posts:
                    self._carry(chat, [post])
                return
            for post in posts:
                post.error = error
            return
        for post in posts:
            post.kept, kept = kept[: len(post.new)], kept[len(post.new) :]


def _take(first: _Post, line: deque[_Post]) -> list[_Post]:
    """Take those out of the front of the line that can share a transaction with `first`; return them all."""
    posts = [first]
    messages, characters = _size(first)
    while first.key is None and line and line[0].key is None:
        more = _size(line[0])
        messages, characters = messages + more[0], characters + more[1]
        if messages > SHARED_MESSAGES or characters > SHARED_CHARACTERS:
            break
        posts.append(line.popleft())
    return posts


def _size(post: _Post) -> tuple[int, int]:
    return len(post.new), sum(len(message.content) for message in post.new)
