"""What every campaign needs: the service, a tenant, and the check at the end."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from chat_service.embedded.process import free_port, start, stop
from chat_service.embedded.service import EmbeddedGunicorn
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.tenants import Tenants
from tests.client import TenantAccess
from tests.numbering import number_all
from tests.purging import purge_all
from tests.soak.checker import check, read_stored
from tests.soak.log import Follower
from tests.soak.record import Record
from tests.soak.report import summarize, table
from tests.soak.schedule import Window
from tests.soak.settle import settle
from tests.soak.wire import Wire

INLINE_LIMIT = 20
"""DELETE_INLINE_LIMIT in messages: so low that some deletes need a purge and some do not."""

WARM_SECONDS = 3.0
"""How long the load runs before a fault or restart: all callers have connected then, and there are chats to delete."""


def other_checkout() -> Path | None:
    """Return the folder of the code to serve: SOAK_SERVICE, to compare with an earlier state; None: this checkout."""
    folder = os.environ.get("SOAK_SERVICE")
    return Path(folder) if folder else None


@contextmanager
def service(
    database: Database,
    uri: str,
    folder: Path,
    *,
    inline_limit: int = INLINE_LIMIT,
    kill_jobs_every: float | None = None,
) -> Iterator[tuple[EmbeddedGunicorn, TenantAccess]]:
    """Run gunicorn, workers for the jobs, and a client that follows the log of a new tenant.

    Gives gunicorn and the tenant's access. The output of gunicorn and of the workers goes to `service.log`.
    """
    database.prepare()
    tenant = Tenants(database).create("soak")
    key, api_key = ApiKeys(database).create(tenant.id, "soak", ["read", "write", "delete"])
    with (
        (folder / "service.log").open("wb") as log_file,
        EmbeddedGunicorn(
            uri, free_port(), output=log_file, folder=other_checkout(), DELETE_INLINE_LIMIT=str(inline_limit)
        ) as gunicorn,
    ):
        access = TenantAccess(tenant.id, key, api_key.id)
        with _jobs(uri, log_file, kill_every=kill_jobs_every), Follower(gunicorn.url, access) as follower:
            yield gunicorn, access
        follower.require_everything_once()


@contextmanager
def _jobs(uri: str, log_file: IO[bytes], kill_every: float | None) -> Iterator[None]:
    """Run two workers for the jobs; with `kill_every`, kill and replace the older one every so many seconds."""

    def start_worker() -> subprocess.Popen[bytes]:
        return start("flask", "--app", "wsgi", "jobs", "run", output=log_file, folder=other_checkout(), MONGODB_URI=uri)

    workers, stopping = [start_worker(), start_worker()], threading.Event()

    def kill_and_replace() -> None:
        while not stopping.wait(kill_every):
            oldest = workers.pop(0)
            oldest.kill()
            oldest.wait()
            workers.append(start_worker())

    killer = threading.Thread(target=kill_and_replace) if kill_every else None
    if killer:
        killer.start()
    try:
        yield
    finally:
        stopping.set()
        if killer:
            killer.join()
        for worker in workers:
            stop(worker, 10)


def ask_again(records: Sequence[Record], gunicorn: EmbeddedGunicorn, access: TenantAccess) -> list[Record]:
    """Resolve the unknown outcomes as a caller would, and return all records."""
    with closing(Wire(gunicorn.port, access)) as wire:
        return [*records, *settle(records, wire)]


def judge(
    name: str,
    records: Sequence[Record],
    database: Database,
    tenant_id: str,
    bound_seconds: float,
    tell: Callable[[str], None],
    windows: Sequence[Window] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Finish purges and log, check every promise, print and return the summary; fail if any promise was broken."""
    purge_all(database)
    number_all(database)
    faults = [(window.began, window.ended) for window in windows]
    violations = check(records, read_stored(database, tenant_id), bound_seconds, faults)
    summary = summarize(name, records, violations, windows, **extra)
    tell(f"{name}\n{table(summary, violations)}\n")
    assert violations == []
    return summary
