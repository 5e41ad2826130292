"""A local replica set of three, for tests and benchmarks that break it. `make run` uses a set of one (mongod.py)."""

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pymongo
from pymongo.errors import PyMongoError

from chat_service.embedded.mongod import launch
from chat_service.embedded.process import EmbeddedError, free_port


class Elections(NamedTuple):
    """How soon the set replaces a silent primary, and how soon the other members can confirm writes without it."""

    settings: Mapping[str, int]
    """Settings of the replica set."""
    parameters: tuple[str, ...] = ()
    """Parameters of each member, for --setParameter."""


QUICK_ELECTIONS = Elections(
    {
        "electionTimeoutMillis": 2_000,
        "heartbeatIntervalMillis": 500,
        "heartbeatTimeoutSecs": 4,
        # While a new primary waits for newer writes of a silent one, it accepts none. It need not wait long: a majority
        # has every write that we confirm.
        "catchUpTimeoutMillis": 500,
    },
    # How long a secondary waits for a silent primary beyond half the election timeout, and how often it retries,
    # before it copies from another member and can confirm writes: 3.6 s after a pause, 6.6 s with the defaults.
    ("oplogNetworkTimeoutBufferSeconds=1", "oplogFetcherSteadyStateMaxFetcherRestarts=0"),
)
"""For three servers that are near each other."""

DEFAULT_ELECTIONS = Elections({})
"""MongoDB's own settings: a silent primary is replaced after 10 s."""

START_SECONDS = 90

STEADY_SECONDS = 3.0
"""How long the set must stay healthy. A member that comes back is SECONDARY for about a second before a rollback."""

STUCK_SECONDS = 12.0
"""A member that is unhealthy for this long is stuck. A rollback takes a second; about once in ten kills one hangs for
minutes in mongod 6.0.5."""

PRIMARY, SECONDARY, STARTING = 1, 2, {0, 5}
"""Member states. A member that is starting, or copying all data, is not stuck."""


class Member:
    """One mongod of the set."""

    def __init__(self, data: Path, parameters: tuple[str, ...]) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data / "mongod.log"
        self._data = data
        self._parameters = parameters
        self._healthy_since = time.monotonic()

    @property
    def host(self) -> str:
        """The member's address in the set."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it on the data that it has."""
        self.process = launch(self._data, self.port, self._parameters)
        self._healthy_since = time.monotonic()

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP pauses it, SIGCONT resumes it."""
        if self.process is not None:
            self.process.send_signal(number)
        self._healthy_since = time.monotonic()

    def kill(self) -> None:
        """Kill it with SIGKILL, as abruptly as a power cut."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def state(self) -> int | None:
        """Return the state that it reports for itself, or None if it does not answer."""
        try:
            with self._client() as client:
                state: int = client.admin.command("replSetGetStatus")["myState"]
        except PyMongoError:
            return None
        if state in {PRIMARY, SECONDARY, *STARTING}:
            self._healthy_since = time.monotonic()
        return state

    def is_writable(self) -> bool:
        """Tell whether it accepts writes; a primary does not while it catches up."""
        try:
            return bool(self.command({"hello": 1})["isWritablePrimary"])
        except PyMongoError:
            return False

    def renew_if_stuck(self) -> bool:
        """Restart a stuck member without its data, so that it copies all of it; return whether it was stuck."""
        if time.monotonic() - self._healthy_since < STUCK_SECONDS:
            return False
        self.kill()
        shutil.rmtree(self._data / "db")
        self.start()
        return True

    def command(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Run a command on this member, and return its reply."""
        with self._client() as client:
            reply: dict[str, Any] = client.admin.command(dict(command))
        return reply

    def _client(self) -> pymongo.MongoClient[dict[str, Any]]:
        return pymongo.MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=500, timeoutMS=5_000
        )


class EmbeddedReplicaSet:
    """Three members; a context manager that stops them at the end. Tests stop, pause and kill members in between."""

    def __init__(self, data: Path, *, elections: Elections = QUICK_ELECTIONS, parameters: tuple[str, ...] = ()) -> None:
        """Prepare to run in folders below `data`; `parameters` go to --setParameter of each member."""
        parameters = (*elections.parameters, *parameters)
        self.members = [Member(data / f"member-{number}", parameters) for number in range(3)]
        self._elections = elections
        self.renewed = 0
        """How many members had to be restarted without their data."""

    @property
    def uri(self) -> str:
        """The address of the set."""
        return f"mongodb://{','.join(member.host for member in self.members)}/chat_service?replicaSet=rs0"

    def __enter__(self) -> Self:
        """Start, and wait until all members are healthy.

        Raises:
            EmbeddedError: they did not come up.
        """
        try:
            for member in self.members:
                member.start()
            self._initiate()
            self.wait_until_steady()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Kill all members: nobody needs their data, so a clean shutdown would only take time."""
        for member in self.members:
            member.kill()

    def primary(self, *, other_than: Member | None = None, seconds: float = START_SECONDS) -> Member:
        """Wait for a primary, and return it; `other_than` is a paused member that may still believe it is the primary.

        Raises:
            EmbeddedError: there was none in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for member in self.members:
                if member is not other_than and member.is_writable():
                    return member
            time.sleep(0.05)
        raise EmbeddedError(f"No primary within {seconds} s.")

    def wait_until_steady(self, seconds: float = START_SECONDS * 2) -> None:
        """Wait until there is a stable primary with two secondaries; restart stuck members without their data.

        Raises:
            EmbeddedError: the set was not stable in time.
        """
        deadline = time.monotonic() + seconds
        # Counted from the first answer: a member that has just started may take seconds to give it.
        healthy_since = None
        while healthy_since is None or time.monotonic() - healthy_since < STEADY_SECONDS:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"The replica set was not healthy within {seconds} s: {self.states()}.")
            time.sleep(0.25)
            if sorted(state or 0 for state in self.states()) == [PRIMARY, SECONDARY, SECONDARY]:
                healthy_since = healthy_since or time.monotonic()
            else:
                healthy_since = None
                self.renewed += sum(member.renew_if_stuck() for member in self.members)

    def states(self) -> list[int | None]:
        """Return the state that each member reports for itself, None for one that does not answer."""
        return [member.state() for member in self.members]

    def _initiate(self) -> None:
        members = [{"_id": number, "host": member.host} for number, member in enumerate(self.members)]
        config = {"_id": "rs0", "members": members, "settings": dict(self._elections.settings)}
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                self.members[0].command({"replSetInitiate": config})
            except PyMongoError:
                time.sleep(0.2)
            else:
                return
        raise EmbeddedError(f"The replica set could not be made; the log is {self.members[0].log}.")
