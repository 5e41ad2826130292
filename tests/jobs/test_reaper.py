"""`jobs run` removes the leases that a service has left when all its processes died."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.errors import ActiveConnectionsError
from chat_service.jobs.reaper import OrphanReaper
from chat_service.models import Deletion
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.orphans import Orphans
from chat_service.repository.presence import LEASE, Presence
from tests.wait import wait_until

TENANT = "t"

HOLDER = """
import sys
from chat_service.repository.database import Database
from chat_service.repository.presence import Presence
from chat_service.repository.processes import own_name

Presence(Database(sys.argv[1])).open("t", sys.argv[2], "connection", own_name())
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def chat_id(chats: Chats) -> str:
    return chats.create(TENANT, None, {}).id


@pytest.fixture
def holder(mongod: EmbeddedMongod, chat_id: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds a lease of the chat."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, mongod.uri, chat_id], **pipes) as process:
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


class Clock:
    """The monotonic time of the reaper's process, which a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_lease_in_the_future_ends_with_its_process(
    database: Database, deletions: Deletions, holder: "subprocess.Popen[str]", chat_id: str
) -> None:
    """A primary whose clock was 40 s ahead wrote it: what counts is how long its dead process has not renewed it."""
    database.presence.update_many({}, [{"$set": {"expires_at": {"$add": ["$expires_at", 40_000]}}}])
    clock = Clock()
    reaper = OrphanReaper(Orphans(database), clock)
    clock.seconds = 2 * LEASE.total_seconds()
    assert reaper.run_once() is None, "its process is alive"
    holder.kill()
    holder.wait()
    wait_until(Orphans(database).absent)  # the server may notice only a moment later that the connection is closed
    assert reaper.run_once() is None, "its process may only be disconnected"
    with pytest.raises(ActiveConnectionsError):
        deletions.delete(TENANT, chat_id, "key")
    clock.seconds += LEASE.total_seconds() + 1
    assert reaper.run_once() == 1
    assert isinstance(deletions.delete(TENANT, chat_id, "key"), Deletion)


def test_a_lease_that_is_renewed_is_kept(
    database: Database, presence: Presence, holder: "subprocess.Popen[str]", chat_id: str
) -> None:
    """It is kept even if the server has no connection of its process, which may reach another member."""
    clock = Clock()
    reaper = OrphanReaper(Orphans(database), clock)
    holder.kill()
    holder.wait()
    reaper.run_once()
    clock.seconds += LEASE.total_seconds() + 1
    later = {"$set": {"expires_at": database.now() + LEASE + timedelta(seconds=1)}}
    database.presence.update_many({}, later)
    assert reaper.run_once() is None
    assert presence.count(database.unbound(), TENANT, chat_id).live == 1
