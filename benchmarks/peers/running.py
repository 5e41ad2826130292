"""Runs the peers, each with two workers like our service, in the environment that `make bench` makes for them."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from benchmarks.service import KEY, TENANT, Address
from chat_service.embedded.process import EmbeddedError, die_with_parent, free_port, stop

FOLDER = Path(__file__).parent
PYTHON = FOLDER.parent.parent / ".venv-bench" / "bin" / "python"

FASTAPI = ("uvicorn", "--workers", "2", "--timeout-keep-alive", "75", "fastapi_service:app", "--port")
EVE = ("gunicorn", "--workers", "2", "--threads", "16", "--keep-alive", "75", "eve_service:app", "--bind")

START_SECONDS = 30
STOP_SECONDS = 10


@contextmanager
def peer(command: tuple[str, ...], uri: str, log: IO[bytes]) -> Iterator[Address]:
    """Run a peer on the database at `uri`, and give its address.

    Raises:
        EmbeddedError: it does not start; its output is in `log`.
    """
    if not PYTHON.exists():
        raise EmbeddedError("The peers are not installed: run `make bench`, which does that first.")
    port = free_port()
    address = f"127.0.0.1:{port}" if command[-1] == "--bind" else str(port)
    process = subprocess.Popen(
        [PYTHON, "-m", *command, address],
        cwd=FOLDER,  # a folder without our gunicorn.conf.py
        env={**os.environ, "MONGODB_URI": uri, "API_KEY": KEY, "TENANT_ID": TENANT},
        stdout=log,
        stderr=log,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - only prctl runs before exec
    )
    try:
        _wait_until_serving(process, port)
        yield ("127.0.0.1", port)
    finally:
        stop(process, STOP_SECONDS)


def _wait_until_serving(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise EmbeddedError("A peer does not serve; why is in its log.")
