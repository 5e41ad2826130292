"""The primary is killed and paused again and again, under load: every promise holds, and every answer comes in time."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chat_service.embedded.replica_set import DEFAULT_ELECTIONS, QUICK_ELECTIONS, Elections, EmbeddedReplicaSet
from chat_service.repository.database import Database
from tests.soak.campaign import WARM_SECONDS, ask_again, judge, service
from tests.soak.conftest import number
from tests.soak.connections import Sockets
from tests.soak.load import Load
from tests.soak.receipts import counting
from tests.soak.schedule import carry_out, plan

KILL_JOBS_SECONDS = 7.0
"""Time between two kills of a worker for the jobs, which cut the sequencing of the log and purges off at any point."""


def campaign(
    name: str,
    folder: Path,
    elections: Elections,
    faults: dict[str, int],
    seed: int,
    bound_seconds: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Carry out so many faults of each kind under load, check everything, and return the summary."""
    with EmbeddedReplicaSet(folder, elections=elections) as replica_set, closing(Database(replica_set.uri)) as database:
        with service(database, replica_set.uri, folder, kill_jobs_every=KILL_JOBS_SECONDS) as (gunicorn, access):
            load = Load(
                gunicorn.port, access, Sockets(gunicorn.port, access), seed, count=counting(database, access.tenant_id)
            )
            load.start()
            time.sleep(WARM_SECONDS)
            windows = carry_out(plan(seed, **faults), replica_set, tell)
            load.stop()
            records = ask_again(load.records, gunicorn, access)
        extra = {"seed": seed, "settled": len(records) - len(load.records), "members_renewed": replica_set.renewed}
        return judge(name, records, database, access.tenant_id, bound_seconds, tell, windows, **extra)


def test_one_kill(tmp_path, seed, tell) -> None:
    """A short campaign for every test run; the bound allows for a machine that does much else."""
    campaign("failover-quick", tmp_path, QUICK_ELECTIONS, {"kill": 1}, seed, 15.0, tell)


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_kills_and_pauses(tmp_path, seed, tell) -> None:
    """50 kill -9 and 20 pauses with elections of 2 s: requests have a p99 under 5 s, and none takes over 8 s."""
    faults = {"kill": number("SOAK_KILLS", 50), "pause": number("SOAK_PAUSES", 20)}
    summary = campaign("failover", tmp_path, QUICK_ELECTIONS, faults, seed, 8.0, tell)
    assert summary["requests_begun_in_faults_s"]["p99"] < 5


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_kills_with_default_elections(tmp_path, seed, tell) -> None:
    """MongoDB's own settings notice a lost primary after 10 s: no request takes over 15 s."""
    faults = {"kill": number("SOAK_DEFAULT_KILLS", 5)}
    campaign("failover-defaults", tmp_path, DEFAULT_ELECTIONS, faults, seed, 15.0, tell)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_without_a_majority(tmp_path, seed, tell) -> None:
    """Nothing can be committed for 8 to 20 s: what was refused was not done, and unknown outcomes can be resolved."""
    faults = {"no_majority": number("SOAK_MAJORITY_LOSSES", 10)}
    campaign("no-majority", tmp_path, QUICK_ELECTIONS, faults, seed, 25.0, tell)
