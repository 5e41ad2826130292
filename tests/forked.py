"""Processes of the service that start in a tenth of the time, because they are forked from one with their imports.

Most of the CPU time of `make test` was the imports of some 400 processes. So each process of pytest starts one forker,
which imports what all of them import, and forks itself for each process that a test starts. The child runs what
`python -m` runs, with its own environment, session, output and exit; only its `sys.modules` is not empty. Modules that
read the environment while they are imported are not preloaded (`PRELOADED`). Tests of a first start, and of other
checkouts, use `embedded.process.start`, as `make run` does.
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
"""The modules that the forker imports, besides those of `chat_service.api`; none that imports prometheus_client, which
chooses by the environment how it counts, when it is imported."""

_MAX_REQUEST_BYTES = 2**16


class ForkedProcess:
    """A forked process, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, status: int) -> None:
        """Read the pid from the pipe `status`, which later gives the exit code."""
        self._status = os.fdopen(status, "rb", buffering=0)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._exit_code_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended; return its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended within so many seconds.
        """
        code = self._exit_code_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def _exit_code_within(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
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
    """Run a Python module in a child process that ends with this one; see `embedded.process.start`."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"DYNO", "BIND"}}
    request = json.dumps({"command": [module, *arguments], "environment": {**inherited, **environment}}).encode()
    assert len(request) < _MAX_REQUEST_BYTES
    status, status_writer = os.pipe()
    output_fd = output.fileno() if output is not None else sys.stderr.fileno()
    socket.send_fds(_forker(), [request], [status_writer, output_fd])
    os.close(status_writer)
    return ForkedProcess(status)


_forker_sockets: list[socket.socket] = []


def _forker() -> socket.socket:
    """Return the socket of the forker; the first call starts it."""
    if not _forker_sockets:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
        forker = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        _forker_sockets.append(ours)

        @atexit.register
        def end() -> None:
            ours.close()
            forker.wait()

    return _forker_sockets[0]


def serve(requests: socket.socket) -> tuple[str, list[str]]:
    """Fork for each request, and send pids and exit codes; return only in the child: the module and its arguments."""
    pipes: dict[int, int] = {}
    wakeup_reader, wakeup_writer = socket.socketpair()
    wakeup_reader.setblocking(False)
    wakeup_writer.setblocking(False)
    signal.set_wakeup_fd(wakeup_writer.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests, wakeup_reader], [], [])
        if wakeup_reader in ready:
            wakeup_reader.recv(4096)
            _send_exit_codes(pipes)
            continue
        message, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 2)
        if not message:
            sys.exit()  # the process of pytest has ended; die_with_parent ends the children of this process
        pipe, output_fd = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for inherited in (requests, wakeup_reader, wakeup_writer):
                inherited.close()
            for descriptor in (pipe, *pipes.values()):
                os.close(descriptor)
            return _prepare_child(json.loads(message), output_fd)
        os.close(output_fd)
        pipes[pid] = pipe
        os.write(pipe, b"%d\n" % pid)


def _send_exit_codes(pipes: dict[int, int]) -> None:
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = pipes.pop(pid)
        with suppress(BrokenPipeError):
            os.write(pipe, b"%d\n" % os.waitstatus_to_exitcode(status))
        os.close(pipe)


def _prepare_child(request: dict[str, Any], output_fd: int) -> tuple[str, list[str]]:
    """Give this process a session, an output and the environment of a new one; return the module and its arguments."""
    os.setsid()
    die_with_parent()
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    os.close(output_fd)
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
