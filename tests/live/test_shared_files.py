"""The files that workers share: they do not become more with each that dies, and a full memory ends nobody."""

import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.server.shared_files import MEMORY, folder_with_room
from tests.forked import ForkedGunicorn
from tests.mounts import InOwnMounts
from tests.wait import wait_until
from tests.workers import is_running, workers_of

ASKED = 20
COUNTED = re.compile(r'^chat_service_request_duration_seconds_count\{.*route="/healthz".*\} (\S+)$', re.MULTILINE)


class InASmallMemory(InOwnMounts):
    """The service, for which the shared memory has 2 MiB."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(f"mount -t tmpfs -o size=2m tmpfs {MEMORY}", *args, **kwargs)

    @property
    def memory(self) -> Path:
        """Its shared memory, from outside."""
        return Path(f"/proc/{self.process.pid}/root{MEMORY}")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def service(mongod: EmbeddedMongod, output: Path) -> Iterator[InASmallMemory]:
    with output.open("wb") as sink, InASmallMemory(mongod.uri, free_port(), output=sink) as running:
        yield running


def ask(service: ForkedGunicorn, times: int = ASKED) -> None:
    for _ in range(times):
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/healthz", timeout=10) as answer:
            assert answer.status == 200


def counted(service: ForkedGunicorn) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=10) as answer:
        return sum(map(float, COUNTED.findall(answer.read().decode())))


def replace(service: ForkedGunicorn) -> None:
    """Kill all workers, and wait until others serve."""
    before = workers_of(service)
    for worker in before:
        os.kill(worker, signal.SIGKILL)

    def others_serve() -> bool:
        with suppress(OSError):
            ask(service, 1)
            workers = workers_of(service)
            # Not just as many: one of the first may have been forked after the look at them.
            return not workers & before and len(workers) >= len(before)
        return False

    wait_until(others_serve, 30)


def test_the_dead_leave_no_files(service: InASmallMemory) -> None:
    """Workers that come after others go on with their files, and no number falls."""
    ask(service)
    last = counted(service)
    for _ in range(3):
        replace(service)
        ask(service)
        assert counted(service) >= last + ASKED
        last = counted(service)
    assert len({file.stem.rpartition("_")[2] for file in service.memory.rglob("*.db")}) == 2, "a name for each worker"


def test_a_memory_that_is_full_ends_nobody(service: InASmallMemory, output: Path) -> None:
    """Workers that find no room for their numbers say so, and serve."""
    with (service.memory / "full").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    replace(service)
    ask(service)
    assert "no room for the metrics" in output.read_text()
    assert counted(service) > 0


def test_the_place_has_room(tmp_path: Path) -> None:
    """A folder that is not there, or full, is passed over."""
    assert folder_with_room((str(tmp_path / "absent"), "/proc", str(tmp_path))) == str(tmp_path)
    assert folder_with_room((str(tmp_path / "absent"),)) is None


def test_a_killed_master_leaves_no_folder(mongod: EmbeddedMongod) -> None:
    """The next service removes the folder of one that was killed, and not that of one that lives."""
    living, killed = (ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1") for _ in range(2))
    with living, killed:
        ask(killed)
        workers = workers_of(killed)
        os.kill(killed.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, workers)), 30)
        folders = {service: folder_of(service) for service in (living, killed)}
        for folder in folders.values():
            os.utime(folder, (0, 0))
        with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1") as successor:
            assert [folders[service].exists() for service in (living, killed)] == [True, False]
            assert folder_of(successor).exists()


def folder_of(service: ForkedGunicorn) -> Path:
    """Return the folder of a service's metrics."""
    (folder,) = Path(MEMORY).glob(f"chat-service-metrics-{service.process.pid}-*")
    return folder
