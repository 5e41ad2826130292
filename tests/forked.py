"""Processes of the service that start in a tenth of the time: forked from one that has made their imports.

Most of the CPU time of `make test` was the imports of some 400 processes. So each process of pytest has one process
more, which imports what all of them import, and forks itself for each that a test wants. What runs then is what
`python -m` runs, with its own environment, session, output and exit; only `sys.modules` is not empty. What reads the
environment while it is imported is not among the imports (`PRELOADED`). Tests of a first start, and of other checkouts,
use `embedded.process.start`, as `make run` does.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import IO, Any

from chat_service import api
from chat_service.embedded.process import die_with_parent
from chat_service.embedded.service import EmbeddedGunicorn

PRELOADED = (
    "flask.cli",
    "gunicorn.app.wsgiapp",
    "uvicorn_worker",
    "flask_cors",
    "flask_smorest",
    "chat_service.cli.commands",
    "chat_service.realtime.feed",
    "chat_service.server.http_protocol",
    "chat_service.server.websocket_protocol",
    "chat_service.server.bridge",
)
"""And the modules of `chat_service.api`. Not what imports prometheus_client: as it is imported, it chooses by the
environment how it counts."""

_LONGEST_REQUEST = 2**16


class ForkedProcess:
    """A process that was forked; as much of `subprocess.Popen` as the tests use."""

    def __init__(self, status: int) -> None:
        """Begin with the pipe in which the pid comes, and later the exit code."""
        self._status = os.fdopen(status, "rb", buffering=0)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code once it has ended, else None."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; return its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not, in so many seconds.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedGunicorn(EmbeddedGunicorn):
    """The service, started by a fork."""

    def start(self) -> ForkedProcess:
        assert self._folder is None, "what is imported is this checkout"
        command = ("gunicorn", "-c", "gunicorn.conf.py", "asgi:application")
        self.process = start(*command, output=self._output, **self._environment)
        return self.process


def start(module: str, *arguments: str, output: IO[bytes] | None = None, **environment: str) -> ForkedProcess:
    """Run a Python module as a child that ends with us; see `embedded.process.start`."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"DYNO", "BIND"}}
    request = json.dumps({"command": [module, *arguments], "environment": {**inherited, **environment}}).encode()
    assert len(request) < _LONGEST_REQUEST
    status, ours = os.pipe()
    sink = output.fileno() if output is not None else sys.stderr.fileno()
    socket.send_fds(_forker(), [request], [ours, sink])
    os.close(ours)
    return ForkedProcess(status)


_started: list[socket.socket] = []


def _forker() -> socket.socket:
    """Return the socket of the process that forks; start it with the first call."""
    if not _started:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.forked", str(there.fileno())]
        forker = subprocess.Popen(command, pass_fds=[there.fileno()], start_new_session=True)
        there.close()
        _started.append(here)

        @atexit.register
        def end() -> None:
            here.close()
            forker.wait()

    return _started[0]


def serve(requests: socket.socket) -> tuple[str, list[str]]:
    """Fork for each request, and tell the pids and exit codes; return in the child, with what it has to run."""
    running: dict[int, int] = {}
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_of_the_dead(running)
            continue
        message, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 2)
        if not message:
            sys.exit()  # the process of pytest has ended, and so do those that were forked for it: die_with_parent
        status, sink = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for inherited in (requests, woken, wake):
                inherited.close()
            for descriptor in (status, *running.values()):
                os.close(descriptor)
            return _become(json.loads(message), sink)
        os.close(sink)
        running[pid] = status
        os.write(status, b"%d\n" % pid)


def _tell_of_the_dead(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = running.pop(pid)
        with suppress(BrokenPipeError):
            os.write(pipe, b"%d\n" % os.waitstatus_to_exitcode(status))
        os.close(pipe)


def _become(request: dict[str, Any], sink: int) -> tuple[str, list[str]]:
    """Make this process one that was started with a command: its session, output and environment."""
    os.setsid()
    die_with_parent()
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    os.environ.clear()
    os.environ.update(request["environment"])
    module, *arguments = request["command"]
    return module, arguments


if __name__ == "__main__":
    for name in (*PRELOADED, *(f"{api.__name__}.{module.name}" for module in iter_modules(api.__path__))):
        import_module(name)
    assert "prometheus_client" not in sys.modules, "it would not share its numbers with other workers"
    gc.collect()
    gc.freeze()
    module, arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    gc.unfreeze()
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
