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
    """Run a sequencer while the block runs, so that commits get into the log at once."""
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
    """Wait until the tenant's log has at least `head` entries."""
    wait_until(lambda: Log(database).heads([tenant_id]).get(tenant_id, 0) >= head, 20)


def number_all(database: Database) -> None:
    """Number everything that is committed by now; return when it is in the log, whichever sequencer wrote it."""
    sequencer = Sequencer(database)
    worker, now = Sequencing(sequencer), database.now()

    def is_done() -> bool:
        with suppress(DatabaseUnavailableError, OutcomeUnknownError):  # during an election
            worker.run_once()
        status = sequencer.status()
        return status.up_to is not None and status.up_to > now and not status.is_rescanning

    wait_until(is_done, 120)
    worker.end()
