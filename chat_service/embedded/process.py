"""Child processes that end when this process ends, even if it is killed."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1


class EmbeddedError(Exception):
    """Something cannot be started here; the text is one sentence that says what to do."""


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies, even by kill -9. For `preexec_fn`; works on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start(
    module: str, *arguments: str, output: IO[bytes] | None = None, folder: Path | None = None, **environment: str
) -> "subprocess.Popen[bytes]":
    """Run a Python module of this environment as a child that ends when we end.

    `environment` sets more variables, `output` receives stdout and stderr, `folder` is the working directory.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {"DYNO", "BIND"}}
    return subprocess.Popen(  # noqa: S603 - an argument list, and our own programs
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**inherited, **environment},
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C goes to us, and we stop it gracefully
        preexec_fn=die_with_parent,  # noqa: PLW1509 - only prctl runs before exec
    )


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """End a process with SIGTERM, and with SIGKILL if it is still alive after `seconds`."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
