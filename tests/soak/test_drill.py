"""The drill of docs/operations.md: a service has lost its database, and is restored from a backup and the ledger."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from chat_service.embedded.process import free_port, start, stop
from chat_service.embedded.replica_set import EmbeddedReplicaSet
from chat_service.embedded.service import EmbeddedGunicorn
from chat_service.models import Scope
from chat_service.proof.notes import SigningKey, origin_of
from chat_service.proof.verify import verify, verify_growth
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.tenants import Tenants
from tests.client import TenantAccess
from tests.recovery.readable import Get, readable
from tests.soak.conftest import number
from tests.wait import wait_until

CALLERS = 4
KILLS = 3
SENDERS = 10

QUIET = 5
"""One in so many chats has no senders."""


class Service:
    """gunicorn, a worker for the jobs, and a tenant with a key of every scope, on a replica set of three."""

    def __init__(self, members: EmbeddedReplicaSet, folder: Path) -> None:
        self.members = members
        self.key = SigningKey.new()
        self.settings = {"SIGNING_KEY": self.key, "LEDGER_FILE": str(folder / "ledger.db"), "MONGODB_URI": members.uri}
        database = Database(members.uri)
        database.prepare()
        tenant = Tenants(database).create("drill")
        key, api_key = ApiKeys(database).create(tenant.id, "drill", list(Scope))
        self.access = TenantAccess(tenant.id, key, api_key.id)
        database.close()
        self.log = (folder / "service.log").open("wb")
        web_settings = {name: value for name, value in self.settings.items() if name != "MONGODB_URI"}
        self.gunicorn = EmbeddedGunicorn(members.uri, free_port(), output=self.log, **web_settings)
        self.worker: subprocess.Popen[bytes] | None = None

    def start_worker(self) -> None:
        self.worker = start("flask", "--app", "wsgi", "jobs", "run", output=self.log, **self.settings)

    def stop_worker(self) -> None:
        if self.worker is not None:
            stop(self.worker, 20)
        self.worker = None

    def flask(self, *arguments: str) -> subprocess.Popen[str]:
        """Run a command with the settings of the service."""
        command = [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]
        environment = {**os.environ, **self.settings}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code and the output of a command."""
        with self.flask(*arguments) as process:
            output, _ = process.communicate(timeout=600)
            return process.returncode, output

    def output_of(self, *arguments: str) -> str:
        """Return the output of a command that must succeed."""
        code, output = self.run(*arguments)
        assert code == 0, output
        return output

    def send(self, method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> requests.Response:
        url = f"{self.gunicorn.url}/{path}"
        return requests.request(method, url, json=body, params=query, headers=self.access.headers, timeout=60)

    def do(self, method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> Any:
        answer = self.send(method, path, body, **query)
        assert answer.ok, (method, path, answer.text)
        return answer.json() if answer.content else None

    @property
    def get(self) -> Get:
        def get(path: str, query: dict[str, Any]) -> bytes | None:
            answer = self.send("GET", path, **query)
            assert answer.status_code in {200, 404}, (path, answer.text)
            return answer.content if answer.ok else None

        return get

    def ledger_count(self) -> int:
        match = re.search(r"has ([\d,]+) entries", self.output_of("ledger", "status"))
        assert match
        return int(match[1].replace(",", ""))

    def wait_until_kept(self) -> None:
        """Wait until no erasure runs any more, and the ledger has every entry of the log."""

        def is_kept() -> bool:
            head = self.do("GET", "log", after=0, limit=1)["head"]
            erasures = self.do("GET", "erasures", limit=1)["items"]
            is_idle = all(erasure["state"] == "complete" for erasure in erasures)
            return is_idle and self.ledger_count() == head and self.do("GET", "log", after=0, limit=1)["head"] == head

        wait_until(is_kept, 300, every=1.0)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with EmbeddedReplicaSet(tmp_path / "set") as members:
        started = Service(members, tmp_path)
        with started.gunicorn:
            started.start_worker()
            try:
                yield started
            finally:
                started.stop_worker()
                started.log.close()


def sender_of(chat_number: int, message_number: int) -> str | None:
    return f"person {(chat_number + message_number) % SENDERS}" if chat_number % QUIET else None


def chats_of(service: Service, count: int) -> list[str]:
    """Create chats with messages of several senders, by several callers at once, and return their ids."""

    def make(chat_number: int) -> str:
        chat_id: str = service.do("POST", "chats", {"title": f"chat {chat_number}"})["id"]
        has_senders = chat_number % QUIET > 0
        messages = [
            {
                "content": f"message {uuid.uuid4()}",
                "sender_id": f"person {(chat_number + message_number) % SENDERS}" if has_senders else None,
            }
            for message_number in range(5 if chat_number % 50 else 1_200)
        ]
        for first in range(0, len(messages), 500):
            service.do("POST", f"chats/{chat_id}/messages", {"messages": messages[first : first + 500]})
        return chat_id

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(make, range(count)))


class Operator:
    """Does operations on chats that the log records."""

    def __init__(self, service: Service, chats: list[str], rng: random.Random) -> None:
        self.deleted: list[str] = []
        self._trashed: list[str] = []
        self._service = service
        self._rng = rng
        self._without_senders = [chat_id for number, chat_id in enumerate(chats) if number % QUIET == 0]
        self._with_senders = [chat_id for number, chat_id in enumerate(chats) if number % QUIET]
        rng.shuffle(self._with_senders)

    def do(self, operations: int, senders: range) -> list[str]:
        """Erase these senders, then do so many random operations; return the ids of the deleted chats."""
        for sender in senders:
            mode = self._rng.choice(["redact", "remove"])
            self._service.do("POST", "erasures", {"sender_id": f"person {sender}", "mode": mode})
        self._service.wait_until_kept()
        actions = [self._delete] * 9 + [self._trash] * 5 + [self._restore] * 2 + [self._hold] * 3 + [self._empty]
        for _ in range(operations):
            self._rng.choice(actions)()
        return self.deleted

    def _delete(self) -> None:
        chat_id = self._with_senders.pop()
        self._service.do("DELETE", f"chats/{chat_id}")
        self.deleted.append(chat_id)

    def _trash(self) -> None:
        chat_id = self._with_senders.pop()
        self._service.do("POST", f"chats/{chat_id}/trash", {"keep_days": self._rng.randint(1, 90)})
        self._trashed.append(chat_id)

    def _restore(self) -> None:
        if self._trashed:
            self._service.do("POST", f"trash/{self._trashed.pop(0)}/restore")

    def _hold(self) -> None:
        """Place a hold on chats without senders: an erasure would leave held chats out."""
        chat_ids = self._rng.sample(self._without_senders, 2)
        hold = self._service.do("POST", "holds", {"name": f"case {chat_ids[0]}", "chat_ids": chat_ids})
        if self._rng.random() < 0.3:
            self._service.do("POST", f"holds/{hold['id']}/release")

    def _empty(self) -> None:
        self._service.do("DELETE", f"chats/{self._with_senders.pop()}/messages")


def copy_of_a_stopped_member(members: EmbeddedReplicaSet, backup: Path) -> None:
    """Back up the data files of a secondary, which is stopped meanwhile."""
    primary = members.primary()
    secondary = next(member for member in members.members if member is not primary)
    secondary.send(signal.SIGTERM)
    assert secondary.process is not None
    secondary.process.wait(60)
    shutil.copytree(secondary._data / "db", backup)
    secondary.start()
    members.wait_until_steady()


def restore(members: EmbeddedReplicaSet, backup: Path) -> None:
    """Remove the data of all members, and give each the backup."""
    for member in members.members:
        member.kill()
        shutil.rmtree(member._data / "db")
        shutil.copytree(backup, member._data / "db")
    for member in members.members:
        member.start()
    members.wait_until_steady()


def replay_with_kills(service: Service, rng: random.Random, tell: Callable[[str], None]) -> None:
    """Run the replay, and kill it three times on its way; the API must refuse requests meanwhile."""
    kills = 0
    while kills < KILLS:
        wait_for, steps = rng.randint(1, 8), list[str]()
        with service.flask("ledger", "replay") as process:
            assert process.stdout is not None
            for line in process.stdout:
                steps += [line.strip()] if "replayed" in line else []
                if len(steps) >= wait_for:
                    break
            process.kill()
        if steps:  # otherwise the lease of the killed replay had not expired yet
            kills += 1
            tell(f"kill {kills}: {steps[-1]}")
        assert service.send("GET", "chats").status_code == 503


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_a_restored_backup_is_brought_up_to_the_ledger(service: Service, tmp_path: Path, seed, tell) -> None:
    """After 1,000 operations since the backup and three kills of the replay, everything readable is as it was."""
    rng, operations = random.Random(seed), number("SOAK_DRILL", 1_000)
    chats = chats_of(service, operations + 400)
    Operator(service, chats[:300], rng).do(200, range(2))
    service.wait_until_kept()
    old_note = service.send("GET", "log/checkpoint").content
    began = time.monotonic()
    copy_of_a_stopped_member(service.members, tmp_path / "backup")
    tell(f"backup in {time.monotonic() - began:.0f} s")

    deleted = Operator(service, chats[300:], rng).do(operations, range(2, 5))
    service.wait_until_kept()
    before = readable(service.get)
    proofs = {chat_id: service.send("GET", f"deletions/{chat_id}/proof").content for chat_id in deleted}
    service.stop_worker()
    began = time.monotonic()
    restore(service.members, tmp_path / "backup")
    tell(f"restore in {time.monotonic() - began:.0f} s")

    root = service.gunicorn.url.removesuffix("/api/v1")
    wait_until(lambda: "ledger_behind" in requests.get(f"{root}/readyz", timeout=30).text, 30)
    refused = service.send("GET", "chats")
    assert (refused.status_code, refused.json()["code"]) == (503, "ledger_behind")
    began = time.monotonic()
    replay_with_kills(service, rng, tell)
    last_began = time.monotonic()
    wait_until(lambda: service.run("ledger", "replay")[0] == 0, 600, every=1.0)
    ended = time.monotonic()
    tell(f"replay in {ended - began:.0f} s, with {KILLS} kills in it; {ended - last_began:.0f} s the last")
    wait_until(lambda: requests.get(f"{root}/readyz", timeout=30).status_code == 200, 30)
    after = readable(service.get)
    assert {name: value for name, value in after.items() if value != before[name]} == {}

    service.start_worker()
    service.wait_until_kept()
    key = SigningKey(service.key).verifier(origin_of(service.access.tenant_id))
    for chat_id, proof in proofs.items():
        assert verify(proof, [key], chat_id).entry["kind"] == "chat.deleted"
        assert verify(service.send("GET", f"deletions/{chat_id}/proof").content, [key], chat_id)
    size = int(old_note.split(b"\n")[1])
    verify_growth(service.send("GET", "log/consistency", old=size).content, old_note, [key])
    assert "0 findings" in service.output_of("check")
    tell(json.dumps({name: len(value or "") for name, value in before.items()}))
