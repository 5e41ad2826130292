"""A sequencer beside a test, as `jobs run` has one beside the service."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from chat_service.errors import DatabaseUnavailableError, OutcomeUnknownError
from chat_service.jobs.runner import run
from chat_service.jobs.sequencing import Sequencing
from chat_service.repository.database import Database
from chat_service.repository.log import Log
from chat_service.repository.sequencer import Sequencer
from tests.wait import wait_until


@contextmanager
def numbering(database: Database) -> Iterator[None]:
    """Have what is committed numbered, as soon as it is."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(Sequencing(Sequencer(database, "test")), stop))
    thread.start()
    try:
        wait_until(lambda: Sequencer(database, "test").status().up_to is not None, 20)
        yield
    finally:
        stop.set()
        thread.join()


def wait_for_head(database: Database, tenant_id: str, head: int) -> None:
    """Wait until the tenant's log has so many entries."""
    wait_until(lambda: Log(database).heads([tenant_id]).get(tenant_id, 0) >= head, 20)


def number_all(database: Database) -> None:
    """Return when everything that is committed by now is in the log, whoever writes it."""
    sequencer = Sequencer(database)
    worker, now = Sequencing(sequencer), database.now()

    def is_done() -> bool:
        with suppress(DatabaseUnavailableError, OutcomeUnknownError):  # as in an election
            worker.run_once()
        status = sequencer.status()
        return status.up_to is not None and status.up_to > now and not status.is_rescanning

    wait_until(is_done, 120)
    worker.end()
