"""A local replica set of three, for tests and benchmarks that break it. `make run` has a set of one (mongod.py)."""

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
    """How soon a primary is missed, and how soon the others can confirm writes without it."""

    settings: Mapping[str, int]
    """Of the set."""
    parameters: tuple[str, ...] = ()
    """Of each member, for --setParameter."""


QUICK_ELECTIONS = Elections(
    {
        "electionTimeoutMillis": 2_000,
        "heartbeatIntervalMillis": 500,
        "heartbeatTimeoutSecs": 4,
        # A new primary asks a silent one for newer writes, and takes none meanwhile; a majority has all we confirm.
        "catchUpTimeoutMillis": 500,
    },
    # How long a secondary listens to a silent primary beyond half the election's time, and how often it tries again,
    # before it copies from another and can confirm writes: 3.6 s after a pause where the defaults took 6.6.
    ("oplogNetworkTimeoutBufferSeconds=1", "oplogFetcherSteadyStateMaxFetcherRestarts=0"),
)
"""What suits three servers that are near each other."""

DEFAULT_ELECTIONS = Elections({})
"""MongoDB's own settings: a primary is missed after 10 s."""

START_SECONDS = 90

STEADY_SECONDS = 3.0
"""A member that comes back says SECONDARY for about a second before it may go into a rollback."""

STUCK_SECONDS = 12.0
"""A rollback takes a second. One that takes longer hangs for minutes in mongod 6.0.5, about once in ten kills."""

PRIMARY, SECONDARY, STARTING = 1, 2, {0, 5}
"""Member states; a member that is starting or copies everything is not stuck."""


class Member:
    """One mongod of the set."""

    def __init__(self, data: Path, parameters: tuple[str, ...]) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data / "mongod.log"
        self._data = data
        self._parameters = parameters
        self._well_since = time.monotonic()

    @property
    def host(self) -> str:
        """Its address in the set."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it on what it had."""
        self.process = launch(self._data, self.port, self._parameters)
        self._well_since = time.monotonic()

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP pauses it, SIGCONT lets it go on."""
        if self.process is not None:
            self.process.send_signal(number)
        self._well_since = time.monotonic()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def state(self) -> int | None:
        """Return its own view of its state, or None if it does not answer."""
        try:
            with self._client() as client:
                state: int = client.admin.command("replSetGetStatus")["myState"]
        except PyMongoError:
            return None
        if state in {PRIMARY, SECONDARY, *STARTING}:
            self._well_since = time.monotonic()
        return state

    def is_writable(self) -> bool:
        """Tell whether it takes writes; a primary does not while it catches up."""
        try:
            return bool(self.command({"hello": 1})["isWritablePrimary"])
        except PyMongoError:
            return False

    def renew_if_stuck(self) -> bool:
        """If it has not been well for long, start it again with nothing, so that it copies all; tell whether it was."""
        if time.monotonic() - self._well_since < STUCK_SECONDS:
            return False
        self.kill()
        shutil.rmtree(self._data / "db")
        self.start()
        return True

    def command(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Run a command on this member, and return its answer."""
        with self._client() as client:
            answer: dict[str, Any] = client.admin.command(dict(command))
        return answer

    def _client(self) -> pymongo.MongoClient[dict[str, Any]]:
        return pymongo.MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=500, timeoutMS=5_000
        )


class EmbeddedReplicaSet:
    """Three members, started, and stopped at the end; whoever uses it breaks and mends them."""

    def __init__(self, data: Path, *, elections: Elections = QUICK_ELECTIONS, parameters: tuple[str, ...] = ()) -> None:
        """Prepare to run in folders below `data`; `parameters` go to --setParameter of each member."""
        parameters = (*elections.parameters, *parameters)
        self.members = [Member(data / f"member-{number}", parameters) for number in range(3)]
        self._elections = elections
        self.renewed = 0
        """How many members had to start again with nothing."""

    @property
    def uri(self) -> str:
        """The address of the set."""
        return f"mongodb://{','.join(member.host for member in self.members)}/chat_service?replicaSet=rs0"

    def __enter__(self) -> Self:
        """Start, and wait until all members are well.

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
        """End all members; nobody needs their data, so they are not asked to step down first."""
        for member in self.members:
            member.kill()

    def primary(self, *, other_than: Member | None = None, seconds: float = START_SECONDS) -> Member:
        """Wait for a primary, and return it; `other_than` is one that is paused, and does not know better.

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
        """Wait until one primary and two secondaries have been that for a while; renew members that hang.

        Raises:
            EmbeddedError: that was not so in time.
        """
        deadline = time.monotonic() + seconds
        # From the first answer on: a member that has just started may keep the question for seconds before it answers.
        well_since = None
        while well_since is None or time.monotonic() - well_since < STEADY_SECONDS:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"The replica set was not well within {seconds} s: {self.states()}.")
            time.sleep(0.25)
            if sorted(state or 0 for state in self.states()) == [PRIMARY, SECONDARY, SECONDARY]:
                well_since = well_since or time.monotonic()
            else:
                well_since = None
                self.renewed += sum(member.renew_if_stuck() for member in self.members)

    def states(self) -> list[int | None]:
        """Return each member's own view of its state."""
        return [member.state() for member in self.members]

    def _initiate(self) -> None:
        members = [{"_id": number, "host": member.host} for number, member in enumerate(self.members)]
        wanted = {"_id": "rs0", "members": members, "settings": dict(self._elections.settings)}
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                self.members[0].command({"replSetInitiate": wanted})
            except PyMongoError:
                time.sleep(0.2)
            else:
                return
        raise EmbeddedError(f"The replica set could not be made; the log is {self.members[0].log}.")
