"""The primary is killed and paused again and again, under load: every promise holds, and every answer comes in time."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chat_service.embedded.gunicorn import EmbeddedGunicorn
from chat_service.embedded.process import free_port, start, stop
from chat_service.embedded.replica_set import DEFAULT_ELECTIONS, QUICK_ELECTIONS, EmbeddedReplicaSet
from chat_service.jobs.purge import PurgeWorker
from chat_service.repository.database import Database
from chat_service.repository.purges import Purges
from chat_service.repository.tenants import Tenants
from tests.client import TenantAccess
from tests.soak.checker import check, look
from tests.soak.conftest import number
from tests.soak.connections import Leases
from tests.soak.load import Load
from tests.soak.report import summarize, table
from tests.soak.schedule import carry_out, plan
from tests.soak.settle import settle
from tests.soak.wire import Wire

INLINE_LIMIT = 20
"""Of messages, so that there are deletes with and without a purge."""

WARM_SECONDS = 3.0
"""Until all threads have their connections, and there are chats to delete."""


@contextmanager
def service(database: Database, uri: str, folder: Path) -> Iterator[tuple[EmbeddedGunicorn, TenantAccess]]:
    """gunicorn, a purge worker, and a tenant; what they say goes to a file in the folder."""
    database.prepare()
    tenants = Tenants(database)
    tenant = tenants.create("soak")
    key, made = tenants.create_key(tenant.id, "soak", ["read", "write", "delete"])
    with (
        (folder / "service.log").open("wb") as said,
        EmbeddedGunicorn(uri, free_port(), output=said, DELETE_INLINE_LIMIT=str(INLINE_LIMIT)) as running,
    ):
        worker = start("flask", "--app", "wsgi", "jobs", "run", output=said, MONGODB_URI=uri)
        try:
            yield running, TenantAccess(tenant.id, key, made.id)
        finally:
            stop(worker, 10)


def campaign(
    name: str,
    folder: Path,
    elections: Mapping[str, int],
    faults: dict[str, int],
    seed: int,
    bound_seconds: float,
    tell: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Break the primary so many times, check everything, and return the summary."""
    with EmbeddedReplicaSet(folder, elections=elections) as replica_set:
        database = Database(replica_set.uri)
        with service(database, replica_set.uri, folder) as (running, access):
            load = Load(running.port, access, Leases(database, access.tenant_id), seed)
            load.start()
            time.sleep(WARM_SECONDS)
            windows = carry_out(plan(seed, **faults), replica_set, tell)
            load.stop()
            with closing(Wire(running.port, access)) as wire:
                asked = settle(load.records, wire)
        PurgeWorker(Purges(database)).run(until_idle=True)
        records = [*load.records, *asked]
        violations = check(records, look(database, access.tenant_id), bound_seconds)
        database.close()
    more = {"seed": seed, "settled": len(asked), "resent": load.resent, "members_renewed": replica_set.renewed}
    summary = summarize(name, records, violations, windows, **more)
    tell(f"{name}\n{table(summary, violations)}\n")
    assert violations == []
    return summary


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_kills_and_pauses(tmp_path, seed, tell) -> None:
    """50 kill -9 and 20 pauses with elections of 2 s: p99 under 5 s, none over 8 s."""
    faults = {"kill": number("SOAK_KILLS", 50), "pause": number("SOAK_PAUSES", 20)}
    summary = campaign("failover", tmp_path, QUICK_ELECTIONS, faults, seed, 8.0, tell)
    assert summary["requests_begun_in_faults_s"]["p99"] < 5


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_kills_with_default_elections(tmp_path, seed, tell) -> None:
    """MongoDB's own settings miss a primary after 10 s: none over 15 s."""
    faults = {"kill": number("SOAK_DEFAULT_KILLS", 5)}
    campaign("failover-defaults", tmp_path, DEFAULT_ELECTIONS, faults, seed, 15.0, tell)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_without_a_majority(tmp_path, seed, tell) -> None:
    """Nothing can be committed for 8 to 20 s: what is refused was not done, and what is unknown can be asked for."""
    faults = {"no_majority": number("SOAK_MAJORITY_LOSSES", 10)}
    campaign("no-majority", tmp_path, QUICK_ELECTIONS, faults, seed, 25.0, tell)
