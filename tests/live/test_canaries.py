"""Words that must not be anywhere: what callers say and their keys, looked for in everything that is written down."""

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


class Place(NamedTuple):
    """A whole service of its own, and where its processes write."""

    url: str
    key: str
    client: pymongo.MongoClient[dict[str, Any]]
    logs: dict[str, Path]
    collector: Collector
    end: Callable[[], None]
    """Ends the service and its worker, which send the last of their traces then."""

    def send(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        headers = {"X-API-Key": self.key, **kwargs.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=30, **kwargs)

    def call_everything_slow(self, **more: float) -> None:
        """Have mongod take every operation for slow; which share of them it logs is left as it was."""
        self.client.chat_service.command({"profile": 0, "slowms": -1, **more})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """gunicorn, a purge worker and mongod, each with its output in a file; every chat of any messages is purged."""
    logs = {name: tmp_path / f"{name}.log" for name in ("gunicorn", "worker")}
    with (
        EmbeddedMongod(tmp_path / "mongod", parameters=("enableTestCommands=1",)) as mongod,
        pymongo.MongoClient(mongod.uri) as client,
        Collector() as collector,
        logs["gunicorn"].open("wb") as said,
        logs["worker"].open("wb") as worked,
    ):
        database = Database(mongod.uri)
        database.prepare()
        key, _ = ApiKeys(database).create(Tenants(database).create("canary").id, "test", Scope)
        database.close()
        hooks = {"WEBHOOK_SECRET_KEY": new_key(), "WEBHOOK_PRIVATE_NETWORKS": "on", **collector.settings}
        hooks["OTEL_BSP_SCHEDULE_DELAY"] = str(10**6)
        told = {**hooks, "DELETE_INLINE_LIMIT": "0"}
        with ForkedGunicorn(mongod.uri, free_port(), output=said, folder=None, **told) as running:
            worker = start("flask", "--app", "wsgi", "jobs", "run", output=worked, MONGODB_URI=mongod.uri, **hooks)

            def end() -> None:
                stop(worker, 10)
                running.stop()

            try:
                url = f"http://127.0.0.1:{running.port}"
                yield Place(url, key, client, {**logs, "mongod": mongod.log}, collector, end)
            finally:
                end()


def say_it_everywhere(place: Place) -> list[requests.Response]:
    """Put the canaries wherever a caller can; return the answers in which they may not come back."""
    message = {"content": TEXT, "sender_id": TEXT, "metadata": {TEXT: TEXT}}
    chat_id = place.send("POST", CHATS, json={"title": TEXT, "metadata": {TEXT: TEXT}}).json()["id"]
    chat = f"{CHATS}/{chat_id}"
    assert place.send("POST", f"{chat}/messages", json={"messages": [message] * 3}).status_code == 201
    assert place.send("PATCH", f"{chat}/messages/1", json={"content": f"{TEXT}, edited"}).status_code == 200
    assert place.send("PATCH", chat, json={"title": f"{TEXT}, edited"}).status_code == 200
    export = place.send("GET", f"{chat}/export?format=ndjson").content
    ndjson = {"Content-Type": "application/x-ndjson"}
    assert place.send("POST", f"{CHATS}/import", data=export, headers=ndjson).status_code == 201
    failpoint = FailPoint(place.client)
    failpoint.arm("insert", errorCode=1)
    broken = place.send("POST", f"{chat}/messages", json=message)
    failpoint.disarm()
    assert broken.status_code == 500
    refused = [
        broken,
        place.send("POST", f"{chat}/messages", json={**message, TEXT: 1, "role": TEXT}),
        place.send("POST", f"{chat}/messages", data='{"' + TEXT, headers={"Content-Type": "application/json"}),
        place.send("POST", f"{CHATS}/import", data=export[:-9], headers=ndjson),
        place.send("GET", f"{chat}/messages?cursor={TEXT}"),
        place.send("GET", f"{CHATS}/{TEXT}"),
        place.send("GET", CHATS, headers={"X-API-Key": WRONG_KEY}),
        place.send("DELETE", chat, headers={"If-Match": f'"{TEXT}"', "traceparent": TEXT}),
        place.send("DELETE", f"{chat}/{TEXT}", headers={"traceparent": VALID, "tracestate": f"vendor={TEXT}"}),
        place.send("DELETE", chat, headers={"Idempotency-Key": f"{TEXT} {TEXT}"}),
    ]
    assert all(answer.status_code >= 400 for answer in refused)
    assert place.send("DELETE", chat).status_code == 200
    receipt = f"/api/v1/deletions/{chat_id}"
    wait_until(lambda: place.send("GET", receipt).json()["purge"]["state"] == "complete", PURGED_SECONDS, every=0.1)
    gone = place.send("GET", chat)
    paths = ("/api/v1/deletions", "/api/v1/log?limit=1000", "/metrics", "/healthz")
    return [*refused, gone, *govern(place, message), *(place.send("GET", path) for path in paths)]


def govern(place: Place, message: dict[str, Any]) -> list[requests.Response]:
    """Hold a chat, erase whoever said something in it, and have it told; return all that the service says of it."""
    chat_id = place.send("POST", CHATS, json={"title": TEXT}).json()["id"]
    place.send("POST", f"{CHATS}/{chat_id}/messages", json=message)
    with Receiver() as receiver:
        webhook = place.send("POST", "/api/v1/webhooks", json={"url": receiver.url}).json()
        hold = place.send("POST", "/api/v1/holds", json={"name": "n", "chat_ids": [chat_id]}).json()
        refused = place.send("DELETE", f"{CHATS}/{chat_id}")
        released = place.send("POST", f"/api/v1/holds/{hold['id']}/release")
        other = place.send("POST", CHATS, json={}).json()["id"]
        place.send("POST", f"{CHATS}/{other}/messages", json=message)
        erasure = place.send("POST", "/api/v1/erasures", json={"sender_id": TEXT, "mode": "redact"})
        receiver.wait_for(4)
        assert TEXT not in str([one.body for one in receiver.messages])
    path = f"/api/v1/webhooks/{webhook['id']}"
    lists = ("/api/v1/holds", "/api/v1/erasures", erasure.headers["Location"], path, f"{path}/deliveries")
    return [refused, released, erasure, *(place.send("GET", one) for one in lists)]


def test_no_canary_is_found(place: Place) -> None:
    """Not in any log, also where mongod takes everything for slow, nor in errors, receipts, metrics and traces."""
    place.call_everything_slow()
    answers = say_it_everywhere(place)
    place.end()
    written = {name: path.read_text(errors="replace") for name, path in place.logs.items()}
    written["spans"] = b"".join(place.collector.bodies).decode(errors="replace")
    written |= {f"{answer.request.method} {answer.url}": answer.text for answer in answers}
    for secret in (TEXT, place.key, WRONG_KEY):
        # The unknown field of a wrong request is named to whoever sent it: that is what they have to change.
        hits = [name for name, text in written.items() if secret in text.replace(f'"{TEXT}": ["Unknown field."]', "")]
        assert hits == []
    assert len(written["gunicorn"]) > 1_000
    assert {"POST", "insert messages", "DELETE /api/v1/chats/<chat_id>"} <= {
        span.name for span in place.collector.spans
    }
    assert len(written["mongod"]) > 1_000


def test_the_search_would_find_them(place: Place) -> None:
    """With mongod's slow log on, as it is by default, an edit is quoted there: docs/operations.md says what to set."""
    place.call_everything_slow(sampleRate=1)
    say_it_everywhere(place)
    assert f"{TEXT}, edited" in place.logs["mongod"].read_text(errors="replace")
