"""The client, the collections and their indexes, and how a single command is run."""

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
from chat_service.repository.shape import COLLECTIONS, OPTIONS, shortcomings
from chat_service.repository.tenant_rules import KnownRules
from chat_service.repository.tracer import SILENT, Tracer
from chat_service.repository.transaction import Again, T, TransactionRunner
from chat_service.repository.unit_of_work import UnitOfWork

Work = Callable[[UnitOfWork], T | ChatServiceError]
Document = dict[str, Any]
Listeners = Sequence[Any]

Primary = tuple[Any, Any]
"""Where a primary is, and which election has made it one."""

APP_NAME = "chat-service"
"""How the server's own tools (currentOp, failpoints, logs) tell our connections from others."""

DEFAULT_DATABASE = "chat_service"

OPERATION_SECONDS = 12.0
"""For one command outside a transaction, with the driver's own retry: an election (up to 11 s) fits in it."""

REACH_SECONDS = 4.0
"""For the first command of somebody who waits for a word: a person at a command line, or a service that is to start."""


def _connect(uri: str, listeners: Listeners, max_pool_size: int) -> MongoClient[Document]:
    """Return a client with the settings the promises rest on; it connects with its first command, after any fork."""
    return MongoClient(
        uri,
        appname=APP_NAME,
        driver=DriverInfo(processes.LAYER, processes.own_name()),
        connect=False,
        tz_aware=True,
        # Without majority an acknowledged delete can roll back in a failover, and a read can see what rolls back.
        w="majority",
        journal=True,
        readConcernLevel="majority",
        readPreference="primary",
        retryReads=True,
        retryWrites=True,
        connectTimeoutMS=2_000,
        serverSelectionTimeoutMS=4_000,
        # After an error the next look at the topology comes 2 s later at most, not the default 10.
        heartbeatFrequencyMS=2_000,
        maxPoolSize=max_pool_size,
        # For what runs under no deadline, which would otherwise wait for a connection for ever.
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
        """Prepare a client for `uri`; nothing is sent yet. `listeners` are told of its commands.

        Transactions run in what `runner` makes of the client: with other deadlines, say.

        Raises:
            UnsupportedServerError: `uri` is no usable MongoDB address.
        """
        self.guard: Callable[[], None] = lambda: None
        """Asked before the database is used; it may raise that it must not be. See ledger.py."""
        self.tracer = tracer
        self._clock = ServerClock()
        self._outage = Outage()
        self._has_collections = False
        """As it was seen once: nobody takes them away while the service runs."""
        self._complaints = Complaints()
        self._confirmed: Primary | None = None
        try:
            self.client = _connect(uri, (self._clock, self._outage, *listeners), max_pool_size)
            self._hosts = _hosts(uri)
        except (InvalidURI, ConfigurationError, ValueError) as error:
            raise UnsupportedServerError("MONGODB_URI is not a usable MongoDB address.") from error
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
        """Return the server's time in UTC, in the milliseconds that BSON keeps."""
        now = self._clock.now()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def transaction(self, work: Work[T], again: Again = lambda: None) -> T:
        """Run `work(tx)` in one transaction; see `TransactionRunner.run` for what it returns and raises."""
        try:
            self.guard()
            with self.tracer.step("transaction"):
                return self._transactions.run(lambda session: work(self._unit_of_work(session)), again)
        except PyMongoError as error:
            if is_outage(error):
                self._complain(error)
                raise DatabaseUnavailableError from error
            raise

    @contextmanager
    def operation(self, *, writes: bool = False, seconds: float | None = None) -> Iterator[None]:
        """Run the single commands in the block under one deadline, that of the request if it comes sooner.

        With `seconds` they have these, whatever the request has left: for a last look that is worth it.

        Raises:
            DatabaseUnavailableError: the database did not answer in time; nothing was changed.
            OutcomeUnknownError: a write was sent, and no answer came.
        """
        budget = deadline.at_most(OPERATION_SECONDS) if seconds is None else seconds
        if budget <= 0:
            raise DatabaseUnavailableError
        try:
            with pymongo.timeout(budget):
                self.guard()
                self._confirm_primary()
                yield
                # The driver may have asked once more, and another one.
                if not writes and self._primary() not in {None, self._confirmed}:
                    raise DatabaseUnavailableError
        except PyMongoError as error:
            if not is_outage(error):
                raise
            self._complain(error)
            refused = isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError) or is_refused(error)
            sent = writes and not refused
            raise (OutcomeUnknownError if sent else DatabaseUnavailableError) from error

    @contextmanager
    def snapshot(self) -> Iterator[UnitOfWork]:
        """Give a unit of work whose reads see the majority-committed data of one moment (the server keeps 5 min)."""
        with self.operation():
            self._confirm_primary()
        with self.client.start_session(snapshot=True) as session:
            yield self._unit_of_work(session)

    def _confirm_primary(self) -> None:
        """Wait, once after each election, until a majority has confirmed the new primary.

        It answers reads by what it knows to be committed, and until then that may be less than its predecessor has
        told: a chat that was made would be missing, and messages that were removed would be there.
        """
        primary = self._primary()
        is_set = self.client.topology_description.topology_type_name.startswith("ReplicaSet")
        if is_set and (primary is None or primary != self._confirmed):
            tenants = self.database.get_collection("tenants", read_concern=ReadConcern("linearizable"))
            tenants.find_one({"_id": ""}, {"_id": True})
            self._confirmed = self._primary()

    def _primary(self) -> Primary | None:
        for server in self.client.topology_description.server_descriptions().values():
            if server.server_type_name == "RSPrimary":
                return server.address, server.election_id
        return None

    def unbound(self) -> UnitOfWork:
        """Return the unit of work of single commands, each by itself, outside any transaction."""
        return self._unit_of_work(None)

    def _unit_of_work(self, session: ClientSession | None) -> UnitOfWork:
        return UnitOfWork(self.database, self.collections, self.rules, session, self.now())

    def _find_tenant(self, tenant_id: str) -> Document | None:
        with self.operation():
            found: Document | None = self.tenants.find_one({"_id": tenant_id})
        return found

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
        """Tell whether a primary answers within a second, and has the collections; without a known primary at once.

        Raises:
            LedgerBehindError: it was restored from a backup, and not brought up to its ledger.
        """
        if self.seconds_away():
            return False
        try:
            with pymongo.timeout(1):
                self.client.admin.command("ping")
                self.guard()
                if not self._has_collections:
                    wrong = list(shortcomings(self.database))
                    self._complaints.say(wrong)
                    self._has_collections = not wrong
        except PyMongoError as error:
            self._complain(error)
            return False
        return self._has_collections

    def require_transactions(self) -> None:
        """Ask the server whether it can run transactions.

        Raises:
            UnsupportedServerError: it cannot; the message says what to do.
            DatabaseUnavailableError: it did not answer within `REACH_SECONDS`.
        """
        with self.operation(seconds=REACH_SECONDS):
            hello = self.client.admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise UnsupportedServerError(
                "The MongoDB server is a standalone: it has no transactions, and without them a delete is not atomic. "
                "Start it with --replSet rs0, run rs.initiate() once, and add ?replicaSet=rs0 to MONGODB_URI."
            )

    def oplog_window(self) -> timedelta | None:
        """Return how far the server's own log reaches back, which keeps what was deleted until it rolls over.

        None where the user of the database may not read it.
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
        """Return what of the collections is not as it must be, each in a sentence that says what to do."""
        with self.operation():
            return list(shortcomings(self.database))

    def prepare(self) -> None:
        """Create the collections and indexes that are missing. Safe to repeat, and what the release phase runs.

        Raises:
            UnsupportedServerError: the server has no transactions.
            WrongCollectionsError: there is something else in their place.
        """
        self.require_transactions()
        with self.operation(writes=True):
            for name, indexes in COLLECTIONS.items():
                with suppress(CollectionInvalid):
                    self._make(partial(self.database.create_collection, name, **OPTIONS.get(name, {})))
                if indexes:
                    self._make(partial(self.database[name].create_indexes, indexes))
        if wrong := self.shortcomings():
            raise WrongCollectionsError(" ".join(wrong))

    def _make(self, create: Callable[[], object]) -> None:
        try:
            create()
        except OperationFailure as error:
            if error.code not in _SAID_IN_WORDS:
                raise

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


_SAID_IN_WORDS = {48, 85, 86, 166}
"""Something is there already, the same or another: `shortcomings` tells which."""


def _hosts(uri: str) -> list[str]:
    """Return the hosts that a MongoDB address names, without asking DNS where they are."""
    if uri.startswith("mongodb+srv://"):
        return [str(urlsplit(uri).hostname)]
    return [host for host, _ in parse_uri(uri)["nodelist"]]
