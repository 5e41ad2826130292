"""What gunicorn's master does when a worker has died: it has the server forget the worker's transactions and leases.

The master knows at once, and for sure, that a worker is dead, so nothing has to be guessed from the outside. It does
not wait for the database itself: it forks a child for that, which ends when nothing of the dead is left.
"""

import logging
import mmap
import os
import signal
import time
from typing import Any

from chat_service.errors import ChatServiceError
from chat_service.repository.database import Database
from chat_service.repository.orphans import Orphans
from chat_service.repository.presence import Presence
from chat_service.repository.processes import name_of

GIVE_UP_SECONDS = 90.0
"""After this the server has given up by itself what the dead held."""

ORPHANED_SECONDS = 5.0
"""How long a child goes on when the master is gone too: long enough where the database answers."""

PAUSE_SECONDS = 0.2

_log = logging.getLogger(__name__)


def expect(worker: Any) -> None:
    """Give a worker that is about to be forked a byte that it shares with the master; for `pre_fork`."""
    worker.farewell = mmap.mmap(-1, 1)


def say_farewell(worker: Any) -> None:
    """Tell the master that this worker ends in good order, with nothing open; for `worker_exit`."""
    worker.farewell[0] = 1


def mourn(server: Any, worker: Any, mongodb_uri: str) -> None:
    """Kill what a worker has left open, if it ended without a farewell; for `child_exit`."""
    if worker.farewell[0]:
        return
    try:
        child = os.fork()
    except OSError as error:
        _log.warning("No process could be made to free the chats of a dead worker: %s", type(error).__name__)
        return
    if child == 0:
        try:
            _become_a_child(server)
            _bury(mongodb_uri, name_of(worker.pid), os.getppid())
        finally:
            os._exit(0)


def _become_a_child(server: Any) -> None:
    """Drop what belongs to the master: its signals, and the sockets it listens on."""
    for signum in server.SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    for listener in server.LISTENERS:
        os.close(listener.fileno())


def _bury(mongodb_uri: str, process: str, master: int) -> None:
    """Kill until the server holds nothing of `process`: a command that it is still busy with may open one more.

    Its WebSockets were closed by the kernel as it died, so that their leases hold chats for nobody.
    """
    began = time.monotonic()
    database = Database(mongodb_uri, max_pool_size=2)
    orphans, presence = Orphans(database), Presence(database)
    while time.monotonic() - began < (GIVE_UP_SECONDS if os.getppid() == master else ORPHANED_SECONDS):
        try:
            presence.close_worker(process)
            if not orphans.reap([process]) and orphans.is_gone(process):
                return
        except ChatServiceError as error:
            _log.debug("The orphans of a dead worker wait for the database: %s", type(error).__name__)
        time.sleep(PAUSE_SECONDS)
