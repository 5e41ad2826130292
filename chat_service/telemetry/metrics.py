"""Prometheus metrics, correct under several workers too.

prometheus_client decides when it is first imported whether values are kept in this process or in files that all workers
share: gunicorn.conf.py sets PROMETHEUS_MULTIPROC_DIR before that. Every label has a bounded number of values.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from flask import Blueprint, Flask, Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from chat_service.errors import ChatServiceError
from chat_service.repository.monitor import PoolEvent
from chat_service.telemetry.observation import Answered

blueprint = Blueprint("metrics", __name__)

_registry = CollectorRegistry()

_requests = Histogram(
    "chat_service_request_duration_seconds",
    "Requests answered, by method, route and status, and how long they took.",
    ["method", "route", "status"],
    # From one indexed read to the deadline of a transaction (12 s) and to a router's timeout (30 s).
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 12.5, 30),
    registry=_registry,
)
_deletes = Counter("chat_service_deletes", "Deletes of chats, by outcome.", ["outcome"], registry=_registry)
_unlimited = Counter(
    "chat_service_rate_limits_failed_open",
    "Requests that passed without their rate limit, because the database did not answer in time.",
    registry=_registry,
)
_opened = Counter(
    "chat_service_database_connections_created", "Database connections that were opened.", registry=_registry
)
_closed = Counter(
    "chat_service_database_connections_closed", "Database connections that were closed.", registry=_registry
)
_refused = Counter(
    "chat_service_database_connections_refused",
    "Commands for which no connection became free in time, or none could be opened.",
    registry=_registry,
)
_in_use = Gauge(
    "chat_service_database_connections_in_use",
    "Connections to the database that are checked out now.",
    registry=_registry,
    multiprocess_mode="livesum",
)
_connections = Gauge(
    "chat_service_connections", "WebSockets that are open now.", registry=_registry, multiprocess_mode="livesum"
)
_listeners = Gauge(
    "chat_service_log_listeners",
    "Live streams of the log that are open now.",
    registry=_registry,
    multiprocess_mode="livesum",
)
_info = Gauge(
    "chat_service_info",
    "Always 1; the labels say which version and commit run.",
    ["version", "commit"],
    registry=_registry,
    multiprocess_mode="livemax",
)

_waiting = Gauge(
    "chat_service_requests_waiting",
    "Requests that wait for a thread now.",
    registry=_registry,
    multiprocess_mode="livesum",
)
_deaths = Counter(
    "chat_service_workers_died",
    "Web workers that ended without being asked to, counted by the workers that came after them.",
    registry=_registry,
)

DATABASE_GAUGES = {
    "chat_service_log_writers": "1 while a worker writes the log, else 0.",
    "chat_service_log_behind_seconds": "How many seconds the log is behind what was committed.",
    "chat_service_purges_open": "Purges that are not complete, up to 10,000.",
    "chat_service_purge_messages_left": "Messages that the open purges have left to remove.",
    "chat_service_purge_waiting_seconds": "Time since a worker touched the purge that has waited longest, or 0.",
    "chat_service_webhooks_enabled": "Webhooks that are enabled.",
    "chat_service_webhooks_failing": "Enabled webhooks with a delivery that was tried and has not been accepted yet.",
    "chat_service_webhook_late_seconds": "How long the oldest delivery that no worker has tried is overdue, or 0.",
    "chat_service_retention_overdue_chats": "Chats that were due for retention two days ago, up to 1,000 a tenant.",
}
"""Gauges for which all processes report the same value: a query takes the max of them."""

Question = Callable[[float], Mapping[str, float]]
"""Asks the database for some of these gauges, within so many seconds; a gauge that has no value is left out."""

_QUESTIONS = "chat_service.asked_of_the_database"

ASK_SECONDS = 1.0
"""Seconds for all questions together: a scrape has other numbers, which must not wait for these any longer."""

DELETE_ROUTE = ("DELETE", "/api/v1/chats/<chat_id>")

OUTCOMES = {
    None: "deleted",
    "chat_not_found": "not_found",
    "active_connections": "active_connections",
    "precondition_failed": "precondition_failed",
    "database_unavailable": "unavailable",
    "outcome_unknown": "unknown",
}
"""The problem's code -> the outcome of a delete. A delete that was refused before the chat was read has none."""

# Every outcome is reported from the start, so that a rate counts the first delete of each.
for _outcome in OUTCOMES.values():
    _deletes.labels(_outcome)


def install(app: Flask, version: str, commit: str | None, questions: Sequence[Question]) -> None:
    """Serve `/metrics`, without a key; `questions` read the values of `DATABASE_GAUGES` each time."""
    _info.labels(version, commit or "").set(1)
    app.extensions[_QUESTIONS] = questions
    app.register_blueprint(blueprint)


def observe(answered: Answered) -> None:
    """Count one request."""
    _requests.labels(answered.method, answered.route, str(answered.status)).observe(answered.seconds)
    if (answered.method, answered.route) == DELETE_ROUTE:
        count_delete(answered.code)


def count_delete(code: str | None) -> None:
    """Count the delete of one chat, by the code of the problem it was answered with."""
    if code in OUTCOMES:
        _deletes.labels(OUTCOMES[code]).inc()


def count_connection(*, opened: bool) -> None:
    """Count a WebSocket that was opened, or that has ended."""
    _connections.inc() if opened else _connections.dec()


def count_listener(*, opened: bool) -> None:
    """Count a live stream of the log that was opened, or that has ended."""
    _listeners.inc() if opened else _listeners.dec()


def count_waiting(*, begins: bool) -> None:
    """Count a request that waits for a thread, or that waits no longer."""
    _waiting.inc() if begins else _waiting.dec()


def count_deaths(number: int) -> None:
    """Count workers that ended without being told to."""
    _deaths.inc(number)


def count_unlimited() -> None:
    """Count a request whose rate limit the database did not say in time."""
    _unlimited.inc()


def observe_pool(event: PoolEvent) -> None:
    """Count what happens to a database connection."""
    match event:
        case PoolEvent.CHECKED_OUT:  # with each command, so these two cases come first
            _in_use.inc()
        case PoolEvent.CHECKED_IN:
            _in_use.dec()
        case PoolEvent.CREATED:
            _opened.inc()
        case PoolEvent.CLOSED:
            _closed.inc()
        case PoolEvent.REFUSED:
            _refused.inc()


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the numbers of all workers together, in Prometheus' text format."""
    registry = _registry
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    database_registry = CollectorRegistry()
    database_registry.register(_DatabaseCollector(current_app.extensions[_QUESTIONS]))
    return Response(generate_latest(registry) + generate_latest(database_registry), content_type=CONTENT_TYPE_LATEST)


class _DatabaseCollector(Collector):
    """Reads the gauges from the database at each scrape, and leaves out those for which it does not answer in time."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        deadline = time.monotonic() + ASK_SECONDS
        for ask in self._questions:
            with suppress(ChatServiceError):
                for name, value in ask(deadline - time.monotonic()).items():
                    yield GaugeMetricFamily(name, DATABASE_GAUGES[name], value)
