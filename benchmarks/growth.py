"""How many bytes remain of each deletion, and of each other thing that is kept, on a real mongod.

    python -m benchmarks.growth

The documents are as the service writes them, of 100 tenants, in the order in which they are written. The server gives
the sizes after a checkpoint: WiredTiger's files without their free space, with its default compression, and the
indexes. And how many bytes of the oplog a delete and its entries in the log take.
"""

import itertools
import random
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import keep, options
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.jobs.sequencing import Sequencing
from chat_service.models import Chat, Deletion, LogEntry, Message, NewMessage, Role
from chat_service.repository import chats, messages, receipts
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.idempotency import KEPT
from chat_service.repository.log import Log
from chat_service.repository.log_tree import Head
from chat_service.repository.messages import Messages
from chat_service.repository.sequencer import Sequencer, events_of_receipt

Document = dict[str, Any]
Make = Callable[[str, datetime], Iterator[Document]]
"""Yields the documents that one deletion (or chat, or message) of a tenant leaves, as of a time."""

BATCH_DOCUMENTS = 1_000
YEAR = 365 * 86_400
DELETES_A_SECOND = 1_000
OPLOG_DELETES, OPLOG_MESSAGES = 200, 10

_RANDOM = random.Random(1)  # noqa: S311 - no secret

TENANTS = [str(uuid.UUID(int=_RANDOM.getrandbits(128), version=4)) for _ in range(100)]


def receipt(tenant_id: str, at: datetime) -> Iterator[Document]:
    """Yield the receipt of a chat that was deleted with all its messages in one transaction."""
    deletion = Deletion(str(uuid.uuid4()), at, 12, "0123456789ab", 12, 0, at)
    yield receipts.to_document(tenant_id, deletion, uuid.uuid4().hex)


def completion(tenant_id: str, at: datetime) -> Iterator[Document]:
    """Yield what the purge of a large chat leaves beside the receipt."""
    key = {"tenant_id": tenant_id, "chat_id": str(uuid.uuid4())}
    yield {"_id": key, "purged": 5_000, "completed_at": at}


def entries() -> Make:
    """Return a maker of the two entries that a deletion has in the log, with their hashes."""
    heads = {tenant_id: Head(tenant_id, None) for tenant_id in TENANTS}

    def make(tenant_id: str, at: datetime) -> Iterator[Document]:
        (document,) = receipt(tenant_id, at)
        head = heads[tenant_id]
        for pending in events_of_receipt(document):
            yield head.add(LogEntry(head.next_seq, at, pending.event))

    return make


def answer(tenant_id: str, at: datetime) -> Iterator[Document]:
    """Yield the record of an Idempotency-Key, kept for a day."""
    key = {"tenant_id": tenant_id, "key": str(uuid.uuid4())}
    facts = {"deleted_at": at, "message_count": 12}
    yield {"_id": key, "fingerprint": uuid.uuid4().hex * 2, "facts": facts, "expires_at": at + KEPT}


def chat(tenant_id: str, at: datetime) -> Iterator[Document]:
    """Yield a chat without its messages, for comparison."""
    yield chats.to_document(tenant_id, _chat(at))


def _chat(at: datetime) -> Chat:
    return Chat(str(uuid.uuid4()), "A conversation", {}, 12, 0, at, at, at, revision=13)


def message(tenant_id: str, at: datetime) -> Iterator[Document]:
    """Yield ten messages of a chat, of 80 characters each, for comparison."""
    chat_id = str(uuid.uuid4())
    for seq in range(1, 11):
        content = " ".join("".join(_RANDOM.choices("etaoinshrdlu", k=7)) for _ in range(10))
        yield messages.to_document(tenant_id, chat_id, Message(seq, "user", "ada", content, {}, at, None))


def measure(database: Database, name: str, make: Make, documents: int) -> dict[str, float]:
    """Write so many documents, and return the bytes that each takes: as BSON, on the disk, and in the indexes."""
    collection, at = database.collections[name], database.now()
    times = (at + timedelta(seconds=number / DELETES_A_SECOND) for number in itertools.count())
    generated = itertools.chain.from_iterable(make(_RANDOM.choice(TENANTS), time) for time in times)
    for _ in range(0, documents, BATCH_DOCUMENTS):
        collection.insert_many(list(itertools.islice(generated, BATCH_DOCUMENTS)))
    database.client.admin.command("fsync")
    stats = database.database.command("collStats", name, indexDetails=True)
    reusable = (index["block-manager"]["file bytes available for reuse"] for index in stats["indexDetails"].values())
    disk, indexes = stats["storageSize"] - stats["freeStorageSize"], stats["totalIndexSize"] - sum(reusable)
    sizes = {"bson": stats["size"], "disk": disk, "indexes": indexes}
    return {title: size / stats["count"] for title, size in sizes.items()}


def oplog(database: Database) -> float:
    """Return the bytes of oplog for the delete of a chat of 10 messages, with its entries in the log."""
    first, *chat_ids = [Chats(database).create(TENANTS[0], None, {}).id for _ in range(OPLOG_DELETES + 1)]
    for chat_id in chat_ids:
        Messages(database).append(TENANTS[0], chat_id, [NewMessage(Role.USER, "Hello", None, {})] * OPLOG_MESSAGES)
    worker = Sequencing(Sequencer(database))
    _delete_and_number(database, worker, [first])
    before = _oplog_size(database)
    _delete_and_number(database, worker, chat_ids)
    worker.end()
    return (_oplog_size(database) - before) / OPLOG_DELETES


def _delete_and_number(database: Database, worker: Sequencing, chat_ids: list[str]) -> None:
    head = Log(database).heads(TENANTS).get(TENANTS[0], 0)
    for chat_id in chat_ids:
        Deletions(database).delete(TENANTS[0], chat_id, "0123456789ab")
    while Log(database).heads(TENANTS).get(TENANTS[0], 0) < head + 2 * len(chat_ids):
        worker.run_once()


def _oplog_size(database: Database) -> int:
    return int(database.client.local.command("collStats", "oplog.rs")["size"])


class Kind(NamedTuple):
    """A kind of document that is kept, how many of them a deletion leaves, and for how long."""

    title: str
    collection: str
    make: Callable[[], Make]
    of_deletion: int
    kept_seconds: int = YEAR


KINDS = (
    Kind("receipt", "deletions", lambda: receipt, 1),
    Kind("completion, of a large chat", "completions", lambda: completion, 1),
    Kind("entry of the log", "log_entries", entries, 2),
    Kind("answer under an `Idempotency-Key`", "idempotency", lambda: answer, 1, int(KEPT.total_seconds())),
    Kind("chat", "chats", lambda: chat, 0),
    Kind("message of 80 characters", "messages", lambda: message, 0),
)


def main() -> None:
    """Run, print the table, write the JSON."""
    documents = options(__doc__, documents=200_000).parse_args().documents
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, EmbeddedMongod(Path(folder)) as mongod:
        database = Database(mongod.uri)
        database.prepare()
        result["oplog, bytes of a delete"] = oplog(database)
        print("oplog, bytes of a delete:", round(result["oplog, bytes of a delete"]), flush=True)
        for kind in KINDS:
            database.collections[kind.collection].drop()
            database.prepare()
            sizes = measure(database, kind.collection, kind.make(), documents)
            stored = sizes["disk"] + sizes["indexes"]
            kept = stored * kind.of_deletion * DELETES_A_SECOND * kind.kept_seconds / 1e12
            result[kind.title] = {**sizes, "after a year, TB": kept}
            cells = [f"{size:.0f}" for size in (*sizes.values(), stored)]
            after_a_year = f"{kept:,.2f} TB" if kept else ""
            print("|", " | ".join([kind.title, f"`{kind.collection}`", *cells, after_a_year]), "|", flush=True)
        database.close()
    keep("growth", result)


if __name__ == "__main__":
    main()
