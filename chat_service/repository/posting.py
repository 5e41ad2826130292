"""Posts of one tenant that meet in one process share a transaction.

Two posts to one chat at once would conflict, and one of them would have to start again; and where each post has a
transaction of its own, most of what it costs are the commands. Instead the posts of a tenant wait in a queue: while one
transaction runs, others come, and the next carries all of them. A lone post finds no queue and waits for nobody.

What this module keeps:

1. First come, first served in each chat: no post is overtaken by another to its chat, so a poster's messages get their
   numbers in its order.
2. A chat that cannot be written to, because another process holds it, stalls no other: what does not get through at the
   first try is tried again chat by chat, and meanwhile the queue goes on without these chats.
3. Who waits, waits for posts of the same tenant only, and never without a deadline.
4. What a transaction comes to is told to each post that it carried: its own messages, or the error. Where the database
   refuses what a shared one brings, each is tried alone, so that nobody suffers for another's message.
5. A post with an Idempotency-Key is carried alone, since its record belongs to one request, and as soon as its chat is
   free.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from chat_service.errors import ChatNotFoundError, ChatServiceError, DatabaseUnavailableError, OutcomeUnknownError
from chat_service.models import IdempotencyKey, Message, NewMessage

SHARED_MESSAGES = 1_000
"""In one transaction: what a single request may bring, so a shared one is never slower than the slowest alone."""

SHARED_CHARACTERS = 2**20
"""Of content in one transaction, for the same reason: more than that a post only carries by itself."""

FIRST_TRIES = 2
"""Shared transactions of a tenant that run at once, without those that are tried again: one uses the time in which the
other waits for the disk. The second begins when more posts wait than transactions run, so it is worth its commands."""

QUEUE_SECONDS = 10.0
"""In the queue: with the 12 s of a transaction it stays within the 25 s in which every request is answered."""

CARRIED_SECONDS = 20.0
"""For the outcome once another thread carries the post: longer than any transaction, whose end always tells it."""

New = Mapping[str, Sequence[NewMessage]]
"""What is posted, by chat."""

Kept = Mapping[str, list[Message] | None]
"""The messages as they are kept, by chat; None where there is no such chat (any more)."""

Append = Callable[[str, New, IdempotencyKey | None, Callable[[], None]], Kept]
"""Appends to chats of a tenant in one transaction, and calls the last argument before each repetition of it."""


class _SplitError(Exception):
    """What several chats share is not tried again."""


class _Post:
    """One caller's messages, and what became of them."""

    __slots__ = ("chat_id", "error", "followers", "kept", "key", "new", "ready")

    def __init__(self, chat_id: str, new: Sequence[NewMessage], key: IdempotencyKey | None) -> None:
        self.chat_id = chat_id
        self.new = new
        self.key = key
        self.ready = threading.Event()
        """Set when there is an outcome, and when there is none yet because it is this post's turn to lead."""
        self.followers: list[_Post] = []
        """Those that it has to lead, after they did not get through together with other chats'."""
        self.kept: list[Message] | None = None
        self.error: BaseException | None = None

    @property
    def is_carried(self) -> bool:
        return self.kept is not None or self.error is not None

    def outcome(self) -> list[Message]:
        if self.error is not None:
            raise self.error
        return self.kept or []


class _Queue:
    """The posts of a tenant that nobody carries yet, in their order. Only to be touched under the lock."""

    def __init__(self) -> None:
        self.posts: list[_Post] = []
        self.busy: set[str] = set()
        """Chats that a transaction is carrying posts to."""
        self.first_tries: set[_Post] = set()
        """Who leads one."""

    @property
    def is_over(self) -> bool:
        return not self.posts and not self.busy

    def admit(self) -> None:
        """Call everybody with a key whose chat is free, and the first of the others if another transaction may run."""
        ready: list[_Post] = []
        passed = set(self.busy)
        for post in list(self.posts):
            if post.chat_id in passed:
                continue
            if post.key is None:
                ready.append(post)
                continue
            passed.add(post.chat_id)  # whoever stands behind it must not overtake it
            if all(other.chat_id != post.chat_id for other in ready):
                self._let_lead(post)
        if len(self.first_tries) < min(len(ready), FIRST_TRIES):
            self.first_tries.add(ready[0])
            self._let_lead(ready[0])

    def _let_lead(self, post: _Post) -> None:
        self.posts.remove(post)
        self.busy.add(post.chat_id)
        post.ready.set()

    def take(self, first: _Post) -> list[_Post]:
        """Take those out of the queue that can share a transaction with `first`; return them all."""
        taken, left = [first], []
        passed = self.busy - {first.chat_id}
        messages, characters = _size(first)
        for post in self.posts:
            more = _size(post)
            fits = messages + more[0] <= SHARED_MESSAGES and characters + more[1] <= SHARED_CHARACTERS
            if first.key is None and post.key is None and fits and post.chat_id not in passed:
                messages, characters = messages + more[0], characters + more[1]
                taken.append(post)
            else:
                passed.add(post.chat_id)  # as above
                left.append(post)
        self.posts = left
        self.busy.update(post.chat_id for post in taken)
        return taken

    def end(self, posts: list[_Post]) -> None:
        """Let the next ones go on after `posts` are carried."""
        self.busy.difference_update(post.chat_id for post in posts)
        self.first_tries.discard(posts[0])
        self.admit()


class Queues:
    """The posts of this process, in a queue for each tenant that has any."""

    def __init__(self, append: Append) -> None:
        self._append = append
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def post(
        self, tenant_id: str, chat_id: str, new: Sequence[NewMessage], key: IdempotencyKey | None = None
    ) -> list[Message]:
        """Append the messages as `append` does, with others or alone, and return those of this post.

        Raises:
            ChatNotFoundError: there is no such chat (any more).
            ChatServiceError: what `append` raised for the transaction that carried this post.
            DatabaseUnavailableError: the post was not carried in time, and is not going to be.
        """
        post = _Post(chat_id, new, key)
        with self._lock:
            queue = self._queues.setdefault(tenant_id, _Queue())
            queue.posts.append(post)
            queue.admit()
        self._wait(queue, post)
        if not post.is_carried:
            self._lead(tenant_id, queue, post)
        return post.outcome()

    def _wait(self, queue: _Queue, post: _Post) -> None:
        """Wait until `post` is carried, or it is its turn to lead."""
        if post.ready.wait(QUEUE_SECONDS):
            return
        with self._lock:
            if post in queue.posts:
                queue.posts.remove(post)
                raise DatabaseUnavailableError
        if not post.ready.wait(CARRIED_SECONDS):
            raise OutcomeUnknownError

    def _lead(self, tenant_id: str, queue: _Queue, post: _Post) -> None:
        """Carry `post` and those that share its transaction, and let the queue go on."""
        with self._lock:
            posts = post.followers or queue.take(post)
        try:
            try:
                self._carry(tenant_id, posts, partial(self._give_way, queue, posts))
            except _SplitError:
                posts = _split(posts)
                self._carry(tenant_id, posts, lambda: None)
        finally:
            with self._lock:
                queue.end(posts)
                if queue.is_over:
                    del self._queues[tenant_id]
            for carried in posts:
                carried.ready.set()

    def _give_way(self, queue: _Queue, posts: list[_Post]) -> None:
        """Let the queue go on, because these take longer.

        Raises:
            _SplitError: they are of several chats.
        """
        with self._lock:
            queue.first_tries.discard(posts[0])
            queue.admit()
        if any(post.chat_id != posts[0].chat_id for post in posts):
            raise _SplitError

    def _carry(self, tenant_id: str, posts: list[_Post], again: Callable[[], None]) -> None:
        """Append what `posts` bring in one transaction, and note the outcome of each.

        Raises:
            _SplitError: as `again` does, before the same is tried again.
        """
        new: dict[str, list[NewMessage]] = {}
        for post in posts:
            new.setdefault(post.chat_id, []).extend(post.new)
        try:
            kept = self._append(tenant_id, new, posts[0].key, again)
        except _SplitError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the thread of each post
            if len(posts) > 1 and isinstance(error, Exception) and not isinstance(error, ChatServiceError):
                again()
                for post in posts:
                    self._carry(tenant_id, [post], again)
                return
            for post in posts:
                post.error = error
            return
        _tell(posts, kept)


def _split(posts: list[_Post]) -> list[_Post]:
    """Have the first post of each other chat lead those of its chat; return those of the caller's own."""
    by_chat: dict[str, list[_Post]] = {}
    for post in posts:
        by_chat.setdefault(post.chat_id, []).append(post)
    own, *others = by_chat.values()
    for those in others:
        those[0].followers = those
        those[0].ready.set()
    return own


def _tell(posts: list[_Post], kept: Kept) -> None:
    """Give each post its part of what was kept."""
    given: dict[str, int] = {}
    for post in posts:
        found = kept[post.chat_id]
        if found is None:
            post.error = ChatNotFoundError()
            continue
        begin = given.get(post.chat_id, 0)
        given[post.chat_id] = begin + len(post.new)
        post.kept = found[begin : begin + len(post.new)]


def _size(post: _Post) -> tuple[int, int]:
    return len(post.new), sum(len(message.content) for message in post.new)
