"""What every campaign needs around it: the service, a tenant, and the judgement at the end."""

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
from tests.soak.checker import check, look
from tests.soak.log import Follower
from tests.soak.record import Record
from tests.soak.report import summarize, table
from tests.soak.schedule import Window
from tests.soak.settle import settle
from tests.soak.wire import Wire

INLINE_LIMIT = 20
"""Of messages, so that there are deletes with and without a purge."""

WARM_SECONDS = 3.0
"""Until all callers have their connections, and there are chats to delete."""


def other_checkout() -> Path | None:
    """Where the code lies that is served: SOAK_SERVICE, to compare with an earlier state, or this checkout."""
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
    """gunicorn, workers for the jobs, a tenant, and somebody who follows its log; what they say goes to a file."""
    database.prepare()
    tenant = Tenants(database).create("soak")
    key, made = ApiKeys(database).create(tenant.id, "soak", ["read", "write", "delete"])
    with (
        (folder / "service.log").open("wb") as said,
        EmbeddedGunicorn(
            uri, free_port(), output=said, folder=other_checkout(), DELETE_INLINE_LIMIT=str(inline_limit)
        ) as running,
    ):
        access = TenantAccess(tenant.id, key, made.id)
        with _jobs(uri, said, kill_every=kill_jobs_every), Follower(running.url, access) as follower:
            yield running, access
        follower.require_everything_once()


@contextmanager
def _jobs(uri: str, said: IO[bytes], kill_every: float | None) -> Iterator[None]:
    """Two workers, which stand in for each other; with `kill_every` one of them is killed and replaced in so many s."""

    def begin() -> subprocess.Popen[bytes]:
        return start("flask", "--app", "wsgi", "jobs", "run", output=said, folder=other_checkout(), MONGODB_URI=uri)

    workers, over = [begin(), begin()], threading.Event()

    def replace_again() -> None:
        while not over.wait(kill_every):
            oldest = workers.pop(0)
            oldest.kill()
            oldest.wait()
            workers.append(begin())

    killing = threading.Thread(target=replace_again) if kill_every else None
    if killing:
        killing.start()
    try:
        yield
    finally:
        over.set()
        if killing:
            killing.join()
        for worker in workers:
            stop(worker, 10)


def ask_again(records: Sequence[Record], running: EmbeddedGunicorn, access: TenantAccess) -> list[Record]:
    """Settle what is unknown, and return all records."""
    with closing(Wire(running.port, access)) as wire:
        return [*records, *settle(records, wire)]


def judge(
    name: str,
    records: Sequence[Record],
    database: Database,
    tenant_id: str,
    bound_seconds: float,
    tell: Callable[[str], None],
    windows: Sequence[Window] = (),
    **more: Any,
) -> dict[str, Any]:
    """Finish purges and log, check everything, tell what came out, and return it; fail if any promise was broken."""
    purge_all(database)
    number_all(database)
    faults = [(window.began, window.ended) for window in windows]
    violations = check(records, look(database, tenant_id), bound_seconds, faults)
    summary = summarize(name, records, violations, windows, **more)
    tell(f"{name}\n{table(summary, violations)}\n")
    assert violations == []
    return summary
