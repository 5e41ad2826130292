"""The MongoDB client, the collections and their indexes, and how single commands and transactions are run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pymongo
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.driver_info import DriverInfo
from pymongo.errors import (
    CollectionInvalid,
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from chat_service.errors import (
    ChatServiceError,
    DatabaseUnavailableError,
    OutcomeUnknownError,
    UnsupportedServerError,
    WrongCollectionsError,
)
from chat_service.repository import deadline, processes
from chat_service.repository.clock import ServerClock
from chat_service.repository.complaints import Complaints
from chat_service.repository.outage import Outage, is_outage, is_refused, reasons
from chat_service.repository.shape import COLLECTIONS, OPTIONS, old_indexes, shortcomings
from chat_service.repository.tenant_rules import KnownRules
from chat_service.repository.tracer import SILENT, Tracer
from chat_service.repository.transaction import BeforeRetry, T, TransactionRunner
from chat_service.repository.unit_of_work import UnitOfWork

Work = Callable[[UnitOfWork], T | ChatServiceError]
Document = dict[str, Any]
Listeners = Sequence[Any]

Primary = tuple[Any, Any]
"""The address of a primary, and the id of the election that made it primary."""

APP_NAME = "chat-service"
"""By this name the server's own tools (currentOp, failpoints, logs) tell our connections from others."""

DEFAULT_DATABASE = "chat_service"

OPERATION_SECONDS = 12.0
"""For one command outside a transaction and the driver's retry of it: an election (up to 11 s) fits in this time."""

REACH_SECONDS = 4.0
"""The timeout of a first command that somebody waits for: a person at a command line, or a service that starts."""


def _connect(uri: str, listeners: Listeners, max_pool_size: int) -> MongoClient[Document]:
    """Return a client with the settings that the promises need. It connects with its first command, after any fork."""
    return MongoClient(
        uri,
        appname=APP_NAME,
        driver=DriverInfo(processes.LAYER, processes.own_name()),
        connect=False,
        tz_aware=True,
        # Without majority, a failover can roll back an acknowledged delete, and a read can see data that rolls back.
        w="majority",
        journal=True,
        readConcernLevel="majority",
        readPreference="primary",
        retryReads=True,
        retryWrites=True,
        connectTimeoutMS=2_000,
        serverSelectionTimeoutMS=4_000,
        # After an error the driver checks the topology again within 2 s, not the default 10 s.
        heartbeatFrequencyMS=2_000,
        maxPoolSize=max_pool_size,
        # Work without a deadline would otherwise wait for a connection for ever.
        waitQueueTimeoutMS=1_000,
        event_listeners=listeners,
    )


class Database:
    """The collections of one MongoDB database, and the two ways to use them: `operation()` and `transaction()`."""

    tracer = SILENT

    def __init__(
        self,
        uri: str,
        *,
        max_pool_size: int = 16,
        listeners: Listeners = (),
        runner: Callable[[MongoClient[Document]], TransactionRunner] = TransactionRunner,
        tracer: Tracer = SILENT,
    ) -> None:
        """Prepare a client for `uri`, without sending anything yet. `listeners` are the driver's event listeners.

        `runner` makes what runs the transactions of the client: for example a runner with other deadlines.

        Raises:
            UnsupportedServerError: `uri` is not a usable MongoDB address.
        """
        self.guard: Callable[[], None] = lambda: None
        """Called before each use of the database; raises if the database must not be used. See ledger.py."""
        self.tracer = tracer
        self._clock = ServerClock()
        self._outage = Outage()
        self._has_collections = False
        """Stays true once all collections were seen: nobody removes them while the service runs."""
        self._complaints = Complaints()
        self._confirmed: Primary | None = None
        try:
            self.client = _connect(uri, (self._clock, self._outage, *listeners), max_pool_size)
            self._hosts = _hosts(uri)
        except (InvalidURI, ConfigurationError, ValueError) as error:
            raise UnsupportedServerError(
                "MONGODB_URI is not a valid MongoDB address, like mongodb://host:27017/chat_service?replicaSet=rs0."
            ) from error
        self._use(self.client.get_default_database(DEFAULT_DATABASE))
        self._transactions = runner(self.client)

    def _use(self, database: Any) -> None:
        self.database = database
        self.collections = {name: database[name] for name in COLLECTIONS}
        self.rules = KnownRules(self._find_tenant)
        self.tenants = self.collections["tenants"]
        self.api_keys = self.collections["api_keys"]
        self.holds = self.collections["holds"]
        self.webhooks = self.collections["webhooks"]
        self.deliveries = self.collections["deliveries"]
        self.erasures = self.collections["erasures"]
        self.retention_days = self.collections["retention_days"]
        self.chats = self.collections["chats"]
        self.messages = self.collections["messages"]
        self.presence = self.collections["presence"]
        self.deletions = self.collections["deletions"]
        self.purges = self.collections["purges"]
        self.completions = self.collections["completions"]
        self.trash = self.collections["trash"]
        self.outbox = self.collections["outbox"]
        self.log_entries = self.collections["log_entries"]
        self.log_heads = self.collections["log_heads"]
        self.log_position = self.collections["log_position"]
        self.tickets = self.collections["tickets"]
        self.idempotency = self.collections["idempotency"]

    def now(self) -> datetime:
        """Return the server's time in UTC, rounded down to the milliseconds that BSON stores."""
        now = self._clock.now()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def transaction(self, work: Work[T], before_retry: BeforeRetry = lambda: None) -> T:
        """Run `work(tx)` in one transaction; see `TransactionRunner.run` for what it returns and raises."""
        try:
            self.guard()
            with self.tracer.step("transaction"):
                return self._transactions.run(lambda session: work(self._unit_of_work(session)), before_retry)
        except PyMongoError as error:
            if is_outage(error):
                self._complain(error)
                raise DatabaseUnavailableError from error
            raise

    @contextmanager
    def operation(self, *, writes: bool = False, seconds: float | None = None) -> Iterator[None]:
        """Run the single commands in the block under one deadline, or that of the request if it is sooner.

        `seconds` replaces both, also after the request's own deadline: for a last look that is worth the time.

        Raises:
            DatabaseUnavailableError: the database did not answer in time; nothing was changed.
            OutcomeUnknownError: a write was sent, and no reply came.
        """
        budget = deadline.at_most(OPERATION_SECONDS) if seconds is None else seconds
        if budget <= 0:
            raise DatabaseUnavailableError
        try:
            with pymongo.timeout(budget):
                self.guard()
                self._confirm_primary()
                yield
                # The driver may have retried the command on another primary.
                if not writes and self._primary() not in {None, self._confirmed}:
                    raise DatabaseUnavailableError
        except PyMongoError as error:
            if not is_outage(error):
                raise
            self._complain(error)
            refused = isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError) or is_refused(error)
            may_have_written = writes and not refused
            raise (OutcomeUnknownError if may_have_written else DatabaseUnavailableError) from error

    @contextmanager
    def snapshot(self) -> Iterator[UnitOfWork]:
        """Yield a unit of work that reads the majority-committed data of one moment (the server keeps it for 5 min)."""
        with self.operation():
            self._confirm_primary()
        with self.client.start_session(snapshot=True) as session:
            yield self._unit_of_work(session)

    def _confirm_primary(self) -> None:
        """Wait, once after each election, until a majority has confirmed the new primary.

        A primary answers reads with the data that it knows to be committed. Until it is confirmed, that may be older
        than what its predecessor returned: a new chat would be missing, and removed messages would be back.
        """
        primary = self._primary()
        is_replica_set = self.client.topology_description.topology_type_name.startswith("ReplicaSet")
        if is_replica_set and (primary is None or primary != self._confirmed):
            tenants = self.database.get_collection("tenants", read_concern=ReadConcern("linearizable"))
            tenants.find_one({"_id": ""}, {"_id": True})
            self._confirmed = self._primary()

    def _primary(self) -> Primary | None:
        for server in self.client.topology_description.server_descriptions().values():
            if server.server_type_name == "RSPrimary":
                return server.address, server.election_id
        return None

    def unbound(self) -> UnitOfWork:
        """Return a unit of work whose commands run one by one, outside any transaction."""
        return self._unit_of_work(None)

    def _unit_of_work(self, session: ClientSession | None) -> UnitOfWork:
        return UnitOfWork(self.database, self.collections, self.rules, session, self.now())

    def _find_tenant(self, tenant_id: str) -> Document | None:
        with self.operation():
            tenant: Document | None = self.tenants.find_one({"_id": tenant_id})
        return tenant

    def _complain(self, error: PyMongoError) -> None:
        self._complaints.say(reasons(error, ", ".join(self._hosts), self.database.name))

    @property
    def is_local(self) -> bool:
        """Whether every server named in the address is this machine."""
        return all(host in {"127.0.0.1", "localhost", "::1"} for host in self._hosts)

    def seconds_away(self) -> float:
        """Return for how long it has been known that there is no primary; 0 while there is one, or nobody knows."""
        return self._outage.seconds()

    def is_ready(self) -> bool:
        """Tell whether a primary answers within a second and has the collections; False at once if none is known.

        Raises:
            LedgerBehindError: the database was restored from a backup, and has not replayed its ledger.
        """
        if self.seconds_away():
            return False
        try:
            with pymongo.timeout(1):
                self.client.admin.command("ping")
                self.guard()
                if not self._has_collections:
                    problems = list(shortcomings(self.database))
                    self._complaints.say(problems)
                    self._has_collections = not problems
        except PyMongoError as error:
            self._complain(error)
            return False
        return self._has_collections

    def require_transactions(self) -> None:
        """Check that the server can run transactions.

        Raises:
            UnsupportedServerError: the server cannot; the message says what to do.
            DatabaseUnavailableError: the server did not answer within `REACH_SECONDS`.
        """
        with self.operation(seconds=REACH_SECONDS):
            hello = self.client.admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise UnsupportedServerError(
                "The MongoDB server is a standalone: it has no transactions, and without them a delete is not atomic. "
                "Start it with --replSet rs0, run rs.initiate() once, and add ?replicaSet=rs0 to MONGODB_URI."
            )

    def oplog_window(self) -> timedelta | None:
        """Return how far the server's oplog reaches back. Deleted data stays in the oplog until it rolls over.

        None if the database user may not read the oplog.
        """
        oplog = self.client.local["oplog.rs"]
        try:
            with self.operation():
                ends = [oplog.find_one({}, {"wall": True}, sort=[("$natural", order)]) for order in (1, -1)]
        except OperationFailure:
            return None
        first, last = ends
        return None if first is None or last is None else last["wall"] - first["wall"]

    def shortcomings(self) -> list[str]:
        """Return what is wrong with the collections, each as a sentence that says what to do."""
        with self.operation():
            return list(shortcomings(self.database))

    def prepare(self) -> None:
        """Create the collections and indexes that are missing. Safe to repeat; the release phase runs it.

        Raises:
            UnsupportedServerError: the server has no transactions.
            WrongCollectionsError: collections or indexes exist that are not as they must be.
        """
        self.require_transactions()
        with self.operation(writes=True):
            for name, indexes in COLLECTIONS.items():
                with suppress(CollectionInvalid):
                    self._make(partial(self.database.create_collection, name, **OPTIONS.get(name, {})))
                if indexes:
                    self._make(partial(self.database[name].create_indexes, indexes))
        if problems := self.shortcomings():
            raise WrongCollectionsError(" ".join(problems))

    def old_indexes(self) -> list[str]:
        """Return the indexes of the version before that are still there, each as `collection.index`."""
        with self.operation():
            return [f"{collection}.{index}" for collection, index in old_indexes(self.database)]

    def drop_old_indexes(self) -> None:
        """Drop the indexes of the version before, whose processes are not ready without them."""
        with self.operation(writes=True):
            for collection, index in old_indexes(self.database):
                self.database[collection].drop_index(index)

    def _make(self, create: Callable[[], object]) -> None:
        try:
            create()
        except OperationFailure as error:
            if error.code not in _EXISTS_CODES:
                raise

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


_EXISTS_CODES = {48, 85, 86, 166}
"""The collection or index exists already, as it must be or not: `shortcomings` reports which."""


def _hosts(uri: str) -> list[str]:
    """Return the hosts that a MongoDB address names, without a DNS query."""
    if uri.startswith("mongodb+srv://"):
        return [str(urlsplit(uri).hostname)]
    return [host for host, _ in parse_uri(uri)["nodelist"]]
