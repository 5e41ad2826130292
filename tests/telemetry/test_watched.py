"""A service that is watched, after a tour of what it does: its log, its metrics and what deploy/ asks, its traces.

One service and one worker for all of it. Where there is no Prometheus, that queries return something is not seen.
"""

import json
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from chat_service import __version__
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port, stop
from chat_service.models import RateLimit, Scope
from chat_service.page.guides import slug
from chat_service.repository.database import Database
from chat_service.repository.sealing import new_key
from chat_service.repository.tenants import Tenants
from tests.client import TenantAccess
from tests.conftest import empty, tenant_maker
from tests.failpoint import FailPoint
from tests.forked import ForkedGunicorn, start
from tests.realtime.sockets import Peer
from tests.telemetry.collector import EXPORTER, Collector, Span
from tests.telemetry.prometheus import PROGRAM, Prometheus, Query, queries, rules, series_of, unserved
from tests.wait import wait_until
from tests.webhooks.receiver import Receiver, status
from tests.workers import workers_of

INLINE_LIMIT = 2
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}

COMMANDS_OF_A_DELETE = [
    *("find presence", "findAndModify chats", "delete messages", "insert deletions", "commitTransaction admin"),
]


@dataclass
class Watched:
    """The processes, who uses them, and what is heard of them."""

    service: ForkedGunicorn
    collector: Collector
    database: Database
    outputs: dict[str, Path]
    all_may: TenantAccess
    seldom: TenantAccess
    """May read once in a long time."""
    receivers: list[Receiver]
    failpoint: FailPoint
    prometheus: Prometheus | None = None
    answers: dict[str, requests.Response] = field(default_factory=dict)
    """Of the tour, by what they show."""

    def send(self, method: str, path: str, access: TenantAccess | None = None, **kwargs: Any) -> requests.Response:
        headers = {**(access or self.all_may).headers, **kwargs.pop("headers", {})}
        return requests.request(method, self.service.url + path, headers=headers, timeout=30, **kwargs)

    def new_chat(self, messages: int = 0) -> str:
        chat_id: str = self.send("POST", "/chats", json={}).json()["id"]
        for _ in range(messages):
            assert self.send("POST", f"/chats/{chat_id}/messages", json={"content": "x"}).status_code == 201
        return chat_id

    def lines(self, of: str, **fields: object) -> list[dict[str, Any]]:
        """The lines of a process that have these fields."""
        found = [json.loads(line) for line in self.outputs[of].read_text().splitlines()]
        return [line for line in found if fields.items() <= line.items()]

    def line_of(self, answer: requests.Response) -> dict[str, Any]:
        """The line of a request, which may come just after its answer."""
        wait_until(lambda: self.lines("web", request_id=answer.headers["X-Request-ID"]))
        return self.lines("web", request_id=answer.headers["X-Request-ID"])[0]

    def span_of(self, answer: requests.Response) -> Span:
        trace_id = self.line_of(answer)["trace_id"]
        return self.collector.wait_for(
            lambda span: (
                span.trace_id == trace_id
                and span.kind == "SERVER"
                and span.attributes["http.response.status_code"] == answer.status_code
            )
        )

    def children_of(self, span: Span) -> list[Span]:
        """In the order in which they ended; all of them are there when that of their parent is."""
        return self.collector.find(lambda one: one.parent_id == span.id)

    def metrics(self) -> str:
        return requests.get(f"http://127.0.0.1:{self.service.port}/metrics", timeout=30).text

    def value(self, name: str) -> float | None:
        found = re.search(rf"^{name} (.*)$", self.metrics(), re.MULTILINE)
        return float(found[1]) if found else None


@pytest.fixture(scope="module")
def started(
    mongod: EmbeddedMongod, real_database: Database, control, tmp_path_factory, project: Path
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    empty(real_database)
    outputs = {name: folder / f"{name}.log" for name in ("web", "worker")}
    with ExitStack() as ends:
        collector, failpoint = ends.enter_context(Collector()), FailPoint(control)
        receivers = [ends.enter_context(Receiver()), ends.enter_context(Receiver(status(500)))]
        web, worker = (ends.enter_context(path.open("wb")) for path in outputs.values())
        told = {"WEBHOOK_SECRET_KEY": new_key(), "WEBHOOK_PRIVATE_NETWORKS": "on", **collector.settings}
        one = {"WEB_CONCURRENCY": "1", "DELETE_INLINE_LIMIT": str(INLINE_LIMIT)}
        service = ForkedGunicorn(mongod.uri, free_port(), output=web, **told, **one)
        jobs = start("flask", "--app", "wsgi", "jobs", "run", output=worker, MONGODB_URI=mongod.uri, **told)
        ends.callback(stop, jobs, 20)
        ends.enter_context(service)
        make = tenant_maker(real_database)
        access = [make(*Scope), make(*Scope)]
        Tenants(real_database).set_limits(access[1].tenant_id, {Scope.READ: RateLimit(0.001, 1)})
        found = Watched(service, collector, real_database, outputs, *access, receivers, failpoint)
        for receiver in receivers:
            assert found.send("POST", "/webhooks", json={"url": receiver.url}).status_code == 201
        if PROGRAM:
            target = f"127.0.0.1:{service.port}"
            found.prometheus = ends.enter_context(Prometheus(project, folder, target))
        yield found


@pytest.fixture(scope="module")
def watched(started: Watched) -> Iterator[Watched]:
    """After the tour, with somebody connected; as metrics go, it happened between two scrapes."""
    tour(started)
    if started.prometheus:
        started.prometheus.wait_for_scrapes(1)
        tour(started)
        started.prometheus.wait_for_scrapes(2)
    url, events = f"{started.service.url}/log", {"Accept": "text/event-stream", **started.all_may.headers}
    with (
        Peer(started.service, started.new_chat(), started.all_may),
        closing(requests.get(url, headers=events, stream=True, timeout=30)),
    ):
        yield started


def tour(watched: Watched) -> None:
    """Have the service do what it does, and refuse what it refuses."""
    keep = watched.answers.__setitem__
    chat_id = watched.new_chat(messages=1)
    with Peer(watched.service, chat_id, watched.all_may):
        keep("connected", watched.send("DELETE", f"/chats/{chat_id}"))
    wait_until(lambda: watched.send("DELETE", f"/chats/{chat_id}").status_code == 200)
    chat_id = watched.new_chat(messages=1)
    keep("deleted", watched.send("DELETE", f"/chats/{chat_id}", headers=TRACEPARENT))
    keep("gone", watched.send("DELETE", f"/chats/{chat_id}"))
    keep("staged", watched.send("DELETE", f"/chats/{watched.new_chat(messages=INLINE_LIMIT + 1)}"))
    keep("list", watched.send("GET", "/chats"))
    keep("log", watched.send("GET", "/log"))
    keep("limited", [watched.send("GET", "/chats", watched.seldom) for _ in range(2)][1])
    watched.failpoint.arm("find", errorCode=13)
    keep("refused", watched.send("GET", "/chats"))
    watched.failpoint.disarm()
    for receiver in watched.receivers:
        receiver.wait_for(1)


def test_the_tour_has_shown_what_it_should(watched: Watched) -> None:
    """Else the tests below would say less than they seem to."""
    expected = {"connected": 409, "deleted": 200, "gone": 404, "staged": 200, "list": 200, "log": 200}
    expected |= {"limited": 429, "refused": 503}
    assert {name: answer.status_code for name, answer in watched.answers.items()} == expected


def test_each_process_says_which_code_it_runs(watched: Watched) -> None:
    """In a line of its own, with where it listens, in the form of all others."""
    ((web,), (worker,)) = (watched.lines(of, event="started") for of in watched.outputs)
    own = {"process": "web", "address": f"http://127.0.0.1:{watched.service.port}", "workers": 1}
    health = requests.get(f"http://127.0.0.1:{watched.service.port}/healthz", timeout=30).json()
    told = {"version": __version__, "commit": health["commit"], "level": "info", "logger": "chat_service.processes"}
    assert own.items() | told.items() <= web.items()
    assert {"process": "worker", **told}.items() <= worker.items()


def test_the_page_lists_what_is_served(watched: Watched, project: Path) -> None:
    """Each metric has a row in docs/observability.md, and each row a metric."""
    page = (project / "docs/observability.md").read_text().split("## Metrics", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^\| `(chat_service_\w+)", page, re.MULTILINE)
    served = {re.sub(r"_(bucket|count|sum|created)$", "", series.name) for series in series_of(watched.metrics())}
    assert sorted(listed) == sorted(served)


def test_queries_ask_for_what_is_served(watched: Watched, project: Path) -> None:
    """Each selector of a dashboard or rule meets a series, by its name, its labels and their values."""
    served = series_of(watched.metrics())
    found = queries(project)
    assert len(found) > 40
    assert {query: wrong for query in found if (wrong := unserved(query.text, served))} == {}


@pytest.mark.skipif(PROGRAM is None, reason="there is no prometheus on this machine")
def test_each_query_returns_a_series(watched: Watched, project: Path) -> None:
    """Asked of the real Prometheus; with a number in it, and not what comes of dividing nothing by nothing."""
    assert watched.prometheus

    def unanswered() -> list[Query]:
        return [query for query in queries(project) if all(map(math.isnan, watched.prometheus.ask(query.text)))]

    with suppress(AssertionError):  # a scrape that comes too late makes everything stale until the next one
        wait_until(lambda: not unanswered(), 20, every=1)
    assert unanswered() == []
    names = {rule["alert"] for rule in rules(project)}
    wait_until(lambda: set(watched.prometheus.health_of_rules()) == {(name, "ok") for name in names})


def test_a_rule_says_what_to_do(project: Path) -> None:
    """In a sentence, and where there is more."""
    for rule in rules(project):
        summary, runbook = rule["annotations"]["summary"], rule["annotations"]["runbook"]
        assert summary[-1] in ".?", rule
        assert rule["labels"]["severity"] in {"page", "ticket"}
        path, _, anchor = runbook.partition("#")
        headings = re.findall(r"^#+ (.*)$", (project / path).read_text(), re.MULTILINE)
        assert anchor in set(map(slug, headings)), runbook


def test_a_panel_says_what_to_do(project: Path) -> None:
    """And has a unit, and asks the data source that is chosen above."""
    dashboard = json.loads((project / "deploy/grafana/chat-service.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert {one["datasource"]["uid"] for one in (panel, *panel["targets"])} == {"${datasource}"}


def test_what_the_database_says_is_true(watched: Watched) -> None:
    """A worker is there; of two webhooks one is not taken."""
    assert watched.value("chat_service_log_writers") == 1
    assert watched.value("chat_service_webhooks_enabled") == 2
    wait_until(lambda: watched.value("chat_service_webhooks_failing") == 1)
    wait_until(lambda: watched.value("chat_service_purges_open") == 0)
    assert watched.value("chat_service_connections") == watched.value("chat_service_log_listeners") == 1


def test_a_delete_is_traced_down_to_its_commands(watched: Watched) -> None:
    """In its caller's trace: the request, the transaction, and the five commands."""
    request = watched.span_of(watched.answers["deleted"])
    assert (request.name, request.kind) == ("DELETE /api/v1/chats/<chat_id>", "SERVER")
    assert (request.trace_id, request.parent_id) == (TRACE, PARENT)
    assert request.attributes == {
        "http.request.method": "DELETE",
        "http.route": "/api/v1/chats/<chat_id>",
        "http.response.status_code": 200,
        "url.scheme": "http",
    }
    (transaction,) = (span for span in watched.children_of(request) if span.name == "transaction")
    commands = watched.children_of(transaction)
    assert [command.name for command in commands] == COMMANDS_OF_A_DELETE
    assert {command.kind for command in commands} == {"CLIENT"}
    assert commands[2].attributes == {
        "db.system.name": "mongodb",
        "db.namespace": "chat_service",
        "db.operation.name": "delete",
        "db.collection.name": "messages",
        "server.address": "127.0.0.1",
        "server.port": watched.database.client.address[1],
    }
    own = {"service.name": "chat-service", "service.version": __version__}
    assert own.items() <= request.resource.items()


def test_a_trace_is_named_in_the_log(watched: Watched) -> None:
    """The caller's, or that of the service's own span."""
    assert watched.line_of(watched.answers["deleted"])["trace_id"] == TRACE
    own = watched.line_of(watched.answers["gone"])["trace_id"]
    assert re.fullmatch("[0-9a-f]{32}", own)
    assert own != TRACE


def test_a_no_is_no_failure(watched: Watched) -> None:
    """404 and 409 are answers; 503 is a failure, and so is what it came from. By name, and never by text."""
    for name in ("connected", "gone"):
        span = watched.span_of(watched.answers[name])
        assert not any(one.has_failed for one in (span, *watched.children_of(span)))
    span = watched.span_of(watched.answers["refused"])
    assert (span.has_failed, span.attributes["error.type"]) == (True, "database_unavailable")
    (command, *_) = (one for one in watched.children_of(span) if one.has_failed)
    assert (command.name, command.attributes["error.type"]) == ("find chats", "Unauthorized")


@pytest.mark.parametrize("told", ["", "00-x", f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", "é" * 55])
def test_a_wrong_traceparent_is_ignored(watched: Watched, told: str) -> None:
    """The request goes on, in a trace of its own."""
    answer = watched.send("GET", "/chats", headers={"traceparent": told.encode()})
    assert answer.status_code == 200
    span = watched.span_of(answer)
    assert span.parent_id == ""
    assert span.trace_id != TRACE


def test_who_does_not_sample_is_not_sampled(watched: Watched) -> None:
    """The caller's decision holds; its trace is in the log all the same."""
    trace_id = "1" * 32
    answer = watched.send("GET", "/chats", headers={"traceparent": f"00-{trace_id}-{PARENT}-00"})
    assert watched.line_of(answer)["trace_id"] == trace_id
    watched.span_of(watched.send("GET", "/chats"))  # which comes after it
    assert watched.collector.find(lambda span: span.trace_id == trace_id) == []


def test_deletes_that_share_a_transaction_are_linked(watched: Watched) -> None:
    """The step that carries others links to their requests; each of these has a step that links to it."""

    def is_carrier(span: Span) -> bool:
        return span.name == "group commit"

    def crowd() -> list[Span]:
        chat_ids = [watched.new_chat() for _ in range(12)]
        with ThreadPoolExecutor(6) as pool:
            statuses = pool.map(lambda chat_id: watched.send("DELETE", f"/chats/{chat_id}").status_code, chat_ids)
            assert set(statuses) == {200}
        return watched.collector.find(is_carrier)

    wait_until(crowd)
    carrier = watched.collector.wait_for(is_carrier)
    followers = [
        watched.collector.wait_for(lambda span, link=link: span.id == link and span.kind == "SERVER")
        for link in carrier.links
    ]
    assert followers
    for follower in followers:
        assert follower.trace_id != carrier.trace_id
        (wait,) = (span for span in watched.children_of(follower) if span.name == "carried by a group commit")
        assert wait.links == (carrier.id,)
    assert "transaction" in {span.name for span in watched.children_of(carrier)}


def test_a_webhook_carries_the_trace_of_its_try_on(watched: Watched) -> None:
    """Each try begins a trace of its own, in the worker; what is refused has failed."""
    taken, refused = (receiver.messages[0] for receiver in watched.receivers)
    for message, error in (taken, None), (refused, "500"):
        _, trace_id, span_id, flags = message.headers["traceparent"].split("-")
        assert int(flags, 16) & 1, "sampled"
        span = watched.collector.wait_for(lambda span, span_id=span_id: span.id == span_id)
        assert (span.trace_id, span.parent_id, span.name, span.kind) == (trace_id, "", "POST", "CLIENT")
        assert span.attributes["server.address"] == "127.0.0.1"
        assert (span.has_failed, span.attributes.get("error.type")) == (error is not None, error)


def test_only_what_is_asked_for_has_spans(watched: Watched) -> None:
    """Neither probes, nor what jobs do between."""
    watched.metrics()
    watched.span_of(watched.send("GET", "/chats"))  # which comes after it
    roots = watched.collector.find(lambda span: not span.parent_id)
    assert {span.name for span in roots if "/api/v1/" not in span.name} == {"POST"}


def test_no_span_says_whose_chat_it_is(watched: Watched) -> None:
    """No id of a chat, tenant or key is in anything that was sent."""
    sent = b"".join(watched.collector.bodies)
    told = watched.line_of(watched.answers["deleted"])
    chat_id = watched.answers["deleted"].request.path_url.rpartition("/")[2]
    for secret in (chat_id, told["tenant_id"], told["key_id"], watched.all_may.key):
        assert secret.encode() not in sent


def test_the_exporter_is_loaded(watched: Watched) -> None:
    """By which test_observability.py sees that it is not where no traces are asked for."""
    (pid,) = workers_of(watched.service)
    assert EXPORTER in Path(f"/proc/{pid}/maps").read_text()
