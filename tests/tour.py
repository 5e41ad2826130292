"""A tour of every database command of the service: those of its callers, its workers and its operator.

`record` returns the commands that were sent. If a function of the repository sends a command and the tour does not
reach it, `tests/repository/test_sharding.py` fails.
"""

import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chat_service.api.context import Repositories
from chat_service.app import create_app
from chat_service.errors import ClaimLostError
from chat_service.jobs.erasing import Erasing
from chat_service.jobs.keeping import Keeping
from chat_service.jobs.lifting import Lifting
from chat_service.jobs.purge import PurgeWorker
from chat_service.jobs.reaper import OrphanReaper
from chat_service.jobs.retaining import Retaining
from chat_service.jobs.runner import Job
from chat_service.jobs.turns import Expiry, RemovingTenants
from chat_service.models import Caller, IdempotencyKey, Limits, Message, RateLimit, Scope
from chat_service.proof.ledger_file import LedgerFile
from chat_service.proof.notes import SigningKey
from chat_service.repository import idempotency
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.changes import Changes
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.ledger import Ledger
from chat_service.repository.lifecycle import Removal
from chat_service.repository.limits import RateLimits
from chat_service.repository.migration import migrate
from chat_service.repository.orphans import Absent
from chat_service.repository.processes import own_name
from chat_service.repository.replay import Replay
from chat_service.repository.sealing import new_key
from chat_service.repository.sequencer import Sequencer
from chat_service.repository.tenants import Tenants
from chat_service.settings import Settings
from tests.client import Client, TenantAccess
from tests.numbering import number_all
from tests.recovery.conftest import Backup
from tests.recovery.test_replay import Tenant as BusyTenant
from tests.repository.test_migration import write_as_before
from tests.sharding import Recorder, Sent, shard_keys

INLINE_LIMIT = 4
MANY = [str(number) for number in range(INLINE_LIMIT * 3)]
LONG_AGO = timedelta(days=400)


def record(uri: str, database: Database, folder: Path) -> list[Sent]:
    """Make the tour on a server, and return the commands that were sent. Commands of `database` are not recorded."""
    recorder = Recorder(shard_keys())
    with pytest.MonkeyPatch.context() as patch:
        for module in ("api_keys", "tenant_rules"):
            # Keys and tenants stay cached throughout, so that the commands do not depend on the time.
            patch.setattr(f"chat_service.repository.{module}.CACHE_SECONDS", 3_600)
        patch.setattr("chat_service.repository.tenant_deletions.STOPPED_AFTER", timedelta())
        listening = Database(uri, listeners=(recorder,))
        settings = {"webhook_keys": (new_key(),), "webhook_private_networks": True, "signing_keys": (SigningKey.new(),)}
        app = create_app(
            Settings("unused", 2**20, threads=8, log_format="json", delete_inline_limit=INLINE_LIMIT, **settings),
            listening,
        )
        tour = Tour(recorder, Repositories.of(app.extensions), [_client(app, database) for _ in range(2)], database)
        for stage in STAGES:
            stage(tour)
        restored(tour, folder)
        listening.close()
    return recorder.sent


def _client(app: Any, database: Database) -> Client:
    tenant = Tenants(database).create("a tenant")
    key, api_key = ApiKeys(database).create(tenant.id, "test", Scope)
    return Client(app, TenantAccess(tenant.id, key, api_key.id))


MOST_ROUNDS = 50


class Tour:
    """Sends requests, and does the work of workers, each as an operation with a name."""

    def __init__(self, recorder: Recorder, repos: Repositories, clients: list[Client], database: Database) -> None:
        self.recorder = recorder
        self.repos = repos
        self.client, self.other = clients
        self.tenant_id = self.client.access.tenant_id
        self.database = database
        """Its commands are not recorded."""

    def ask(self, name: str, path: str | None = None, **query: Any) -> Any:
        """Send a request, named like `GET /chats/{id}`, to `path` below the API, and return the response."""
        method, template = name.split(" ")[:2]
        with self.recorder.operation(name):
            response = self.client.send(method, f"/api/v1{path or template}", **query)
            data = response.get_data()  # an export is streamed
        assert response.status_code < 500, (name, data)
        return response.get_json() if response.mimetype == "application/json" and data else data

    def do(self, name: str, work: Callable[[], Any]) -> Any:
        """Do some work that no request asks for, and return its result."""
        with self.recorder.operation(name):
            return work()

    def finish(self, name: str, job: Job) -> None:
        """Run a job until it has nothing left to do."""
        with self.recorder.operation(name):
            while job.run_once() is not None:
                pass

    def chat(self, *contents: str, **fields: Any) -> str:
        """Return the id of a new chat."""
        return self.client.new_chat(*contents, **fields)

    def expire(self, collection: str, field: str, **condition: Any) -> None:
        """Move the time in `field` of the matching documents far into the past."""
        self.database.collections[collection].update_many(condition, {"$set": {field: self.database.now() - LONG_AGO}})


def chats(tour: Tour) -> None:
    """Create, read and change chats."""
    tour.repos.keys.authenticate(tour.other.access.key)
    tour.do("a request whose key is not known yet", lambda: tour.repos.keys.authenticate(tour.client.access.key))
    chat = f"/chats/{tour.ask('POST /chats', json={})['id']}"
    tour.ask("POST /chats, under an id", "/chats", json={"id": str(uuid.uuid4())})
    tour.chat()
    tour.ask("GET /chats")
    page = tour.ask("GET /chats", query_string={"limit": 1})
    tour.ask("GET /chats", query_string={"limit": 1, "cursor": page["next_cursor"]})
    tour.ask("GET /chats/{id}", chat)
    tour.ask("PATCH /chats/{id}", chat, json={"title": "x"})
    tour.ask("PATCH /chats/{id}", chat, json={"title": "x"}, headers={"If-Match": '"99"'})
    limits: Limits = {Scope.WRITE: RateLimit(100, 100)}
    caller = Caller(tour.tenant_id, tour.client.access.key_id, frozenset(Scope))
    limited = RateLimits(tour.repos.database, limits)
    tour.do("a request with a rate limit", lambda: limited.take(caller, Scope.WRITE))


def messages(tour: Tour) -> None:
    """Post, read, change, export and import messages."""
    chat = f"/chats/{tour.chat('a', *MANY)}"
    keyed = {"headers": {"Idempotency-Key": "k"}}
    tour.ask("POST /chats/{id}/messages", f"{chat}/messages", json={"content": "x"})
    tour.ask("POST /chats/{id}/messages", f"{chat}/messages", json={"messages": [{"content": "x"}] * 40})
    tour.ask("POST /chats/{id}/messages, with a key", f"{chat}/messages", json={"content": "x"}, **keyed)
    tour.ask("GET /chats/{id}/messages", f"{chat}/messages")
    tour.ask("GET /chats/{id}/messages/{seq}", f"{chat}/messages/1")
    tour.ask("PATCH /chats/{id}/messages/{seq}", f"{chat}/messages/1", json={"content": "y"})
    tour.ask("DELETE /chats/{id}/messages/{seq}", f"{chat}/messages/1")
    tour.ask("DELETE /chats/{id}/messages/{seq}", f"{chat}/messages/1")
    tour.ask("GET /chats/{id}/deletion-preview", f"{chat}/deletion-preview")
    exported = tour.ask("GET /chats/{id}/export", f"{chat}/export", query_string={"format": "ndjson"})
    long = tour.chat(*["x" * 8_000] * 60)
    tour.ask("GET /chats/{id}/export", f"/chats/{long}/export", query_string={"format": "ndjson"})
    ndjson = {"headers": {"Content-Type": "application/x-ndjson"}}
    tour.ask("POST /chats/import", data=exported, **ndjson)
    tour.do("POST /chats/import, large", lambda: _stage(tour))
    tour.ask("DELETE /chats/{id}/messages", f"/chats/{tour.chat('a')}/messages")
    tour.ask("DELETE /chats/{id}/messages, large", f"{chat}/messages")


def _stage(tour: Tour) -> None:
    """Import a chat in three transactions, and abandon another import in the middle."""
    for is_abandoned in (False, True):
        chat = Chats(tour.database).create(tour.tenant_id, None, {})
        tour.database.chats.delete_one({"_id.chat_id": chat.id})
        with tour.repos.imports.begin(tour.tenant_id, chat) as begun:
            for seq in range(1, 4):
                begun.add([Message(seq, "user", None, "x", {}, tour.database.now(), None)])
            if not is_abandoned:
                begun.finish()


def connections(tour: Tour) -> None:
    """Open connections with a ticket, renew and close them."""
    chat_id = tour.chat("a")
    ticket = tour.ask("POST /chats/{id}/tickets", f"/chats/{chat_id}/tickets")["ticket"]
    tour.do("a WebSocket's ticket", lambda: tour.repos.tickets.redeem(ticket, chat_id))
    presence = tour.repos.presence
    for number in ("a", "b", "c"):
        tour.do("a WebSocket is opened", lambda number=number: presence.open(tour.tenant_id, chat_id, number, "worker"))
    tour.ask("GET /chats/{id}/connections", f"/chats/{chat_id}/connections")
    tour.do("the leases of a process are renewed", lambda: presence.renew("worker"))
    tour.do("a WebSocket is closed", lambda: presence.close("worker", ["a"]))
    tour.do("the sockets of a restored chat", lambda: presence.since_restored(tour.tenant_id, chat_id))
    tour.ask("DELETE /chats/{id}, connected to", f"/chats/{chat_id}")
    tour.do("a process ends", lambda: presence.close_worker("worker"))
    caller = tour.repos.keys.authenticate(tour.client.access.key)
    tour.do("the key of an open socket", lambda: tour.repos.keys.get(tour.tenant_id, caller.key_id))
    followed = Changes(tour.repos.database).follow(lambda: frozenset({tour.tenant_id}), lambda _: None)
    tour.do("the feed of a process", lambda: next(followed))
    followed.close()


def deletions(tour: Tour) -> None:
    """Delete one chat, large ones and several; with refusals and retries."""
    tour.ask("DELETE /chats/{id}", f"/chats/{tour.chat('a')}")
    large = tour.chat(*MANY)
    tour.ask("DELETE /chats/{id}, large", f"/chats/{large}")
    keyed = {"headers": {"Idempotency-Key": "d"}}
    tour.ask("DELETE /chats/{id}, with a key", f"/chats/{tour.chat('a')}", **keyed)
    tour.ask("DELETE /chats/{id}, not there", f"/chats/{uuid.uuid4()}")
    occupied = tour.chat("a")
    tour.repos.presence.open(tour.tenant_id, occupied, occupied, "worker")
    tour.ask("DELETE /chats/{id}, evicting", f"/chats/{occupied}?on_active=evict")
    emptied = tour.chat(*MANY)
    tour.client.send("DELETE", f"/api/v1/chats/{emptied}/messages")
    tour.ask("DELETE /chats/{id}, emptied before", f"/chats/{emptied}")
    ids = [tour.chat("a") for _ in range(8)]
    tour.ask("POST /chats/delete", json={"chat_ids": ids}, headers={"Idempotency-Key": "bulk"})
    tour.ask(
        "POST /chats/delete, repeated", "/chats/delete", json={"chat_ids": ids}, headers={"Idempotency-Key": "bulk"}
    )
    removals = [Removal(tour.chat("a"), "key") for _ in range(2)]
    tour.do("the answer to a delete was lost", lambda: tour.repos.deletions.done_before(tour.tenant_id, removals))
    tour.ask("GET /deletions")
    tour.ask("GET /deletions/{id}", f"/deletions/{large}")
    with suppress(ClaimLostError):
        claimed = tour.repos.purges.claim("worker")
        assert claimed is not None
        tour.do("a purge is put back", lambda: tour.repos.purges.release(claimed))
    tour.finish("the purge worker", PurgeWorker(tour.repos.purges))
    tour.do("flask jobs status", tour.repos.purges.progress)


def trash(tour: Tour) -> None:
    """Trash chats, restore them, and let them expire."""
    first, *others = [tour.chat("a") for _ in range(5)]
    tour.ask("POST /chats/{id}/trash", f"/chats/{first}/trash", json={})
    tour.ask("GET /trash")
    tour.ask("GET /trash/{id}", f"/trash/{first}")
    tour.ask("POST /trash/{id}/restore", f"/trash/{first}/restore", headers={"Idempotency-Key": "r"})
    ticket = tour.client.send("POST", f"/api/v1/chats/{first}/tickets").get_json()["ticket"]
    tour.do("a WebSocket's ticket", lambda: tour.repos.tickets.redeem(ticket, first))
    keyed = {"headers": {"Idempotency-Key": "t"}}
    tour.ask("POST /chats/trash", json={"chat_ids": others}, **keyed)
    tour.ask("POST /chats/trash, repeated", "/chats/trash", json={"chat_ids": others}, **keyed)
    tour.ask("POST /trash/restore", json={"chat_ids": others[:2]}, headers={"Idempotency-Key": "u"})
    tour.ask("DELETE /trash/{id}", f"/trash/{others[2]}")
    tour.repos.tenants.set_grace(tour.tenant_id, timedelta(days=1))
    tour.repos.keys.authenticate(_forget(tour))
    in_grace = tour.chat("a")
    tour.ask("DELETE /chats/{id}, in grace", f"/chats/{in_grace}")
    tour.ask("GET /deletions, with grace", "/deletions")
    tour.ask("GET /deletions/{id}, with grace", f"/deletions/{in_grace}")
    tour.ask("POST /chats, under an id", "/chats", json={"id": in_grace})
    tour.expire("trash", "purge_at")
    tour.expire("chats", "expires_at", **{"_id.chat_id": tour.chat("a")})
    tour.finish("the expiry", Expiry(tour.repos.expired))
    tour.repos.tenants.set_grace(tour.tenant_id, timedelta())
    tour.repos.keys.authenticate(_forget(tour))


def _forget(tour: Tour) -> str:
    """Clear this process' caches of keys and tenants, as 5 s would; return the tenant's key."""
    tour.repos.keys._callers.clear()
    tour.repos.database.rules._tenants.clear()
    return tour.client.access.key


def holds(tour: Tour) -> None:
    """Place, change, read and release holds, and lift their marks."""
    live, kept, further = (tour.chat("a") for _ in range(3))
    tour.client.send("POST", f"/api/v1/chats/{kept}/trash", json={})
    body = {"name": "n", "chat_ids": [live, kept]}
    hold = tour.ask("POST /holds", json=body, headers={"Idempotency-Key": "h"})["id"]
    tour.ask("POST /holds, repeated", "/holds", json=body, headers={"Idempotency-Key": "h"})
    tour.ask("GET /holds")
    tour.ask("GET /holds/{id}", f"/holds/{hold}")
    tour.ask("POST /holds/{id}/chats", f"/holds/{hold}/chats", json={"add": [further], "remove": [live]})
    tour.ask("DELETE /chats/{id}, held", f"/chats/{further}")
    for path in ("messages", "messages/1"):
        tour.ask("DELETE /chats/{id}/messages, held", f"/chats/{further}/{path}")
    tour.expire("trash", "purge_at")
    tour.finish("the expiry", Expiry(tour.repos.expired))
    tour.ask("POST /holds/{id}/release", f"/holds/{hold}/release")
    tour.ask("POST /holds/{id}/release", f"/holds/{hold}/release")
    tour.finish("the marks of released holds are taken off", Lifting(tour.repos.holds))
    tour.do("flask jobs run --until-idle", tour.repos.holds.are_lifted)
    everything = tour.ask("POST /holds, on everything", "/holds", json={"name": "n", "everything": True})["id"]
    tour.ask("POST /holds/{id}/release, of everything", f"/holds/{everything}/release")
    _forget(tour)
    removed = tour.chat("a")
    tour.repos.keys.authenticate(_forget(tour))
    tour.repos.database.rules._tenants.clear()
    tour.ask(
        "PATCH /chats/{id}/messages/{seq}, the tenant's holds not known",
        f"/chats/{removed}/messages/1",
        json={"content": "y"},
    )
    tour.database.tenants.update_many({}, {"$unset": {"hold_released_at": ""}})
    tour.repos.keys.authenticate(_forget(tour))


def retention(tour: Tour) -> None:
    """Set, read and end a policy, and let it delete chats."""
    tour.ask("GET /retention/preview", query_string={"delete_after_days": 9})
    tour.ask("PUT /retention", json={"delete_after_days": 9, "action": "delete"})
    tour.ask("GET /retention")
    in_force = tour.database.now() - LONG_AGO
    tour.database.tenants.update_many({"retention": {"$exists": True}}, {"$set": {"retention.active_from": in_force}})
    inactive = [tour.chat("a") for _ in range(3)]
    held = tour.client.send("POST", "/api/v1/holds", json={"name": "n", "chat_ids": inactive[:1]}).get_json()["id"]
    for chat_id in inactive:
        tour.expire("chats", "updated_at", **{"_id.chat_id": chat_id})
    tour.repos.keys.authenticate(_forget(tour))
    tour.do("the gauge of overdue chats", tour.repos.retention.overdue)
    tour.finish("the retention", Retaining(tour.repos.retention))
    tour.client.send("POST", f"/api/v1/holds/{held}/release")
    tour.ask("DELETE /retention")


def erasing(tour: Tour) -> None:
    """Erase a person from chats and the trash; a hold keeps some of the chats."""
    free, kept, held = (tour.chat("a") for _ in range(3))
    for chat_id in (free, kept, held):
        tour.client.send("POST", f"/api/v1/chats/{chat_id}/messages", json={"content": "x", "sender_id": "ada"})
    tour.client.send("POST", f"/api/v1/chats/{kept}/trash", json={})
    tour.client.send("POST", "/api/v1/holds", json={"name": "n", "chat_ids": [held]})
    for mode in ("redact", "remove"):
        erasure = tour.ask("POST /erasures", json={"sender_id": "ada", "mode": mode})["id"]
        tour.ask("GET /erasures")
        tour.ask("GET /erasures/{id}", f"/erasures/{erasure}")
        if mode == "redact":
            tour.database.messages.update_many({}, {"$set": {"sender_id": "ada"}})
        tour.finish("the eraser", Erasing(tour.repos.erasures))
    tour.do("flask jobs run --until-idle", tour.repos.erasures.are_done)


def log(tour: Tour) -> None:
    """Number, read and prove entries of the log."""
    tour.other.send("DELETE", f"/api/v1/chats/{tour.other.new_chat('a')}")
    deleted = tour.chat("a")
    tour.client.send("DELETE", f"/api/v1/chats/{deleted}")
    tour.do("the sequencer, through all receipts", lambda: number_all(tour.repos.database))
    again = tour.chat("a")
    tour.client.send("DELETE", f"/api/v1/chats/{again}")
    tour.client.send("DELETE", f"/api/v1/chats/{tour.chat('a')}/messages")
    tour.other.send("DELETE", f"/api/v1/chats/{tour.other.new_chat('a')}")
    tour.do("the sequencer", lambda: number_all(tour.repos.database))
    tour.ask("GET /log")
    tour.ask("GET /deletions/{id}/proof", f"/deletions/{deleted}/proof")
    tour.ask("GET /log/checkpoint")
    tour.ask("GET /log/consistency", query_string={"old": 1})
    tour.do("those who follow the log", lambda: tour.repos.log.heads({tour.tenant_id, tour.other.access.tenant_id}))
    tour.do("the keys of those who follow the log", lambda: tour.repos.keys.ended([tour.client.access.key_id]))
    tour.do("the gauge of the log", tour.repos.sequencer.status)
    sequencer = Sequencer(tour.repos.database)
    tour.database.log_heads.update_one({"_id": tour.tenant_id}, {"$set": {"tree": {"size": 0, "frontier": []}}})
    sequencer.claim()
    tour.do("the sequencer, on a log of an earlier version", sequencer.grow_trees)
    sequencer.give_up()


def webhooks(tour: Tour) -> None:
    """Create, deliver to, change and delete webhooks."""
    body = {"url": "http://127.0.0.1:9/", "kinds": ["chat.deleted"]}
    made = tour.ask("POST /webhooks", json=body, headers={"Idempotency-Key": "w"})["id"]
    tour.ask("GET /webhooks")
    tour.ask("GET /webhooks/{id}", f"/webhooks/{made}")
    tour.ask("PATCH /webhooks/{id}", f"/webhooks/{made}", json={"enabled": True})
    tour.ask("POST /webhooks/{id}/rotate", f"/webhooks/{made}/rotate")
    tour.ask("POST /webhooks/{id}/replay", f"/webhooks/{made}/replay", json={"after": 0})
    tour.ask("POST /webhooks/{id}/test", f"/webhooks/{made}/test")
    tour.do("a worker makes deliveries", tour.repos.deliveries.enqueue_some)
    tour.do("a worker tells a webhook", lambda: _tell(tour))
    tour.ask("GET /webhooks/{id}/deliveries", f"/webhooks/{made}/deliveries")
    tour.ask("DELETE /webhooks/{id}", f"/webhooks/{made}")


def _tell(tour: Tour) -> None:
    """Deliver once with success and once with 410; after that there is nothing more to deliver."""
    for status in (200, 410):
        attempt = tour.repos.deliveries.claim([])
        assert attempt is not None
        tour.repos.deliveries.settle(attempt, status, "said")
    assert tour.repos.deliveries.claim([]) is None


def dead_processes(tour: Tour) -> None:
    """Find the leases and claims of dead processes, and release them."""
    chat_id = tour.chat("a")
    tour.repos.presence.open(tour.tenant_id, chat_id, uuid.uuid4().hex, "chat-service-0.0.1")
    tour.do("the reaper", OrphanReaper(tour.repos.orphans).run_once)
    tour.do("the reaper", lambda: tour.repos.orphans.release_leases(Absent("nobody", tour.database.now())))
    tour.do("the reaper", lambda: tour.repos.orphans.release_claims(["nobody"]))
    tour.do("a worker's successor", lambda: tour.repos.orphans.release(f"not {own_name()}"))


def operator(tour: Tour) -> None:
    """Run the operator's commands: tenants, keys, the check with repairs, the migration of an earlier version."""
    tenants, keys = tour.repos.tenants, tour.repos.keys
    made = tour.do("flask tenants", lambda: tenants.create("t"))
    tour.do("flask tenants", tenants.list)
    tour.do("flask tenants", lambda: (tenants.get(made.id), tenants.set_limits(made.id, {Scope.READ: None})))
    tour.do("flask tenants", lambda: tenants.set_grace(made.id, timedelta(days=1)))
    _, key = tour.do("flask keys", lambda: keys.create(made.id, "l", [Scope.READ]))
    tour.do("flask keys", lambda: keys.list(made.id))
    tour.do("flask keys rotate", lambda: keys.rotate(made.id, key.id, timedelta(days=1)))
    tour.do("flask keys", lambda: keys.revoke(made.id, key.id))
    tour.do("flask status", tour.repos.health.backlog)
    tour.do("the gauge of webhooks", lambda: tour.repos.health.webhooks(5))
    exports = tour.repos.exports
    for of_trash in (False, True):
        tour.do("flask tenants export", lambda of_trash=of_trash: list(exports.ids(tour.tenant_id, of_trash=of_trash)))
    tour.do("flask tenants export", lambda: tour.repos.tenants.count_chats(tour.tenant_id))
    repeated = IdempotencyKey(tour.tenant_id, "k", "another")
    tour.do(
        "POST /chats/import, repeated",
        lambda: idempotency.is_recorded(tour.repos.database, tour.tenant_id, repeated.key),
    )
    wrong, again = tour.chat("a"), tour.chat("a")
    tour.database.chats.update_one({"_id.chat_id": wrong}, {"$inc": {"message_count": 5}})
    kept = tour.database.chats.find_one({"_id.chat_id": again})
    tour.client.send("DELETE", f"/api/v1/chats/{again}")
    tour.database.chats.insert_one(kept)
    tour.do("flask check --repair", lambda: list(tour.repos.checks.run(repair=True)))
    write_as_before(tour.database)
    tour.do("flask db init, after an earlier version", lambda: list(migrate(tour.repos.database)))


def restored(tour: Tour, folder: Path) -> None:
    """Keep a ledger, restore a backup, and replay the ledger on it."""
    tour.finish("the purge worker", PurgeWorker(tour.repos.purges))
    file = LedgerFile(folder / "ledger.db")
    ledger = Ledger(tour.repos.database, file)
    ledger.disable_guard()  # the guard sends its commands at its own times
    busy = BusyTenant(tour.client)
    number_all(tour.database)
    tour.finish("the ledger is kept", Keeping(ledger))
    backup = Backup(tour.database)
    busy.go_on()
    leave(tour)
    tour.client.send("PATCH", f"/api/v1/chats/{busy.chats[14]}/messages/1", json={"content": "y"})
    number_all(tour.database)
    tour.finish("the ledger is kept", Keeping(ledger))
    backup.restore()
    tour.do("a process with a ledger", ledger.behind)
    tour.do("the replay", lambda: list(Replay(tour.repos.database, ledger).run()))


def leave(tour: Tour) -> None:
    """Delete the other tenant, with all its data."""
    tenant_id, deletions = tour.other.access.tenant_id, tour.repos.tenant_deletions
    tour.other.new_chat("a")
    tour.do("flask tenants delete", lambda: deletions.request(tenant_id, "operator"))
    tour.do("flask tenants delete", lambda: deletions.get(tenant_id))
    for _ in range(MOST_ROUNDS):  # until its chats are gone, and then the tenant
        tour.finish("a tenant is deleted", RemovingTenants(deletions))
        number_all(tour.database)
        if deletions.get(tenant_id).completed_at:
            return
    pytest.fail("The tenant's deletion does not end.")


STAGES = (
    *(chats, messages, connections, deletions, trash, holds, retention, erasing),
    *(log, webhooks, dead_processes, operator),
)
