"""Imports that are larger than other bodies: in a file while they arrive, whatever framing, and no longer."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from tests.client import CHATS, TenantAccess
from tests.conftest import MAX_BODY_BYTES
from tests.forked import ForkedGunicorn
from tests.wait import wait_until
from tests.workers import workers_of

FILE_BYTES = 2 * 2**20


@pytest.fixture
def service(mongod: EmbeddedMongod) -> Iterator[ForkedGunicorn]:
    limits = {"MAX_BODY_BYTES": str(MAX_BODY_BYTES), "MAX_IMPORT_BYTES": str(4 * MAX_BODY_BYTES)}
    with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1", **limits) as running:
        yield running


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


def send(service: ForkedGunicorn, access: TenantAccess, body: object) -> requests.Response:
    headers = {**access.headers, "Content-Type": "application/x-ndjson"}
    return requests.post(f"http://127.0.0.1:{service.port}{CHATS}/import", data=body, headers=headers, timeout=30)


def export(service: ForkedGunicorn, access: TenantAccess) -> bytes:
    """Return an export that is larger than a body may be."""
    url = f"http://127.0.0.1:{service.port}{CHATS}"
    chat = requests.post(url, json={}, headers=access.headers, timeout=30).json()["id"]
    for _ in range(3):
        batch = {"messages": [{"content": "x" * 900}] * 900}
        requests.post(f"{url}/{chat}/messages", json=batch, headers=access.headers, timeout=30)
    return requests.get(f"{url}/{chat}/export?format=ndjson", headers=access.headers, timeout=30).content


def files_of(worker: int) -> int:
    """Return how many files a process has open that have no name any more."""
    links = [str(entry.readlink()) for entry in Path(f"/proc/{worker}/fd").iterdir() if entry.is_symlink()]
    return sum(link.endswith("(deleted)") for link in links)


def test_an_export_comes_back_in_and_its_file_goes(service, access) -> None:
    """With its length told or in chunks."""
    whole = export(service, access)
    (worker,) = workers_of(service)
    before = files_of(worker)
    for body in (whole, iter([whole[:1000], whole[1000:]])):
        answer = send(service, access, body)
        assert (answer.status_code, answer.json()["message_count"]) == (201, 2_700)
    wait_until(lambda: files_of(worker) == before)
    for body in (whole * 2, iter([whole, whole])):
        assert send(service, access, body).json()["code"] == "import_too_large"


def test_without_a_place_for_it_nothing_is_done(service, access) -> None:
    """A disk that is full: 503, and other requests are answered."""
    whole = export(service, access)
    (worker,) = workers_of(service)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    answer = send(service, access, whole)
    assert (answer.status_code, answer.json()["code"]) == (503, "upload_storage_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    url = f"http://127.0.0.1:{service.port}{CHATS}"
    assert len(requests.get(url, headers=access.headers, timeout=30).json()["items"]) == 1
    assert json.loads(answer.text)["success"] is False
