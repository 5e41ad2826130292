"""A local mongod as a one-node replica set, for development and tests. Production sets MONGODB_URI."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from chat_service.embedded.process import EmbeddedError, die_with_parent, free_port, stop

START_SECONDS = 60
"""A cold start takes about 3 s; a recovery after a crash on a slow disk can take much longer."""

STOP_SECONDS = 15

CACHE_GIGABYTES = 0.5

_ALREADY_INITIALIZED = 23


def find_mongod() -> str:
    """Return the path of the mongod to run: $MONGOD, the one on the PATH, or the one in a development wheel.

    Raises:
        EmbeddedError: there is none.
    """
    configured = os.environ.get("MONGOD")
    if configured:
        if not os.access(configured, os.X_OK):
            raise EmbeddedError(f"MONGOD names {configured}, which is not an executable file.")
        return configured
    on_path = shutil.which("mongod")
    if on_path:
        return on_path
    package = importlib.util.find_spec("fiftyone")
    for folder in (package.submodule_search_locations or []) if package else []:
        bundled = Path(folder) / "db" / "bin" / ("mongod.exe" if sys.platform == "win32" else "mongod")
        if bundled.exists():
            bundled.chmod(bundled.stat().st_mode | 0o111)
            return str(bundled)
    raise EmbeddedError(
        "No mongod was found: install MongoDB 6 or newer, or name one with MONGOD, or set MONGODB_URI to a server."
    )


REPLICA_SET = ("--replSet", "rs0")


def launch(
    data: Path, port: int, parameters: tuple[str, ...] = (), options: tuple[str, ...] = REPLICA_SET
) -> "subprocess.Popen[bytes]":
    """Start a mongod on the folder `data`, which is made if it is missing; its log is `mongod.log` there.

    It ends when the thread that calls this ends (die_with_parent), so call this from a thread that lives long enough.

    Raises:
        EmbeddedError: there is no mongod, or the folder cannot be made.
    """
    mongod = find_mongod()
    try:
        (data / "db").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(f"The data directory {data} cannot be made: {error.strerror}.") from None
    command = [
        *(mongod, *options, "--bind_ip", "127.0.0.1", "--port", str(port)),
        *("--dbpath", str(data / "db"), "--logpath", str(data / "mongod.log")),
        *("--wiredTigerCacheSizeGB", str(CACHE_GIGABYTES), "--nounixsocket"),
        *("--slowOpSampleRate", "0"),  # else its log would quote slow updates, with the text of edited messages
        *(word for parameter in parameters for word in ("--setParameter", parameter)),
    ]
    return subprocess.Popen(  # noqa: S603 - an argument list, and the program is the developer's own
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C goes to the service, which stops mongod at its end
        preexec_fn=die_with_parent,  # noqa: PLW1509 - only prctl runs before exec
    )


class EmbeddedMongod:
    """A running mongod; a context manager that stops it at the end."""

    def __init__(self, data: Path, *, parameters: tuple[str, ...] = ()) -> None:
        """Prepare to run on the folder `data`, which is made if it is missing; `parameters` go to --setParameter."""
        self._data = data
        self._parameters = parameters
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The address of the replica set."""
        return f"mongodb://127.0.0.1:{self.port}/chat_service?replicaSet=rs0"

    @property
    def log(self) -> Path:
        """Where mongod writes its log."""
        return self._data / "mongod.log"

    def __enter__(self) -> Self:
        """Start, and wait until there is a primary.

        Raises:
            EmbeddedError: it did not come up.
        """
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start, and wait until there is a primary.

        Raises:
            EmbeddedError: it did not come up.
        """
        self.process = launch(self._data, self.port, self._parameters)
        try:
            self._wait_for_primary()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop mongod: with SIGTERM, and with SIGKILL if it does not end in time."""
        if self.process is not None:
            stop(self.process, STOP_SECONDS)

    def _wait_for_primary(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                # A new client each time: one from before the initiation may say "sessions are not supported".
                with pymongo.MongoClient[dict[str, Any]](
                    "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=500
                ) as client:
                    if client.admin.command("hello").get("isWritablePrimary"):
                        return
                    self._configure(client)
            except PyMongoError:
                pass
            time.sleep(0.1)
        raise EmbeddedError(f"mongod did not become primary within {START_SECONDS} s; its log is {self.log}.")

    def _configure(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        """Make it a one-node replica set at the current port; the data may name an older port."""
        member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
        try:
            client.admin.command({"replSetInitiate": {"_id": "rs0", "members": [member]}})
        except OperationFailure as error:
            if error.code != _ALREADY_INITIALIZED:
                raise
            config = client.admin.command("replSetGetConfig")["config"]
            if config["members"][0]["host"] != member["host"]:
                changed = {**config, "members": [{**config["members"][0], **member}], "version": config["version"] + 1}
                client.admin.command({"replSetReconfig": changed, "force": True})

    def _check_alive(self) -> None:
        code = self.process.poll() if self.process else None
        if code is None:
            return
        lock = self._data / "db" / "mongod.lock"
        if lock.exists() and _in_use(lock):
            raise EmbeddedError(f"The data directory {self._data} is in use by another mongod; stop that one first.")
        raise EmbeddedError(
            f"mongod ended with code {code}: the data directory {self._data} may be broken or not writable. "
            f"Its log {self.log} says why; `make clean-data` starts afresh."
        )


def _in_use(lock: Path) -> bool:
    """Tell whether the process that mongod's lock file names is alive; after a clean end the file names none."""
    pid = lock.read_text().strip()
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return False
    return True
