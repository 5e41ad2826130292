"""The files that workers share: their number does not grow when workers die, and a full memory ends no worker."""

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

REQUESTS = 20
REQUEST_COUNT = re.compile(r'^chat_service_request_duration_seconds_count\{.*route="/healthz".*\} (\S+)$', re.MULTILINE)


class WithSmallMemory(InOwnMounts):
    """The service, with a shared memory of only 2 MiB."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(f"mount -t tmpfs -o size=2m tmpfs {MEMORY}", *args, **kwargs)

    @property
    def memory(self) -> Path:
        """The path of its shared memory, seen from outside its mounts."""
        return Path(f"/proc/{self.process.pid}/root{MEMORY}")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def service(mongod: EmbeddedMongod, output: Path) -> Iterator[WithSmallMemory]:
    with output.open("wb") as sink, WithSmallMemory(mongod.uri, free_port(), output=sink) as gunicorn:
        yield gunicorn


def request_health(service: ForkedGunicorn, times: int = REQUESTS) -> None:
    for _ in range(times):
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/healthz", timeout=10) as answer:
            assert answer.status == 200


def counted_requests(service: ForkedGunicorn) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=10) as answer:
        return sum(map(float, REQUEST_COUNT.findall(answer.read().decode())))


def replace_workers(service: ForkedGunicorn) -> None:
    """Kill all workers, and wait until at least as many others serve."""
    before = workers_of(service)
    for worker in before:
        os.kill(worker, signal.SIGKILL)

    def others_serve() -> bool:
        with suppress(OSError):
            request_health(service, 1)
            workers = workers_of(service)
            # There may be more: a worker may have been forked just after `before` was read.
            return not workers & before and len(workers) >= len(before)
        return False

    wait_until(others_serve, 30)


def test_the_dead_leave_no_files(service: WithSmallMemory) -> None:
    """New workers continue with the files of the dead ones, and no counter falls."""
    request_health(service)
    previous = counted_requests(service)
    for _ in range(3):
        replace_workers(service)
        request_health(service)
        assert counted_requests(service) >= previous + REQUESTS
        previous = counted_requests(service)
    assert len({file.stem.rpartition("_")[2] for file in service.memory.rglob("*.db")}) == 2, "a name for each worker"


def test_a_memory_that_is_full_ends_nobody(service: WithSmallMemory, output: Path) -> None:
    """Workers that find no room for their metrics say so in the log, and serve."""
    with (service.memory / "full").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    replace_workers(service)
    request_health(service)
    assert "no room for the metrics" in output.read_text()
    assert counted_requests(service) > 0


def test_the_place_has_room(tmp_path: Path) -> None:
    """A folder that does not exist, or has no room, is skipped."""
    assert folder_with_room((str(tmp_path / "absent"), "/proc", str(tmp_path))) == str(tmp_path)
    assert folder_with_room((str(tmp_path / "absent"),)) is None


def test_a_killed_master_leaves_no_folder(mongod: EmbeddedMongod) -> None:
    """The next service removes the folder of a service that was killed, but not that of one that runs."""
    living, killed = (ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1") for _ in range(2))
    with living, killed:
        request_health(killed)
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
