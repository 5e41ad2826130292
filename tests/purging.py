"""Runs purges until none is open."""

import threading

from chat_service.jobs.purge import PurgeWorker
from chat_service.jobs.runner import run
from chat_service.repository.database import Database
from chat_service.repository.purges import Purges


def purge_all(database: Database) -> None:
    run(PurgeWorker(Purges(database)), threading.Event(), until_done=True)
