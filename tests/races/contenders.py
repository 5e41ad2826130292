"""Processes that contend for a chat: one places a hold on it, the others destroy what they can of it."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

from chat_service.errors import ChatServiceError
from chat_service.jobs.erasing import Erasing
from chat_service.models import Deletion, ErasureMode
from chat_service.repository.bulk import Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.erasures import Erasures
from chat_service.repository.expired import Expired
from chat_service.repository.holds import Holds
from chat_service.repository.messages import Messages
from chat_service.repository.retention import RetentionPolicies
from chat_service.repository.trash import Trash

TENANT = "tenant"
SPREAD_SECONDS = 0.006
"""How far apart contenders begin, at most; what each does takes some milliseconds."""

HELD = "held"

DAY = timedelta(days=1)


class Destroyer:
    """Everything that removes something of a chat. Each method returns whether it did."""

    def __init__(self, database: Database, inline_limit: int) -> None:
        self.database = database
        self.chats, self.messages = Chats(database), Messages(database, inline_limit)
        self.deletions = Deletions(database, inline_limit)
        self.bulk, self.trash = Bulk(database, self.deletions), Trash(database)
        self.expired = Expired(database, self.deletions)
        self.policies, self.erasures = RetentionPolicies(database, self.deletions), Erasures(database)

    def delete(self, chat_id: str) -> bool:
        return isinstance(self.deletions.delete(TENANT, chat_id, "key"), Deletion)

    def delete_at_its_revision(self, chat_id: str) -> bool:
        revisions = [self.chats.get(TENANT, chat_id).revision]
        return isinstance(self.deletions.delete(TENANT, chat_id, "key", revisions, evict=True), Deletion)

    def delete_in_bulk(self, chat_id: str) -> bool:
        (outcome,) = self.bulk.remove(TENANT, [chat_id], "key").values()
        if isinstance(outcome, ChatServiceError):
            raise outcome
        return True

    def delete_in_grace(self, chat_id: str) -> bool:
        return isinstance(self.deletions.delete(TENANT, chat_id, "key", grace=DAY), Deletion)

    def purge_from_the_trash(self, chat_id: str) -> bool:
        self.deletions.move_to_trash(TENANT, chat_id, "key", DAY)
        return isinstance(self.deletions.delete(TENANT, chat_id, "key", of_trash=True), Deletion)

    def end(self, chat_id: str) -> bool:
        self.chats.update(TENANT, chat_id, {"expires_at": self.database.now()})
        self.expired.take_some(TENANT, 100)
        return False

    def end_in_the_trash(self, chat_id: str) -> bool:
        self.deletions.move_to_trash(TENANT, chat_id, "key", timedelta(milliseconds=2))
        self.expired.take_some(TENANT, 100)
        return False

    def age(self, chat_id: str) -> bool:
        """Let the retention policy delete the chat, as if nothing had happened to it for long."""
        old = self.database.now() - 10 * DAY
        key = {"tenant_id": TENANT, "chat_id": chat_id}
        self.database.chats.update_one({"_id": key}, {"$set": {"updated_at": old}})
        self.policies.take_some(TENANT, None, 100)
        return False

    def erase(self, chat_id: str) -> bool:
        """Erase the sender of this chat, who has no other chat; its id is the chat's."""
        erasure = self.erasures.request(TENANT, chat_id, ErasureMode.REDACT, "key")
        worker = Erasing(self.erasures)
        for _ in range(3):
            worker.run_once()
        return self.erasures.get(TENANT, erasure.id).messages > 0

    def empty(self, chat_id: str) -> bool:
        return self.messages.clear(TENANT, chat_id, "key") > 0

    def delete_a_message(self, chat_id: str) -> bool:
        self.messages.delete(TENANT, chat_id, 1, "key")
        return True

    def edit(self, chat_id: str) -> bool:
        self.messages.edit(TENANT, chat_id, 2, {"content": "edited"}, "key")
        return True


DELETES = ("delete", "delete_at_its_revision", "delete_in_bulk", "delete_in_grace", "purge_from_the_trash")
EXPIRIES = ("end", "end_in_the_trash", "age")
CHANGES = ("empty", "delete_a_message", "edit", "erase")


@dataclass(frozen=True)
class Seen:
    """What one contender did in a round, and the outcome."""

    chat_id: str
    did: str
    outcome: str
    """`done`, `nothing`, or the name of the error."""
    at: float
    """When the outcome was known, on the monotonic clock, which all processes share."""
    contents: tuple[str, ...] = ()
    """The contents of the chat's messages when the hold was placed."""


def contents(database: Database, chat_id: str) -> tuple[str, ...]:
    """Return the contents of the chat's messages, also if the chat is in the trash or has expired."""
    key = {"tenant_id": TENANT, "chat_id": chat_id}
    chat = database.chats.find_one({"_id": key}) or (database.trash.find_one({"_id": key}) or {}).get("chat")
    if chat is None:
        return ()
    ids = {"$gte": {**key, "seq": chat["first_seq"]}, "$lt": {**key, "seq": chat["next_seq"]}}
    return tuple(message["content"] for message in database.messages.find({"_id": ids}, sort=[("_id", 1)]))


def attempt(run: Callable[[str], bool], chat_id: str) -> str:
    """Return the outcome, as in `Seen.outcome`."""
    try:
        return "done" if run(chat_id) else "nothing"
    except ChatServiceError as error:
        return type(error).__name__


def contend(
    uri: str, number: int, chat_ids: list[str], barrier: Any, seed: int, inline_limit: int, results: Any
) -> None:
    """Take part in all rounds; contender 0 holds, the others destroy. Runs in its own process."""
    database = Database(uri)
    holds, destroyer = Holds(database), Destroyer(database, inline_limit)
    rng = random.Random(seed + number)
    seen = []
    for chat_id in chat_ids:
        did = HELD if number == 0 else rng.choice([*DELETES, *EXPIRIES, *CHANGES])
        pause = rng.random() * SPREAD_SECONDS
        barrier.wait(60)
        time.sleep(pause)
        if number == 0:
            outcome = attempt(lambda id_: bool(holds.place(TENANT, "n", [id_], "key")), chat_id)
            at, texts = time.monotonic(), contents(database, chat_id)
        else:
            outcome, at, texts = attempt(getattr(destroyer, did), chat_id), time.monotonic(), ()
        seen.append(Seen(chat_id, did, outcome, at, texts))
    database.close()
    results.put(seen)


def play(uri: str, chat_ids: list[str], seed: int, inline_limit: int, contenders: int = 4) -> list[list[Seen]]:
    """Play a round with each chat, and return what each contender has seen."""
    context = get_context("spawn")
    barrier, results = context.Barrier(contenders), context.Queue()
    processes = [
        context.Process(target=contend, args=(uri, number, chat_ids, barrier, seed, inline_limit, results), daemon=True)
        for number in range(contenders)
    ]
    for process in processes:
        process.start()
    seen = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return seen
