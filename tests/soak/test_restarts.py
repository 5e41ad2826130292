"""The service is reloaded again and again under load: no request is dropped."""

import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from chat_service.embedded.service import EmbeddedGunicorn
from tests.soak.campaign import WARM_SECONDS, ask_again, judge, service
from tests.soak.conftest import number
from tests.soak.connections import Sockets
from tests.soak.load import Load
from tests.soak.receipts import counting
from tests.workers import workers_of

RELOAD_SECONDS = 40
"""Longer than graceful_timeout."""

TELL_RESTARTS = 10


def reload(gunicorn: EmbeddedGunicorn) -> None:
    """Replace all workers, and wait until the old ones have ended and a new one serves.

    A worker that is told to end before it serves ends at once: reloads faster than a worker's start would leave none.
    """
    old_pids = workers_of(gunicorn)
    os.kill(gunicorn.process.pid, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_SECONDS
    while any(Path(f"/proc/{pid}").exists() for pid in old_pids):
        assert time.monotonic() < deadline, "a worker did not end"
        time.sleep(0.05)
    with urllib.request.urlopen(f"http://127.0.0.1:{gunicorn.port}/healthz", timeout=RELOAD_SECONDS) as answer:
        assert answer.status == 200


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_rolling_restarts(mongod, database, tmp_path, seed, tell) -> None:
    """During 200 reloads by SIGHUP every request is answered, over kept-alive connections and over new ones."""
    restarts = number("SOAK_RESTARTS", 200)
    with service(database, mongod.uri, tmp_path) as (gunicorn, access):
        sockets, count = Sockets(gunicorn.port, access), counting(database, access.tenant_id)
        loads = [
            Load(gunicorn.port, access, sockets, seed, name="kept", keep_alive=True, count=count),
            Load(gunicorn.port, access, sockets, seed + 1, name="new", keep_alive=False, count=count),
        ]
        for load in loads:
            load.start()
        time.sleep(WARM_SECONDS)
        for done in range(1, restarts + 1):
            reload(gunicorn)
            if done % TELL_RESTARTS == 0:
                tell(f"{done}/{restarts} restarts")
        for load in loads:
            load.stop()
        records = ask_again([record for load in loads for record in load.records], gunicorn, access)
    resent = sum(load.resent for load in loads)
    judge("restarts", records, database, access.tenant_id, 8.0, tell, seed=seed, restarts=restarts, resent=resent)
