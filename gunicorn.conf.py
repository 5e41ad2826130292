"""How gunicorn serves: `gunicorn -c gunicorn.conf.py asgi:application`. Each value carries its reason."""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from chat_service.errors import ChatServiceError, DatabaseUnavailableError
from chat_service.front import mourner
from chat_service.repository.database import Database
from chat_service.repository.orphans import Orphans
from chat_service.server.balance import counts
from chat_service.server.logger import gunicorn_logger
from config import ConfigError, from_env

# A dyno sets PORT and is reached from outside; without it this is somebody's machine, and stays on it.
bind = f"0.0.0.0:{os.environ['PORT']}" if "DYNO" in os.environ else f"127.0.0.1:{os.environ.get('PORT', '8000')}"
bind = os.environ.get("BIND", bind)

workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "chat_service.server.worker.Worker"
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112 - heartbeats, not on a slow disk

# No answer takes longer than 25 s, so after this many every request in flight has ended; routers wait for 30.
graceful_timeout = 25
timeout = 30
# Longer than the pause between two requests of an active client, shorter than a load balancer's own limit.
keepalive = 15

# Every worker names itself, and its leases, when it loads the application.
preload_app = False

# gunicorn 27 would open ~/.gunicorn/gunicorn.ctl, which nothing here uses.
control_socket_disable = True
# One line a request is the application's; gunicorn's own have the same form.
accesslog = None
logger_class = gunicorn_logger(os.environ.get("LOG_FORMAT", "json"))
errorlog = "-"
loglevel = "warning"


def _share_metrics() -> None:
    """Make a fresh folder in which the workers keep their numbers; it goes when this process, the master, ends.

    prometheus_client reads the variable when it is imported. After SIGHUP the folder stays, so that no number falls; a
    new master (SIGUSR2) takes one of its own.
    """
    mine = f"chat-service-metrics-{os.getpid()}-"
    if Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")).name.startswith(mine):
        return
    folder = tempfile.mkdtemp(prefix=mine, dir=worker_tmp_dir)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a worker, which has inherited this
        shutil.rmtree(folder, ignore_errors=True)


_share_metrics()


def pre_fork(_server: Any, worker: Any) -> None:
    """Let the worker say later that it ended in good order, and meanwhile how many connections it holds."""
    mourner.expect(worker)
    worker.slot = counts.take()


def worker_exit(_server: Any, worker: Any) -> None:
    """Say so."""
    mourner.say_farewell(worker)


def child_exit(server: Any, worker: Any) -> None:
    """Free the chats that a killed worker holds, and forget its gauges; what it counted stays."""
    counts.give_back(worker.slot)
    mourner.mourn(server, worker, from_env().mongodb_uri)
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - after the variable is set

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def _default_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def on_starting(server: Any) -> None:
    """Refuse to start on a server without transactions, before the first worker is forked."""
    # A worker is born with the master's handler, which would swallow a SIGTERM that comes before its own is there.
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}),
        after_in_child=_default_sigterm,
    )
    try:
        database = Database(from_env().mongodb_uri)
        try:
            database.require_transactions()
            Orphans(database).reap()  # of a service that died as a whole just before
        finally:
            database.close()
    except DatabaseUnavailableError:
        server.log.warning("MongoDB does not answer yet; serving 503 until it does.")
    except (ConfigError, ChatServiceError) as error:
        server.log.critical("%s", str(error))
        sys.exit(1)


def post_worker_init(_worker: Any) -> None:
    """Leave what is loaded out of the garbage collector's rounds, and let it go round less often.

    An export makes thousands of dictionaries at a time, and a fifth of its time went to looking for cycles in them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
