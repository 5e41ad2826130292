"""What a repository works with: the collections, all bound to one session, so that none can forget it.

A command outside the session of its transaction would run all the same, and see and leave what the transaction does
not. Types, mongomock and mostly mongod let that pass. So the work of a transaction is handed a unit of work, and there
is no other way to the collections that reads as well. `Database.unbound` gives that of single commands.
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
    """A collection, all of whose commands run in one session; with the methods of pymongo's that are used."""

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


class _Of:
    """The collection of its name, bound when it is asked for."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, tx: "UnitOfWork", owner: type) -> Bound:
        return Bound(tx.collections[self._name], tx.session)


class UnitOfWork:
    """The collections in one session: of a transaction, of a snapshot, or in none."""

    tenants = _Of()
    api_keys = _Of()
    holds = _Of()
    erasures = _Of()
    webhooks = _Of()
    deliveries = _Of()
    chats = _Of()
    messages = _Of()
    presence = _Of()
    deletions = _Of()
    purges = _Of()
    completions = _Of()
    trash = _Of()
    outbox = _Of()
    log_entries = _Of()
    log_heads = _Of()
    log_position = _Of()
    idempotency = _Of()

    def __init__(
        self,
        database: Any,
        collections: Mapping[str, Any],
        rules: KnownRules,
        session: ClientSession | None,
        now: datetime,
    ) -> None:
        """Bind the `collections` of `database`, made once; `now` is the database's time, which the work goes by."""
        self.database = database
        self.collections = collections
        self.rules = rules
        self.session = session
        self.now = now

    @property
    def places(self) -> tuple[tuple[Bound, str], tuple[Bound, str]]:
        """Where a chat can be, each with the path to its fields there."""
        return (self.chats, ""), (self.trash, "chat.")

    def read(self, collection: str, condition: Filter, fields: Filter) -> list[Document]:
        """Return these fields of all documents that meet the condition: what a transaction nearly always begins with.

        One batch is read by a command. Where it is not all, or no transaction asks again, the driver reads them.
        """
        if self.session is not None and self.session.in_transaction:
            found = self.command({"find": collection, "filter": condition, "projection": fields})["cursor"]
            if not found["id"]:
                batch: list[Document] = found["firstBatch"]
                return batch
        return list(self.collections[collection].find(condition, fields, session=self.session))

    def log(self, tenant_id: str, *events: Event) -> None:
        """Put events down: they will be in the log if this is committed. One command; see sequencer.py."""
        self.command({"insert": "outbox", "documents": [to_document(tenant_id, self.now, event) for event in events]})

    def command(self, command: Document) -> Document:
        """Run one command as it is, and return the server's reply.

        The driver's methods for collections take a third longer to say the same, which matters for what is done most.
        """
        options = self.database.codec_options  # else times would come without their zone
        reply: Document = self.database.command(command, codec_options=options, session=self.session)
        if "writeErrors" in reply:  # which is no error to the driver when it does not know that this was a write
            raise BulkWriteError(reply)
        return reply
