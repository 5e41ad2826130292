"""The last release and this version at once on one database, in either order: an upgrade, and a way back.

The last release runs from its own source on today's libraries, over HTTP only (gunicorn's threads): its WebSockets
need libraries that are no longer installed.
"""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port, start, stop
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from tests.wait import wait_until

RELEASE = "0.1.0"

LARGE = 60
"""A number of messages that a delete leaves to a purge."""

RACES = 10

ENVIRONMENT = {"DELETE_INLINE_LIMIT": "50"}


class Version:
    """One version of the service: its commands and its server."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self._environment = {**os.environ, "MONGODB_URI": uri, **ENVIRONMENT}
        self._uri = uri
        self.url = ""

    def flask(self, *command: str) -> str:
        """Run a command of the service, and return what it prints."""
        completed = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout.strip()

    def serve(self) -> "subprocess.Popen[bytes]":
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        arguments = ("-k", "gthread", "--threads", "4", "-b", f"127.0.0.1:{port}", "--no-control-socket", "wsgi:app")
        return start("gunicorn", *arguments, folder=self._folder, MONGODB_URI=self._uri, **ENVIRONMENT)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(Path(__file__).parents[1] / "releases" / f"{RELEASE}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


class Caller:
    """A client that sends its requests to either version."""

    def __init__(self, key: str) -> None:
        self._session = requests.Session()
        self._session.headers["X-API-Key"] = key

    def send(self, version: Version, method: str, path: str, status: int, **options: Any) -> requests.Response:
        answer = self._session.request(method, f"{version.url}/api/v1/{path}", timeout=30, **options)
        assert answer.status_code == status, answer.text
        return answer

    def chat(self, version: Version, messages: int = 2) -> str:
        chat_id: str = self.send(version, "POST", "chats", 201, json={"title": "x"}).json()["id"]
        self.post(version, chat_id, messages)
        return chat_id

    def post(self, version: Version, chat_id: str, messages: int) -> None:
        batch = {"messages": [{"content": f"message {number}"} for number in range(messages)]}
        self.send(version, "POST", f"chats/{chat_id}/messages", 201, json=batch)


@pytest.fixture(params=["the release first", "this version first"])
def both(request: pytest.FixtureRequest, mongod: EmbeddedMongod, release: Path, project: Path) -> Iterator[Any]:
    """Yield the version that was at the database first, the other, a caller, and what the first kept and deleted."""
    uri = mongod.uri.replace("/chat_service?", "/two_versions?")
    versions = [Version(release, uri), Version(project, uri)]
    first, second = versions if "release" in request.param.split()[1] else reversed(versions)
    processes = []
    database = Database(uri)
    database.client.drop_database("two_versions")
    try:
        first.flask("db", "init")
        processes.append(first.serve())
        wait_until(lambda: is_ready(first))
        caller = Caller(first.flask("keys", "create", first.flask("tenants", "create", "A customer")))
        chats = [caller.chat(first), caller.chat(first, LARGE)]
        deleted = [caller.chat(first), caller.chat(first, LARGE)]
        for chat_id in deleted:
            caller.send(first, "DELETE", f"chats/{chat_id}", 200)
        second.flask("db", "init")
        processes.append(second.serve())
        wait_until(lambda: is_ready(second))
        yield first, second, caller, chats, deleted, database, versions[1]
    finally:
        for process in processes:
            stop(process, 30)
        database.close()


def is_ready(version: Version) -> bool:
    try:
        return requests.get(f"{version.url}/readyz", timeout=5).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


def test_each_goes_on_with_what_the_other_has_left(both) -> None:
    """Each version reads, extends and deletes the chats of the other, and of concurrent deletes one succeeds."""
    first, second, caller, chats_before, deleted_before, database, new = both
    chats = [*chats_before, caller.chat(second), caller.chat(second, LARGE)]
    for chat_id in chats:
        for version in (first, second):
            caller.post(version, chat_id, 2)
        pages = [
            caller.send(version, "GET", f"chats/{chat_id}/messages?limit=200", 200).json()
            for version in (first, second)
        ]
        assert pages[0]["items"] == pages[1]["items"]
        seqs = [message["seq"] for message in pages[0]["items"]]
        assert seqs == list(range(1, len(seqs) + 1))
        exports = [
            caller.send(version, "GET", f"chats/{chat_id}/export?format=json", 200).json()
            for version in (first, second)
        ]
        assert exports[0]["messages"] == exports[1]["messages"]
    for chat_id in deleted_before:
        for version in (first, second):
            caller.send(version, "GET", f"chats/{chat_id}", 404)
            caller.send(version, "POST", "chats", 409, json={"id": chat_id})
        # 0.1 cannot read the receipts of later versions: docs/upgrading.md says so.
        caller.send(new, "GET", f"deletions/{chat_id}", 200)
    deleted = dict(zip(chats, (second, second, first, first), strict=True))
    for chat_id, version in deleted.items():
        caller.send(version, "DELETE", f"chats/{chat_id}", 200)
        caller.send(first if version is second else second, "DELETE", f"chats/{chat_id}", 404)
    raced = [caller.chat(first if number % 2 else second, 2 if number % 3 else LARGE) for number in range(1, RACES)]
    with ThreadPoolExecutor() as pool:
        for chat_id in raced:
            deletes = [
                pool.submit(delete_status, caller, version, chat_id) for version in (first, second, first, second)
            ]
            assert sorted(future.result() for future in deletes) == [200, 404, 404, 404]
    assert_ends_well(database, new, {*deleted_before, *deleted, *raced})


def delete_status(caller: Caller, version: Version, chat_id: str) -> int:
    """Delete a chat with a version, and return the status of the answer."""
    url = f"{version.url}/api/v1/chats/{chat_id}"
    return requests.delete(url, headers=caller._session.headers, timeout=30).status_code


def assert_ends_well(database: Database, new: Version, deleted: set[str]) -> None:
    """Run this version's jobs until they are idle, and check that purges, receipts and the log are complete."""
    new.flask("db", "init")
    new.flask("jobs", "run", "--until-idle")
    assert list(Checks(database).run()) == []
    assert database.messages.count_documents({}) == 0
    assert database.purges.count_documents({}) == 0
    for kind in ("chat.deleted", "chat.purged"):
        assert sorted(entry["chat_id"] for entry in database.log_entries.find({"kind": kind})) == sorted(deleted)
