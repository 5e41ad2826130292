"""The real gunicorn with the real gunicorn.conf.py, as a child process."""

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from chat_service.embedded.process import EmbeddedError, start, stop

START_SECONDS = 90
STOP_SECONDS = 35
"""Longer than the graceful_timeout in gunicorn.conf.py."""


class EmbeddedGunicorn:
    """The service on 127.0.0.1:`port`; a context manager that stops it at the end."""

    def __init__(
        self,
        mongodb_uri: str,
        port: int,
        *,
        output: IO[bytes] | None = None,
        folder: Path | None = None,
        **environment: str,
    ) -> None:
        """Prepare to serve from the given database.

        `environment` sets more variables, `output` receives stdout and stderr, `folder` is another checkout to serve.
        """
        self.port = port
        self._output = output
        self._folder = folder
        self._environment = {"MONGODB_URI": mongodb_uri, "PORT": str(port), **environment}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://127.0.0.1:{self.port}/api/v1"

    def __enter__(self) -> Self:
        """Start, and wait until it accepts connections.

        Raises:
            EmbeddedError: it ended, or took too long.
        """
        self.start()
        self.wait_until_serving()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def start(self) -> "subprocess.Popen[bytes]":
        """Start, and return gunicorn's master process."""
        command = ("gunicorn", "-c", "gunicorn.conf.py", "asgi:application")
        self.process = start(*command, output=self._output, folder=self._folder, **self._environment)
        return self.process

    def wait_until_serving(self) -> None:
        """Wait until connections are accepted.

        Raises:
            EmbeddedError: it ended, or took too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise EmbeddedError("The service ended before it accepted a connection; its message is above.")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise EmbeddedError(f"The service accepted no connection within {START_SECONDS} s.")

    def stop(self) -> None:
        """Let the requests in flight finish, then stop."""
        if self.process is not None:
            stop(self.process, STOP_SECONDS)
