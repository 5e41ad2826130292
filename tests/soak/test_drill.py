"""The drill: a service that has lost its database, a backup, and a ledger. As docs/operations.md tells it."""

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
"""In one of so many chats nobody is named."""


class Service:
    """gunicorn, a worker, and a tenant that may do everything, on a set of three."""

    def __init__(self, members: EmbeddedReplicaSet, folder: Path) -> None:
        self.members = members
        self.key = SigningKey.new()
        self.settings = {"SIGNING_KEY": self.key, "LEDGER_FILE": str(folder / "ledger.db"), "MONGODB_URI": members.uri}
        database = Database(members.uri)
        database.prepare()
        tenant = Tenants(database).create("drill")
        key, made = ApiKeys(database).create(tenant.id, "drill", list(Scope))
        self.access = TenantAccess(tenant.id, key, made.id)
        database.close()
        self.log = (folder / "service.log").open("wb")
        web = {name: value for name, value in self.settings.items() if name != "MONGODB_URI"}
        self.gunicorn = EmbeddedGunicorn(members.uri, free_port(), output=self.log, **web)
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
        """Return how a command ends, and what it says."""
        with self.flask(*arguments) as process:
            printed, _ = process.communicate(timeout=600)
            return process.returncode, printed

    def said(self, *arguments: str) -> str:
        """Return what a command says that has to succeed."""
        code, printed = self.run(*arguments)
        assert code == 0, printed
        return printed

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
        found = re.search(r"has ([\d,]+) entries", self.said("ledger", "status"))
        assert found
        return int(found[1].replace(",", ""))

    def wait_until_kept(self) -> None:
        """Return when nothing is under way any more, and the ledger has all that the log has."""

        def is_kept() -> bool:
            head = self.do("GET", "log", after=0, limit=1)["head"]
            erasures = self.do("GET", "erasures", limit=1)["items"]
            is_idle = all(one["state"] == "complete" for one in erasures)
            return is_idle and self.ledger_count() == head and self.do("GET", "log", after=0, limit=1)["head"] == head

        wait_until(is_kept, 300, every=1.0)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with EmbeddedReplicaSet(tmp_path / "set") as members:
        found = Service(members, tmp_path)
        with found.gunicorn:
            found.start_worker()
            try:
                yield found
            finally:
                found.stop_worker()
                found.log.close()


def sender_of(place: int, each: int) -> str | None:
    return f"person {(place + each) % SENDERS}" if place % QUIET else None


def chats_of(service: Service, count: int) -> list[str]:
    """Make chats with messages of several senders, from several callers at once."""

    def make(place: int) -> str:
        chat_id: str = service.do("POST", "chats", {"title": f"chat {place}"})["id"]
        is_loud = place % QUIET > 0
        messages = [
            {
                "content": f"message {uuid.uuid4()}",
                "sender_id": f"person {(place + each) % SENDERS}" if is_loud else None,
            }
            for each in range(5 if place % 50 else 1_200)
        ]
        for first in range(0, len(messages), 500):
            service.do("POST", f"chats/{chat_id}/messages", {"messages": messages[first : first + 500]})
        return chat_id

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(make, range(count)))


class Hands:
    """Do to chats what the log tells of."""

    def __init__(self, service: Service, chats: list[str], dice: random.Random) -> None:
        self.deleted: list[str] = []
        self._trashed: list[str] = []
        self._service = service
        self._dice = dice
        self._quiet = [chat_id for place, chat_id in enumerate(chats) if place % QUIET == 0]
        self._others = [chat_id for place, chat_id in enumerate(chats) if place % QUIET]
        dice.shuffle(self._others)

    def do(self, operations: int, senders: range) -> list[str]:
        """Do so many things, and erase these senders; return what was deleted."""
        for sender in senders:
            mode = self._dice.choice(["redact", "remove"])
            self._service.do("POST", "erasures", {"sender_id": f"person {sender}", "mode": mode})
        self._service.wait_until_kept()
        acts = [self._delete] * 9 + [self._trash] * 5 + [self._bring_back] * 2 + [self._hold] * 3 + [self._empty]
        for _ in range(operations):
            self._dice.choice(acts)()
        return self.deleted

    def _delete(self) -> None:
        chat_id = self._others.pop()
        self._service.do("DELETE", f"chats/{chat_id}")
        self.deleted.append(chat_id)

    def _trash(self) -> None:
        chat_id = self._others.pop()
        self._service.do("POST", f"chats/{chat_id}/trash", {"keep_days": self._dice.randint(1, 90)})
        self._trashed.append(chat_id)

    def _bring_back(self) -> None:
        if self._trashed:
            self._service.do("POST", f"trash/{self._trashed.pop(0)}/restore")

    def _hold(self) -> None:
        """On chats in which nobody is erased: what is held is not."""
        chat_ids = self._dice.sample(self._quiet, 2)
        placed = self._service.do("POST", "holds", {"name": f"case {chat_ids[0]}", "chat_ids": chat_ids})
        if self._dice.random() < 0.3:
            self._service.do("POST", f"holds/{placed['id']}/release")

    def _empty(self) -> None:
        self._service.do("DELETE", f"chats/{self._others.pop()}/messages")


def copy_of_a_stopped_member(members: EmbeddedReplicaSet, backup: Path) -> None:
    """Take the backup: the data files of a secondary, which is stopped meanwhile."""
    primary = members.primary()
    secondary = next(one for one in members.members if one is not primary)
    secondary.send(signal.SIGTERM)
    assert secondary.process is not None
    secondary.process.wait(60)
    shutil.copytree(secondary._data / "db", backup)
    secondary.start()
    members.wait_until_steady()


def restore(members: EmbeddedReplicaSet, backup: Path) -> None:
    """All members lose what they have, and get the backup."""
    for member in members.members:
        member.kill()
        shutil.rmtree(member._data / "db")
        shutil.copytree(backup, member._data / "db")
    for member in members.members:
        member.start()
    members.wait_until_steady()


def replay_with_kills(service: Service, dice: random.Random, tell: Callable[[str], None]) -> None:
    """Replay, and kill it three times on its way; nothing is served meanwhile."""
    kills = 0
    while kills < KILLS:
        wait_for, steps = dice.randint(1, 8), list[str]()
        with service.flask("ledger", "replay") as process:
            assert process.stdout is not None
            for line in process.stdout:
                steps += [line.strip()] if "replayed" in line else []
                if len(steps) >= wait_for:
                    break
            process.kill()
        if steps:  # else the lease of the one before had not ended yet
            kills += 1
            tell(f"kill {kills}: {steps[-1]}")
        assert service.send("GET", "chats").status_code == 503


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_a_restored_backup_is_brought_up_to_the_ledger(service: Service, tmp_path: Path, seed, tell) -> None:
    """1,000 operations after the backup, three kills in the replay: everything readable is as it was."""
    dice, operations = random.Random(seed), number("SOAK_DRILL", 1_000)
    chats = chats_of(service, operations + 400)
    Hands(service, chats[:300], dice).do(200, range(2))
    service.wait_until_kept()
    old_note = service.send("GET", "log/checkpoint").content
    began = time.monotonic()
    copy_of_a_stopped_member(service.members, tmp_path / "backup")
    tell(f"backup in {time.monotonic() - began:.0f} s")

    deleted = Hands(service, chats[300:], dice).do(operations, range(2, 5))
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
    replay_with_kills(service, dice, tell)
    left = time.monotonic()
    wait_until(lambda: service.run("ledger", "replay")[0] == 0, 600, every=1.0)
    now = time.monotonic()
    tell(f"replay in {now - began:.0f} s, with {KILLS} kills in it; {now - left:.0f} s the last")
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
    assert "0 findings" in service.said("check")
    tell(json.dumps({name: len(value or "") for name, value in before.items()}))
