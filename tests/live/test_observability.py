"""Logs and metrics of the real service: correct across workers, and without any key or text of a caller."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.models import RetentionAction
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.retention import RetentionPolicies
from chat_service.repository.tenants import Tenants
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn
from tests.numbering import numbering
from tests.telemetry.collector import EXPORTER
from tests.telemetry.test_trace_context import TRACE, VALID
from tests.wait import wait_until
from tests.workers import workers_of

CANARY_KEY = "chat_canary-key-that-is-nowhere"
CANARY = "canary-text-that-is-nowhere"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def service(mongod: EmbeddedMongod, database: Database, output: Path) -> Iterator[ForkedGunicorn]:
    """Run the service with two workers; its output goes to `output`."""
    del database  # emptied
    with output.open("wb") as sink, ForkedGunicorn(mongod.uri, free_port(), output=sink) as gunicorn:
        yield gunicorn


@pytest.fixture
def access(live) -> TenantAccess:
    return live[1]()


def lines(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.read_text().splitlines()]


def lines_of(output: Path, request_id: str) -> list[dict[str, object]]:
    """Return the lines of a request; wait for them, because they may be written just after its answer."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        matching = [line for line in lines(output) if line.get("request_id") == request_id]
        if matching:
            return matching
        time.sleep(0.02)
    return []


def send(service: ForkedGunicorn, access: TenantAccess, method: str, path: str, **kwargs: object):
    headers = {**access.headers, **kwargs.pop("headers", {})}
    return requests.request(method, f"http://127.0.0.1:{service.port}{path}", headers=headers, timeout=30, **kwargs)


def test_one_line_for_each_request(service, access, output) -> None:
    """The line has tenant, key, method, route (not the path), status, cost, and the trace of the caller."""
    chat_id = send(service, access, "POST", CHATS, json={}).json()["id"]
    answer = send(service, access, "DELETE", f"{CHATS}/{chat_id}", headers={"traceparent": VALID})
    (line,) = lines_of(output, answer.headers["X-Request-ID"])
    assert 0 < line.pop("duration_ms") < 30_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line.pop("database_commands") in {
        5,
        6,
        7,
    }  # in its first request, a process also looks up the key and the primary
    assert line == {
        "level": "info",
        "logger": "chat_service.requests",
        "event": "request",
        "request_id": answer.headers["X-Request-ID"],
        "trace_id": TRACE,
        "tenant_id": access.tenant_id,
        "key_id": access.key_id,
        "method": "DELETE",
        "route": "/api/v1/chats/<chat_id>",
        "status": 200,
    }


def test_nothing_that_is_not_ours_is_logged(service, access, output) -> None:
    """The log has no key, content, title, query or path of a caller, for requests that are right, wrong or broken."""
    body = {"content": CANARY, "metadata": {CANARY: CANARY}}
    chat_id = send(service, access, "POST", CHATS, json={"title": CANARY}).json()["id"]
    send(service, access, "POST", f"{CHATS}/{chat_id}/messages", json=body)
    send(service, access, "POST", f"{CHATS}/{chat_id}/messages", json={**body, CANARY: 1})
    send(service, access, "POST", f"{CHATS}/{chat_id}/messages", data="{" + CANARY)
    send(service, access, "GET", f"{CHATS}/{CANARY}?cursor={CANARY}&{CANARY}=1")
    send(service, access, "GET", f"/{CANARY}")
    send(service, TenantAccess("t", CANARY_KEY, "k"), "GET", CHATS)
    send(service, access, "GET", CHATS, headers={"X-Request-ID": f"{CANARY} {CANARY}"})
    send(service, access, "DELETE", f"{CHATS}/{chat_id}", headers={"Idempotency-Key": f"{CANARY} {CANARY}"})
    answer = send(service, access, "GET", f"{CHATS}/{chat_id}/export?format=markdown")
    assert lines_of(output, answer.headers["X-Request-ID"])
    log = output.read_text()
    for secret in (CANARY, CANARY_KEY, access.key):
        assert secret not in log
    assert len(lines(output)) >= 10


def scrape(service: ForkedGunicorn) -> dict[str, float]:
    """Return the value of each metric, by name and labels."""
    text = requests.get(f"http://127.0.0.1:{service.port}/metrics", timeout=30).text
    return {name: float(value) for name, value in re.findall(r"^([^#\s]+) ([0-9.e+-]+)$", text, re.MULTILINE)}


def test_the_numbers_of_all_workers_add_up(service, access) -> None:
    """The sums are still right after a worker was killed and replaced."""
    for _ in range(20):
        # Each request has its own connection, so that both workers serve some.
        chat_id = send(service, access, "POST", CHATS, json={}).json()["id"]
        assert send(service, access, "DELETE", f"{CHATS}/{chat_id}").status_code == 200
    assert send(service, access, "DELETE", f"{CHATS}/{chat_id}").status_code == 404
    before = scrape(service)
    assert before['chat_service_deletes_total{outcome="deleted"}'] == 20
    assert before['chat_service_deletes_total{outcome="not_found"}'] == 1
    label = 'method="DELETE",route="/api/v1/chats/<chat_id>",status="200"'
    assert before[f"chat_service_request_duration_seconds_count{{{label}}}"] == 20
    victim, *others = workers_of(service)
    assert others
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{victim}").exists(), 20)
    after = scrape(service)
    assert after['chat_service_deletes_total{outcome="deleted"}'] == 20
    wait_until(lambda: scrape(service)["chat_service_workers_died_total"] == 1)


def test_how_far_the_log_is_behind_is_a_metric(service, database) -> None:
    """Each scrape reads it; before a sequencer has ever run, there is no such metric."""
    assert "chat_service_log_behind_seconds" not in scrape(service)
    with numbering(database):
        assert 0 <= scrape(service)["chat_service_log_behind_seconds"] < 30
    database.log_position.update_one({}, {"$set": {"up_to": database.now() - timedelta(hours=1)}})
    assert scrape(service)["chat_service_log_behind_seconds"] > 3_000


def test_what_retention_owes_is_a_metric(service, database) -> None:
    """A scrape reads it, but at most once a minute in each process."""
    name = "chat_service_retention_overdue_chats"
    Tenants(database).create("t", "tenant")
    chat_id = Chats(database).create("tenant", None, {}).id
    policies = RetentionPolicies(database, Deletions(database))
    policies.put("tenant", 10, RetentionAction.DELETE, 100, "key")
    long_ago = database.now() - timedelta(days=20)
    database.chats.update_one({"_id.chat_id": chat_id}, {"$set": {"updated_at": long_ago}})
    database.tenants.update_one({}, {"$set": {"retention.active_from": long_ago}})
    wait_until(lambda: scrape(service).get(name) == 1, 90)


def test_metrics_can_be_closed(mongod: EmbeddedMongod, output: Path) -> None:
    """With METRICS=off, /metrics is a 404 in the format that all errors have."""
    with (
        output.open("wb") as sink,
        ForkedGunicorn(mongod.uri, free_port(), output=sink, METRICS="off", WEB_CONCURRENCY="1") as service,
    ):
        answer = requests.get(f"http://127.0.0.1:{service.port}/metrics", timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_without_traces_nothing_of_them_is_loaded(service, access, output) -> None:
    """No worker has mapped the exporter; a request whose caller has no trace has no trace_id in the log."""
    answer = send(service, access, "GET", CHATS)
    assert "trace_id" not in lines_of(output, answer.headers["X-Request-ID"])[0]
    for pid in workers_of(service):
        assert EXPORTER not in Path(f"/proc/{pid}/maps").read_text()


def test_healthz_tells_version_and_commit(service) -> None:
    """/healthz says which code runs."""
    health = requests.get(f"http://127.0.0.1:{service.port}/healthz", timeout=30).json()
    assert health["status"] == "ok"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", health["version"])
    assert set(health) == {"status", "version", "commit"}
