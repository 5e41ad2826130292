"""Imports that are larger than other bodies: in a file while they arrive, whatever their framing, and no longer."""

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
    with ForkedGunicorn(mongod.uri, free_port(), WEB_CONCURRENCY="1", **limits) as gunicorn:
        yield gunicorn


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


def send(service: ForkedGunicorn, access: TenantAccess, body: object) -> requests.Response:
    headers = {**access.headers, "Content-Type": "application/x-ndjson"}
    return requests.post(f"http://127.0.0.1:{service.port}{CHATS}/import", data=body, headers=headers, timeout=30)


def export(service: ForkedGunicorn, access: TenantAccess) -> bytes:
    """Create a chat, and return its export, which is larger than other bodies may be."""
    url = f"http://127.0.0.1:{service.port}{CHATS}"
    chat_id = requests.post(url, json={}, headers=access.headers, timeout=30).json()["id"]
    for _ in range(3):
        batch = {"messages": [{"content": "x" * 900}] * 900}
        requests.post(f"{url}/{chat_id}/messages", json=batch, headers=access.headers, timeout=30)
    return requests.get(f"{url}/{chat_id}/export?format=ndjson", headers=access.headers, timeout=30).content


def count_unnamed_files(worker: int) -> int:
    """Return how many open files of a process have no name any more."""
    links = [str(entry.readlink()) for entry in Path(f"/proc/{worker}/fd").iterdir() if entry.is_symlink()]
    return sum(link.endswith("(deleted)") for link in links)


def test_an_export_comes_back_in_and_its_file_goes(service, access) -> None:
    """An import is accepted with its length or in chunks, and its file is closed; a larger one is refused."""
    exported = export(service, access)
    (worker,) = workers_of(service)
    files_before = count_unnamed_files(worker)
    for body in (exported, iter([exported[:1000], exported[1000:]])):
        answer = send(service, access, body)
        assert (answer.status_code, answer.json()["message_count"]) == (201, 2_700)
    wait_until(lambda: count_unnamed_files(worker) == files_before)
    for body in (exported * 2, iter([exported, exported])):
        assert send(service, access, body).json()["code"] == "import_too_large"


def test_without_a_place_for_it_nothing_is_done(service, access) -> None:
    """If the disk is full, the import is a 503, nothing is stored, and other requests are answered."""
    exported = export(service, access)
    (worker,) = workers_of(service)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    answer = send(service, access, exported)
    assert (answer.status_code, answer.json()["code"]) == (503, "upload_storage_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    url = f"http://127.0.0.1:{service.port}{CHATS}"
    assert len(requests.get(url, headers=access.headers, timeout=30).json()["items"]) == 1
    assert json.loads(answer.text)["success"] is False
