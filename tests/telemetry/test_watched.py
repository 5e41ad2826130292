"""The log, metrics and traces of a service after a tour of what it does, and the queries of deploy/.

All tests share one service and one worker. Without a Prometheus, no test checks that the queries return something.
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
    """The processes, the tenants that use them, and what is collected from them."""

    service: ForkedGunicorn
    collector: Collector
    database: Database
    outputs: dict[str, Path]
    full_access: TenantAccess
    limited_access: TenantAccess
    """Its rate limit allows one read in a long time."""
    receivers: list[Receiver]
    failpoint: FailPoint
    prometheus: Prometheus | None = None
    answers: dict[str, requests.Response] = field(default_factory=dict)
    """The responses of the tour, by what they show."""

    def send(self, method: str, path: str, access: TenantAccess | None = None, **kwargs: Any) -> requests.Response:
        headers = {**(access or self.full_access).headers, **kwargs.pop("headers", {})}
        return requests.request(method, self.service.url + path, headers=headers, timeout=30, **kwargs)

    def new_chat(self, messages: int = 0) -> str:
        chat_id: str = self.send("POST", "/chats", json={}).json()["id"]
        for _ in range(messages):
            assert self.send("POST", f"/chats/{chat_id}/messages", json={"content": "x"}).status_code == 201
        return chat_id

    def lines(self, process_name: str, **fields: object) -> list[dict[str, Any]]:
        """Return the log lines of a process that have these fields."""
        lines = [json.loads(line) for line in self.outputs[process_name].read_text().splitlines()]
        return [line for line in lines if fields.items() <= line.items()]

    def line_of(self, answer: requests.Response) -> dict[str, Any]:
        """Return the log line of a request, which may come just after its answer."""
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
        """Return a span's children in the order in which they ended; all have arrived when their parent has."""
        return self.collector.find(lambda child: child.parent_id == span.id)

    def metrics(self) -> str:
        return requests.get(f"http://127.0.0.1:{self.service.port}/metrics", timeout=30).text

    def value(self, name: str) -> float | None:
        match = re.search(rf"^{name} (.*)$", self.metrics(), re.MULTILINE)
        return float(match[1]) if match else None


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
        settings = {"WEBHOOK_SECRET_KEY": new_key(), "WEBHOOK_PRIVATE_NETWORKS": "on", **collector.settings}
        web_settings = {"WEB_CONCURRENCY": "1", "DELETE_INLINE_LIMIT": str(INLINE_LIMIT)}
        service = ForkedGunicorn(mongod.uri, free_port(), output=web, **settings, **web_settings)
        jobs = start("flask", "--app", "wsgi", "jobs", "run", output=worker, MONGODB_URI=mongod.uri, **settings)
        ends.callback(stop, jobs, 20)
        ends.enter_context(service)
        new_tenant = tenant_maker(real_database)
        access = [new_tenant(*Scope), new_tenant(*Scope)]
        Tenants(real_database).set_limits(access[1].tenant_id, {Scope.READ: RateLimit(0.001, 1)})
        running = Watched(service, collector, real_database, outputs, *access, receivers, failpoint)
        for receiver in receivers:
            assert running.send("POST", "/webhooks", json={"url": receiver.url}).status_code == 201
        if PROGRAM:
            target = f"127.0.0.1:{service.port}"
            running.prometheus = ends.enter_context(Prometheus(project, folder, target))
        yield running


@pytest.fixture(scope="module")
def watched(started: Watched) -> Iterator[Watched]:
    """The service after a tour between two scrapes, with one open connection and one reader of the log's events."""
    tour(started)
    if started.prometheus:
        started.prometheus.wait_for_scrapes(1)
        tour(started)
        started.prometheus.wait_for_scrapes(2)
    url, event_headers = f"{started.service.url}/log", {"Accept": "text/event-stream", **started.full_access.headers}
    with (
        Peer(started.service, started.new_chat(), started.full_access),
        closing(requests.get(url, headers=event_headers, stream=True, timeout=30)),
    ):
        yield started


def tour(watched: Watched) -> None:
    """Send requests that the service serves and requests that it refuses; keep the answers."""
    keep = watched.answers.__setitem__
    chat_id = watched.new_chat(messages=1)
    with Peer(watched.service, chat_id, watched.full_access):
        keep("connected", watched.send("DELETE", f"/chats/{chat_id}"))
    wait_until(lambda: watched.send("DELETE", f"/chats/{chat_id}").status_code == 200)
    chat_id = watched.new_chat(messages=1)
    keep("deleted", watched.send("DELETE", f"/chats/{chat_id}", headers=TRACEPARENT))
    keep("gone", watched.send("DELETE", f"/chats/{chat_id}"))
    keep("staged", watched.send("DELETE", f"/chats/{watched.new_chat(messages=INLINE_LIMIT + 1)}"))
    keep("list", watched.send("GET", "/chats"))
    keep("log", watched.send("GET", "/log"))
    keep("limited", [watched.send("GET", "/chats", watched.limited_access) for _ in range(2)][1])
    watched.failpoint.arm("find", errorCode=13)
    keep("refused", watched.send("GET", "/chats"))
    watched.failpoint.disarm()
    for receiver in watched.receivers:
        receiver.wait_for(1)


def test_the_tour_has_shown_what_it_should(watched: Watched) -> None:
    """Else the tests below would prove less than they seem to."""
    expected = {"connected": 409, "deleted": 200, "gone": 404, "staged": 200, "list": 200, "log": 200}
    expected |= {"limited": 429, "refused": 503}
    assert {name: answer.status_code for name, answer in watched.answers.items()} == expected


def test_each_process_says_which_code_it_runs(watched: Watched) -> None:
    """Each writes a log line in the usual form; that of the web process also says where it listens."""
    ((web,), (worker,)) = (watched.lines(name, event="started") for name in watched.outputs)
    web_fields = {"process": "web", "address": f"http://127.0.0.1:{watched.service.port}", "workers": 1}
    health = requests.get(f"http://127.0.0.1:{watched.service.port}/healthz", timeout=30).json()
    fields = {"version": __version__, "commit": health["commit"], "level": "info", "logger": "chat_service.processes"}
    assert web_fields.items() | fields.items() <= web.items()
    assert {"process": "worker", **fields}.items() <= worker.items()


def test_the_page_lists_what_is_served(watched: Watched, project: Path) -> None:
    """Each metric has a row in docs/observability.md, and each row a metric."""
    page = (project / "docs/observability.md").read_text().split("## Metrics", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^\| `(chat_service_\w+)", page, re.MULTILINE)
    served = {re.sub(r"_(bucket|count|sum|created)$", "", series.name) for series in series_of(watched.metrics())}
    assert sorted(listed) == sorted(served)


def test_queries_ask_for_what_is_served(watched: Watched, project: Path) -> None:
    """Each selector of a dashboard or rule matches a series, by its name, its labels and their values."""
    served = series_of(watched.metrics())
    all_queries = queries(project)
    assert len(all_queries) > 40
    assert {query: missing for query in all_queries if (missing := unserved(query.text, served))} == {}


@pytest.mark.skipif(PROGRAM is None, reason="there is no prometheus on this machine")
def test_each_query_returns_a_series(watched: Watched, project: Path) -> None:
    """The real Prometheus returns a number for each query, and not only NaN, which is 0 divided by 0."""
    assert watched.prometheus

    def unanswered() -> list[Query]:
        return [query for query in queries(project) if all(map(math.isnan, watched.prometheus.ask(query.text)))]

    with suppress(AssertionError):  # a late scrape makes every series stale until the next one
        wait_until(lambda: not unanswered(), 20, every=1)
    assert unanswered() == []
    names = {rule["alert"] for rule in rules(project)}
    wait_until(lambda: set(watched.prometheus.health_of_rules()) == {(name, "ok") for name in names})


def test_a_rule_says_what_to_do(project: Path) -> None:
    """Its summary is a sentence, and its runbook is a heading that exists."""
    for rule in rules(project):
        summary, runbook = rule["annotations"]["summary"], rule["annotations"]["runbook"]
        assert summary[-1] in ".?", rule
        assert rule["labels"]["severity"] in {"page", "ticket"}
        path, _, anchor = runbook.partition("#")
        headings = re.findall(r"^#+ (.*)$", (project / path).read_text(), re.MULTILINE)
        assert anchor in set(map(slug, headings)), runbook


def test_a_panel_says_what_to_do(project: Path) -> None:
    """It also has a unit, and queries the data source that is chosen in the dashboard."""
    dashboard = json.loads((project / "deploy/grafana/chat-service.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert {part["datasource"]["uid"] for part in (panel, *panel["targets"])} == {"${datasource}"}


def test_what_the_database_says_is_true(watched: Watched) -> None:
    """One worker runs, and one of two webhooks gets refusals."""
    assert watched.value("chat_service_log_writers") == 1
    assert watched.value("chat_service_webhooks_enabled") == 2
    wait_until(lambda: watched.value("chat_service_webhooks_failing") == 1)
    wait_until(lambda: watched.value("chat_service_purges_open") == 0)
    assert watched.value("chat_service_connections") == watched.value("chat_service_log_listeners") == 1


def test_a_delete_is_traced_down_to_its_commands(watched: Watched) -> None:
    """The caller's trace has the request, the transaction, and the five commands."""
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
    service_attributes = {"service.name": "chat-service", "service.version": __version__}
    assert service_attributes.items() <= request.resource.items()


def test_a_trace_is_named_in_the_log(watched: Watched) -> None:
    """The log line has the caller's trace id, or that of the service's own span."""
    assert watched.line_of(watched.answers["deleted"])["trace_id"] == TRACE
    own_trace_id = watched.line_of(watched.answers["gone"])["trace_id"]
    assert re.fullmatch("[0-9a-f]{32}", own_trace_id)
    assert own_trace_id != TRACE


def test_a_no_is_no_failure(watched: Watched) -> None:
    """404 and 409 are no failures; 503 is one, and so is its cause. A span has the error's name, never its text."""
    for name in ("connected", "gone"):
        span = watched.span_of(watched.answers[name])
        assert not any(each.has_failed for each in (span, *watched.children_of(span)))
    span = watched.span_of(watched.answers["refused"])
    assert (span.has_failed, span.attributes["error.type"]) == (True, "database_unavailable")
    (command, *_) = (child for child in watched.children_of(span) if child.has_failed)
    assert (command.name, command.attributes["error.type"]) == ("find chats", "Unauthorized")


@pytest.mark.parametrize("told", ["", "00-x", f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", "é" * 55])
def test_a_wrong_traceparent_is_ignored(watched: Watched, told: str) -> None:
    """The request is served, in a trace of its own."""
    answer = watched.send("GET", "/chats", headers={"traceparent": told.encode()})
    assert answer.status_code == 200
    span = watched.span_of(answer)
    assert span.parent_id == ""
    assert span.trace_id != TRACE


def test_who_does_not_sample_is_not_sampled(watched: Watched) -> None:
    """The service follows the caller's decision; the log has the caller's trace id nevertheless."""
    trace_id = "1" * 32
    answer = watched.send("GET", "/chats", headers={"traceparent": f"00-{trace_id}-{PARENT}-00"})
    assert watched.line_of(answer)["trace_id"] == trace_id
    watched.span_of(watched.send("GET", "/chats"))  # a later span
    assert watched.collector.find(lambda span: span.trace_id == trace_id) == []


def test_deletes_that_share_a_transaction_are_linked(watched: Watched) -> None:
    """The leader's group commit links to its followers' requests; each of these has a span that links back."""

    def is_group_commit(span: Span) -> bool:
        return span.name == "group commit"

    def delete_together() -> list[Span]:
        chat_ids = [watched.new_chat() for _ in range(12)]
        with ThreadPoolExecutor(6) as pool:
            statuses = pool.map(lambda chat_id: watched.send("DELETE", f"/chats/{chat_id}").status_code, chat_ids)
            assert set(statuses) == {200}
        return watched.collector.find(is_group_commit)

    wait_until(delete_together)
    group_commit = watched.collector.wait_for(is_group_commit)
    followers = [
        watched.collector.wait_for(lambda span, link=link: span.id == link and span.kind == "SERVER")
        for link in group_commit.links
    ]
    assert followers
    for follower in followers:
        assert follower.trace_id != group_commit.trace_id
        (wait_span,) = (span for span in watched.children_of(follower) if span.name == "carried by a group commit")
        assert wait_span.links == (group_commit.id,)
    assert "transaction" in {span.name for span in watched.children_of(group_commit)}


def test_a_webhook_carries_the_trace_of_its_try_on(watched: Watched) -> None:
    """Each try begins a trace of its own in the worker; the span of a refused try has failed."""
    accepted, refused = (receiver.messages[0] for receiver in watched.receivers)
    for message, error in (accepted, None), (refused, "500"):
        _, trace_id, span_id, flags = message.headers["traceparent"].split("-")
        assert int(flags, 16) & 1, "sampled"
        span = watched.collector.wait_for(lambda span, span_id=span_id: span.id == span_id)
        assert (span.trace_id, span.parent_id, span.name, span.kind) == (trace_id, "", "POST", "CLIENT")
        assert span.attributes["server.address"] == "127.0.0.1"
        assert (span.has_failed, span.attributes.get("error.type")) == (error is not None, error)


def test_only_what_is_asked_for_has_spans(watched: Watched) -> None:
    """Probes have none, and neither has what the jobs do in between."""
    watched.metrics()
    watched.span_of(watched.send("GET", "/chats"))  # a later span
    roots = watched.collector.find(lambda span: not span.parent_id)
    assert {span.name for span in roots if "/api/v1/" not in span.name} == {"POST"}


def test_no_span_says_whose_chat_it_is(watched: Watched) -> None:
    """No id of a chat, tenant or key is in what was sent to the collector."""
    sent = b"".join(watched.collector.bodies)
    log_line = watched.line_of(watched.answers["deleted"])
    chat_id = watched.answers["deleted"].request.path_url.rpartition("/")[2]
    for secret in (chat_id, log_line["tenant_id"], log_line["key_id"], watched.full_access.key):
        assert secret.encode() not in sent


def test_the_exporter_is_loaded(watched: Watched) -> None:
    """test_observability.py relies on it: there, the exporter must not be loaded unless traces are on."""
    (pid,) = workers_of(watched.service)
    assert EXPORTER in Path(f"/proc/{pid}/maps").read_text()
