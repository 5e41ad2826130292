"""The unit of work: the collections of the database, all bound to one session, so that no command can forget it.

A command that is sent without the session of its transaction runs outside the transaction: it does not see the
transaction's writes, and what it writes stays even if the transaction is aborted. The type checker, mongomock and
mostly mongod do not notice that. So the work of a transaction gets a `UnitOfWork` and uses the collections through it
only. `Database.unbound` returns a unit of work for single commands outside any transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError
from pymongo.results import DeleteResult, InsertManyResult, InsertOneResult, UpdateResult

from chat_service.models import Event
from chat_service.repository.pending import to_document
from chat_service.repository.tenant_rules import KnownRules

Document = dict[str, Any]
Filter = Mapping[str, Any]


class Bound:
    """A collection whose commands all run in one session. It has those methods of pymongo's that the service uses."""

    __slots__ = ("_collection", "_session")

    def __init__(self, collection: Collection[Document], session: ClientSession | None) -> None:
        self._collection = collection
        self._session = session

    def find_one(self, condition: Filter, projection: Filter | None = None, **options: Any) -> Document | None:
        return self._collection.find_one(condition, projection, **options, session=self._session)

    def find(self, condition: Filter, projection: Filter | None = None, **options: Any) -> Any:
        """Return a cursor over the documents."""
        return self._collection.find(condition, projection, **options, session=self._session)

    def find_one_and_delete(self, condition: Filter, **options: Any) -> Document | None:
        return self._collection.find_one_and_delete(condition, **options, session=self._session)

    def find_one_and_update(self, condition: Filter, change: Filter, **options: Any) -> Document | None:
        return self._collection.find_one_and_update(condition, change, **options, session=self._session)

    def insert_one(self, document: Document) -> InsertOneResult:
        return self._collection.insert_one(document, session=self._session)

    def insert_many(self, documents: Sequence[Document]) -> InsertManyResult:
        return self._collection.insert_many(documents, session=self._session)

    def update_one(self, condition: Filter, change: Filter, **options: Any) -> UpdateResult:
        return self._collection.update_one(condition, change, **options, session=self._session)

    def update_many(self, condition: Filter, change: Filter) -> UpdateResult:
        return self._collection.update_many(condition, change, session=self._session)

    def replace_one(self, condition: Filter, document: Document, **options: Any) -> UpdateResult:
        return self._collection.replace_one(condition, document, **options, session=self._session)

    def delete_one(self, condition: Filter) -> DeleteResult:
        return self._collection.delete_one(condition, session=self._session)

    def delete_many(self, condition: Filter) -> DeleteResult:
        return self._collection.delete_many(condition, session=self._session)

    def count_documents(self, condition: Filter) -> int:
        return int(self._collection.count_documents(condition, session=self._session))

    def aggregate_raw_batches(self, pipeline: Sequence[Filter], **options: Any) -> Any:
        """Return a cursor that gives whole batches as BSON."""
        return self._collection.aggregate_raw_batches(pipeline, **options, session=self._session)


class _BoundCollection:
    """A class attribute that returns the collection of the same name, bound to the unit of work's session."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, tx: "UnitOfWork", owner: type) -> Bound:
        return Bound(tx.collections[self._name], tx.session)


class UnitOfWork:
    """The collections, bound to the session of a transaction or of a snapshot, or to none."""

    tenants = _BoundCollection()
    api_keys = _BoundCollection()
    holds = _BoundCollection()
    erasures = _BoundCollection()
    webhooks = _BoundCollection()
    deliveries = _BoundCollection()
    chats = _BoundCollection()
    messages = _BoundCollection()
    presence = _BoundCollection()
    deletions = _BoundCollection()
    purges = _BoundCollection()
    completions = _BoundCollection()
    trash = _BoundCollection()
    outbox = _BoundCollection()
    log_entries = _BoundCollection()
    log_heads = _BoundCollection()
    log_position = _BoundCollection()
    idempotency = _BoundCollection()

    def __init__(
        self,
        database: Any,
        collections: Mapping[str, Any],
        rules: KnownRules,
        session: ClientSession | None,
        now: datetime,
    ) -> None:
        """Bind the `collections` of `database` to `session`; `now` is the database's time, the work's only clock."""
        self.database = database
        self.collections = collections
        self.rules = rules
        self.session = session
        self.now = now

    @property
    def chat_collections(self) -> tuple[tuple[Bound, str], tuple[Bound, str]]:
        """The collections that a chat can be in, each with the path prefix of the chat's fields in it."""
        return (self.chats, ""), (self.trash, "chat.")

    def read(self, collection: str, condition: Filter, fields: Filter) -> list[Document]:
        """Return these fields of all documents that meet the condition. Nearly every transaction begins with this.

        In a transaction a plain command reads the first batch. The driver reads all if that is not complete, and
        outside a transaction, where nothing else would retry.
        """
        if self.session is not None and self.session.in_transaction:
            cursor = self.command({"find": collection, "filter": condition, "projection": fields})["cursor"]
            if not cursor["id"]:
                batch: list[Document] = cursor["firstBatch"]
                return batch
        return list(self.collections[collection].find(condition, fields, session=self.session))

    def log(self, tenant_id: str, *events: Event) -> None:
        """Write events to the outbox: if this is committed, the sequencer numbers them into the log. One command."""
        self.command({"insert": "outbox", "documents": [to_document(tenant_id, self.now, event) for event in events]})

    def command(self, command: Document) -> Document:
        """Send one plain command, and return the server's reply.

        The driver's collection methods take a third longer for the same, which matters for the most frequent commands.

        Raises:
            BulkWriteError: the reply has write errors.
        """
        options = self.database.codec_options  # otherwise the reply's times would have no time zone
        reply: Document = self.database.command(command, codec_options=options, session=self.session)
        if "writeErrors" in reply:  # the driver does not raise them, because it does not know that this was a write
            raise BulkWriteError(reply)
        return reply
