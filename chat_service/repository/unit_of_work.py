"""What a repository works with: the collections, all bound to one session, so that none can forget it.

A command outside the session of its transaction would run all the same, and see and leave what the transaction does
not. Types, mongomock and mostly mongod let that pass. So the work of a transaction is handed a unit of work, and there
is no other way to the collections that reads as well. `Database.unbound` gives that of single commands.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError
from pymongo.results import DeleteResult, InsertManyResult, InsertOneResult, UpdateResult

Document = dict[str, Any]
Filter = Mapping[str, Any]


class Bound:
    """A collection, all of whose commands run in one session; with the methods of pymongo's that are used."""

    __slots__ = ("_collection", "_session")

    def __init__(self, collection: Any, session: ClientSession | None) -> None:
        self._collection = collection
        self._session = session

    def find_one(self, condition: Filter, projection: Filter | None = None, **options: Any) -> Document | None:
        found: Document | None = self._collection.find_one(condition, projection, **options, session=self._session)
        return found

    def find(self, condition: Filter, projection: Filter | None = None, **options: Any) -> Any:
        """Return a cursor over the documents."""
        return self._collection.find(condition, projection, **options, session=self._session)

    def find_one_and_delete(self, condition: Filter, **options: Any) -> Document | None:
        found: Document | None = self._collection.find_one_and_delete(condition, **options, session=self._session)
        return found

    def find_one_and_update(self, condition: Filter, change: Filter, **options: Any) -> Document | None:
        found: Document | None = self._collection.find_one_and_update(
            condition, change, **options, session=self._session
        )
        return found

    def insert_one(self, document: Document) -> InsertOneResult:
        result: InsertOneResult = self._collection.insert_one(document, session=self._session)
        return result

    def insert_many(self, documents: Sequence[Document]) -> InsertManyResult:
        result: InsertManyResult = self._collection.insert_many(documents, session=self._session)
        return result

    def update_one(self, condition: Filter, change: Filter, **options: Any) -> UpdateResult:
        result: UpdateResult = self._collection.update_one(condition, change, **options, session=self._session)
        return result

    def replace_one(self, condition: Filter, document: Document, **options: Any) -> UpdateResult:
        result: UpdateResult = self._collection.replace_one(condition, document, **options, session=self._session)
        return result

    def delete_one(self, condition: Filter) -> DeleteResult:
        result: DeleteResult = self._collection.delete_one(condition, session=self._session)
        return result

    def delete_many(self, condition: Filter) -> DeleteResult:
        result: DeleteResult = self._collection.delete_many(condition, session=self._session)
        return result

    def count_documents(self, condition: Filter) -> int:
        return int(self._collection.count_documents(condition, session=self._session))

    def aggregate(self, pipeline: Sequence[Filter], **options: Any) -> Iterator[Document]:
        found: Iterator[Document] = self._collection.aggregate(pipeline, **options, session=self._session)
        return found

    def aggregate_raw_batches(self, pipeline: Sequence[Filter], **options: Any) -> Any:
        """Return a cursor that gives whole batches as BSON."""
        return self._collection.aggregate_raw_batches(pipeline, **options, session=self._session)


class UnitOfWork:
    """The collections in one session: of a transaction, of a snapshot, or in none."""

    __slots__ = ("_database", "_session", "now")

    def __init__(self, database: Any, session: ClientSession | None, now: datetime) -> None:
        """Bind the collections of `database`; `now` is the database's time, which the whole work goes by."""
        self._database = database
        self._session = session
        self.now = now

    @property
    def chats(self) -> Bound:
        return self._bound("chats")

    @property
    def messages(self) -> Bound:
        return self._bound("messages")

    @property
    def presence(self) -> Bound:
        return self._bound("presence")

    @property
    def deletions(self) -> Bound:
        return self._bound("deletions")

    @property
    def purges(self) -> Bound:
        return self._bound("purges")

    @property
    def idempotency(self) -> Bound:
        return self._bound("idempotency")

    def _bound(self, name: str) -> Bound:
        return Bound(self._database[name], self._session)

    def command(self, command: Document) -> Document:
        """Run one command as it is, and return the server's reply.

        The driver's methods for collections take a third longer to say the same, which matters for what is done most.
        """
        reply: Document = self._database.command(command, session=self._session)
        if "writeErrors" in reply:  # which is no error to the driver when it does not know that this was a write
            raise BulkWriteError(reply)
        return reply
