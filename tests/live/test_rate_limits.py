"""Rate limits of the real service, across both of its workers."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.repository.database import Database
from tests.client import TenantAccess
from tests.forked import ForkedGunicorn

BURST = 5
UNKNOWN = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def service(mongod: EmbeddedMongod, database: Database) -> Iterator[ForkedGunicorn]:
    """Run two workers with a default limit in their environment; its tokens take over an hour to come back."""
    del database  # emptied
    with ForkedGunicorn(mongod.uri, free_port(), RATE_LIMIT_DELETE=f"0.001:{BURST}") as running:
        yield running


def statuses(service: ForkedGunicorn, access: TenantAccess, number: int) -> list[int]:
    """Return the statuses of deletes of an unknown chat, each on its own connection, so that both workers get some."""
    url = f"{service.url}/chats/{UNKNOWN}"
    return [requests.delete(url, headers=access.headers, timeout=30).status_code for _ in range(number)]


def test_a_limit_holds_over_all_workers_and_changes_within_five_seconds(service, live, mongod, project: Path) -> None:
    """Both workers together allow one burst; once the limit is off, neither refuses any more."""
    access = live[1]()
    assert sorted(statuses(service, access, 20)) == [404] * BURST + [429] * (20 - BURST)
    command = [Path(sys.executable).with_name("flask"), "--app", "wsgi", "tenants", "limit", access.tenant_id]
    environment = {**os.environ, "MONGODB_URI": mongod.uri}
    subprocess.run([*command, "--delete", "off"], cwd=project, env=environment, check=True, timeout=60)
    deadline = time.monotonic() + 5
    while 429 in statuses(service, access, 1):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(max(deadline - time.monotonic(), 0))
    assert statuses(service, access, 20) == [404] * 20
