"""The context of a request: the repositories and the caller."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import current_app, g

from chat_service.models import Caller
from chat_service.proof.ledger_file import LedgerFile
from chat_service.proof.notes import SigningKey
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.bulk import Bulk
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.deliveries import Deliveries
from chat_service.repository.erasures import Erasures
from chat_service.repository.expired import Expired
from chat_service.repository.exports import Exports
from chat_service.repository.health import Health
from chat_service.repository.holds import Holds
from chat_service.repository.imports import Imports
from chat_service.repository.ledger import Ledger
from chat_service.repository.limits import RateLimits
from chat_service.repository.log import Log
from chat_service.repository.messages import Messages
from chat_service.repository.orphans import Orphans
from chat_service.repository.presence import ConnectionCaps, Presence
from chat_service.repository.previews import Previews
from chat_service.repository.proofs import Proofs
from chat_service.repository.purges import Purges
from chat_service.repository.receipts import Receipts
from chat_service.repository.retention import RetentionPolicies
from chat_service.repository.sealing import Sealer
from chat_service.repository.sequencer import Sequencer
from chat_service.repository.tenant_deletions import TenantDeletions
from chat_service.repository.tenants import Tenants
from chat_service.repository.tickets import Tickets
from chat_service.repository.trash import Trash
from chat_service.repository.webhooks import Webhooks

_EXTENSION = "chat_service"


@dataclass(frozen=True, slots=True)
class Repositories:
    """All repositories of the service: whatever a view may call."""

    database: Database
    chats: Chats
    deletions: Deletions
    trash: Trash
    bulk: Bulk
    expired: Expired
    holds: Holds
    erasures: Erasures
    webhooks: Webhooks
    deliveries: Deliveries
    retention: RetentionPolicies
    receipts: Receipts
    previews: Previews
    purges: Purges
    checks: Checks
    health: Health
    orphans: Orphans
    log: Log
    sequencer: Sequencer
    proofs: Proofs
    ledger: Ledger | None
    signing_keys: Sequence[SigningKey]
    messages: Messages
    exports: Exports
    imports: Imports
    tenants: Tenants
    tenant_deletions: TenantDeletions
    keys: ApiKeys
    presence: Presence
    tickets: Tickets
    limits: RateLimits

    @classmethod
    def on(  # noqa: PLR0913 - all that they get from outside
        cls,
        database: Database,
        inline_limit: int,
        limits: RateLimits,
        caps: ConnectionCaps,
        sealer: Sealer,
        *,
        private_networks: bool,
        ledger: LedgerFile | None = None,
        signing_keys: Sequence[SigningKey] = (),
    ) -> "Repositories":
        """Return the repositories of one database; chats of up to `inline_limit` messages are removed at once.

        `sealer` seals the secrets of webhooks; with `private_networks` webhooks may call any address. With a `ledger`,
        nothing is done on a database that lacks what the ledger has.
        """
        ledger_repository = None if ledger is None else Ledger(database, ledger, signing_keys)
        keys = ApiKeys(database)
        deletions = Deletions(database, inline_limit)
        return cls(
            database=database,
            chats=Chats(database),
            deletions=deletions,
            trash=Trash(database),
            bulk=Bulk(database, deletions),
            expired=Expired(database, deletions),
            holds=Holds(database),
            erasures=Erasures(database),
            webhooks=Webhooks(database, sealer, private_networks=private_networks),
            deliveries=Deliveries(database, sealer),
            retention=RetentionPolicies(database, deletions),
            receipts=Receipts(database),
            previews=Previews(database, inline_limit),
            purges=Purges(database),
            checks=Checks(database),
            health=Health(database),
            orphans=Orphans(database),
            log=Log(database),
            sequencer=Sequencer(database),
            proofs=Proofs(database, ledger),
            ledger=ledger_repository,
            signing_keys=signing_keys,
            messages=Messages(database, inline_limit),
            exports=Exports(database),
            imports=Imports(database),
            tenants=Tenants(database),
            tenant_deletions=TenantDeletions(database, deletions),
            keys=keys,
            presence=Presence(database, caps),
            tickets=Tickets(database, keys),
            limits=limits,
        )

    def install(self, extensions: dict[str, object]) -> None:
        """Make these the repositories of an application."""
        extensions[_EXTENSION] = self

    @staticmethod
    def of(extensions: dict[str, Any]) -> "Repositories":
        """Return the repositories of an application."""
        installed: Repositories = extensions[_EXTENSION]
        return installed


def repositories() -> Repositories:
    """Return the repositories of the current application."""
    return Repositories.of(current_app.extensions)


def caller() -> Caller:
    """Return the caller of the current request; only below `/api/`, after the key was checked."""
    authenticated: Caller = g.caller
    return authenticated
