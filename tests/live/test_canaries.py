"""Search everything that the service writes for canaries: texts and keys of callers, which must not be there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pymongo
import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port, stop
from chat_service.models import Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.sealing import new_key
from chat_service.repository.tenants import Tenants
from tests.client import CHATS
from tests.failpoint import FailPoint
from tests.forked import ForkedGunicorn, start
from tests.telemetry.collector import Collector
from tests.telemetry.test_trace_context import VALID
from tests.wait import wait_until
from tests.webhooks.receiver import Receiver

TEXT = "canary-words-of-a-caller"
WRONG_KEY = "chat_canary-key-of-nobody"

PURGED_SECONDS = 15


class Deployment(NamedTuple):
    """A complete service with its own database, and the files to which its processes write."""

    url: str
    key: str
    client: pymongo.MongoClient[dict[str, Any]]
    logs: dict[str, Path]
    collector: Collector
    end: Callable[[], None]
    """Stops the service and its worker, which then send their last traces."""

    def send(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        headers = {"X-API-Key": self.key, **kwargs.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=30, **kwargs)

    def treat_everything_as_slow(self, **options: float) -> None:
        """Have mongod treat every operation as slow; the share that it logs stays, unless an option sets it."""
        self.client.chat_service.command({"profile": 0, "slowms": -1, **options})


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Run gunicorn, a purge worker and mongod, each with its output in a file; purges remove all deleted messages."""
    logs = {name: tmp_path / f"{name}.log" for name in ("gunicorn", "worker")}
    with (
        EmbeddedMongod(tmp_path / "mongod", parameters=("enableTestCommands=1",)) as mongod,
        pymongo.MongoClient(mongod.uri) as client,
        Collector() as collector,
        logs["gunicorn"].open("wb") as gunicorn_output,
        logs["worker"].open("wb") as worker_output,
    ):
        database = Database(mongod.uri)
        database.prepare()
        key, _ = ApiKeys(database).create(Tenants(database).create("canary").id, "test", Scope)
        database.close()
        settings = {"WEBHOOK_SECRET_KEY": new_key(), "WEBHOOK_PRIVATE_NETWORKS": "on", **collector.settings}
        settings["OTEL_BSP_SCHEDULE_DELAY"] = str(10**6)
        gunicorn_settings = {**settings, "DELETE_INLINE_LIMIT": "0"}
        with ForkedGunicorn(
            mongod.uri, free_port(), output=gunicorn_output, folder=None, **gunicorn_settings
        ) as gunicorn:
            worker = start(
                "flask", "--app", "wsgi", "jobs", "run", output=worker_output, MONGODB_URI=mongod.uri, **settings
            )

            def end() -> None:
                stop(worker, 10)
                gunicorn.stop()

            try:
                url = f"http://127.0.0.1:{gunicorn.port}"
                yield Deployment(url, key, client, {**logs, "mongod": mongod.log}, collector, end)
            finally:
                end()


def send_canaries_everywhere(deployment: Deployment) -> list[requests.Response]:
    """Put the canaries wherever a caller can; return the answers, none of which may repeat them."""
    message = {"content": TEXT, "sender_id": TEXT, "metadata": {TEXT: TEXT}}
    chat_id = deployment.send("POST", CHATS, json={"title": TEXT, "metadata": {TEXT: TEXT}}).json()["id"]
    chat_path = f"{CHATS}/{chat_id}"
    assert deployment.send("POST", f"{chat_path}/messages", json={"messages": [message] * 3}).status_code == 201
    assert deployment.send("PATCH", f"{chat_path}/messages/1", json={"content": f"{TEXT}, edited"}).status_code == 200
    assert deployment.send("PATCH", chat_path, json={"title": f"{TEXT}, edited"}).status_code == 200
    export = deployment.send("GET", f"{chat_path}/export?format=ndjson").content
    ndjson_headers = {"Content-Type": "application/x-ndjson"}
    assert deployment.send("POST", f"{CHATS}/import", data=export, headers=ndjson_headers).status_code == 201
    failpoint = FailPoint(deployment.client)
    failpoint.arm("insert", errorCode=1)
    failed = deployment.send("POST", f"{chat_path}/messages", json=message)
    failpoint.disarm()
    assert failed.status_code == 500
    refused = [
        failed,
        deployment.send("POST", f"{chat_path}/messages", json={**message, TEXT: 1, "role": TEXT}),
        deployment.send(
            "POST", f"{chat_path}/messages", data='{"' + TEXT, headers={"Content-Type": "application/json"}
        ),
        deployment.send("POST", f"{CHATS}/import", data=export[:-9], headers=ndjson_headers),
        deployment.send("GET", f"{chat_path}/messages?cursor={TEXT}"),
        deployment.send("GET", f"{CHATS}/{TEXT}"),
        deployment.send("GET", CHATS, headers={"X-API-Key": WRONG_KEY}),
        deployment.send("DELETE", chat_path, headers={"If-Match": f'"{TEXT}"', "traceparent": TEXT}),
        deployment.send(
            "DELETE", f"{chat_path}/{TEXT}", headers={"traceparent": VALID, "tracestate": f"vendor={TEXT}"}
        ),
        deployment.send("DELETE", chat_path, headers={"Idempotency-Key": f"{TEXT} {TEXT}"}),
    ]
    assert all(answer.status_code >= 400 for answer in refused)
    assert deployment.send("DELETE", chat_path).status_code == 200
    receipt_path = f"/api/v1/deletions/{chat_id}"
    wait_until(
        lambda: deployment.send("GET", receipt_path).json()["purge"]["state"] == "complete", PURGED_SECONDS, every=0.1
    )
    after_delete = deployment.send("GET", chat_path)
    paths = ("/api/v1/deletions", "/api/v1/log?limit=1000", "/metrics", "/healthz")
    return [*refused, after_delete, *govern(deployment, message), *(deployment.send("GET", path) for path in paths)]


def govern(deployment: Deployment, message: dict[str, Any]) -> list[requests.Response]:
    """Hold and release a chat, erase a sender, and have a webhook notified; return every answer about them."""
    chat_id = deployment.send("POST", CHATS, json={"title": TEXT}).json()["id"]
    deployment.send("POST", f"{CHATS}/{chat_id}/messages", json=message)
    with Receiver() as receiver:
        webhook = deployment.send("POST", "/api/v1/webhooks", json={"url": receiver.url}).json()
        hold = deployment.send("POST", "/api/v1/holds", json={"name": "n", "chat_ids": [chat_id]}).json()
        refused = deployment.send("DELETE", f"{CHATS}/{chat_id}")
        released = deployment.send("POST", f"/api/v1/holds/{hold['id']}/release")
        other_id = deployment.send("POST", CHATS, json={}).json()["id"]
        deployment.send("POST", f"{CHATS}/{other_id}/messages", json=message)
        erasure = deployment.send("POST", "/api/v1/erasures", json={"sender_id": TEXT, "mode": "redact"})
        receiver.wait_for(4)
        assert TEXT not in str([delivery.body for delivery in receiver.messages])
    webhook_path = f"/api/v1/webhooks/{webhook['id']}"
    paths = (
        "/api/v1/holds",
        "/api/v1/erasures",
        erasure.headers["Location"],
        webhook_path,
        f"{webhook_path}/deliveries",
    )
    return [refused, released, erasure, *(deployment.send("GET", path) for path in paths)]


def test_no_canary_is_found(deployment: Deployment) -> None:
    """No log has a canary, even if mongod treats everything as slow, nor has any error, receipt, metric or trace."""
    deployment.treat_everything_as_slow()
    answers = send_canaries_everywhere(deployment)
    deployment.end()
    written = {name: path.read_text(errors="replace") for name, path in deployment.logs.items()}
    written["spans"] = b"".join(deployment.collector.bodies).decode(errors="replace")
    written |= {f"{answer.request.method} {answer.url}": answer.text for answer in answers}
    for secret in (TEXT, deployment.key, WRONG_KEY):
        # The answer to a wrong request names its unknown field, because the sender has to change that.
        hits = [name for name, text in written.items() if secret in text.replace(f'"{TEXT}": ["Unknown field."]', "")]
        assert hits == []
    assert len(written["gunicorn"]) > 1_000
    assert {"POST", "insert messages", "DELETE /api/v1/chats/<chat_id>"} <= {
        span.name for span in deployment.collector.spans
    }
    assert len(written["mongod"]) > 1_000


def test_the_search_would_find_them(deployment: Deployment) -> None:
    """With mongod's slow log on, as by default, mongod quotes an edit there: docs/operations.md says what to set."""
    deployment.treat_everything_as_slow(sampleRate=1)
    send_canaries_everywhere(deployment)
    assert f"{TEXT}, edited" in deployment.logs["mongod"].read_text(errors="replace")
