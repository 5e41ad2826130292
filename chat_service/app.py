"""The composition root: builds the application from all other modules."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, Response
from flask.json.provider import DefaultJSONProvider
from flask_smorest import Api
from werkzeug.exceptions import HTTPException

from chat_service import __version__
from chat_service.api import (
    auth,
    chats,
    connections,
    cors,
    deletions,
    erasures,
    exports,
    fields,
    headers,
    holds,
    keys,
    limits,
    log,
    messages,
    openapi,
    parsing,
    problems,
    proofs,
    refusals,
    retention,
    system,
    trash,
    webhooks,
)
from chat_service.api.context import Repositories
from chat_service.cli import commands
from chat_service.page import chat as chat_page
from chat_service.page import docs, guides, verifying
from chat_service.proof.ledger_file import LedgerFile
from chat_service.proof.notes import SigningKey
from chat_service.realtime.endpoint import THREADS as SOCKET_THREADS
from chat_service.realtime.log_feed import THREADS as LOG_THREADS
from chat_service.repository.database import Database
from chat_service.repository.limits import RateLimits
from chat_service.repository.monitor import CommandCounter, CommandListener, PoolListener
from chat_service.repository.presence import ConnectionCaps
from chat_service.repository.sealing import Sealer
from chat_service.repository.tracer import SILENT
from chat_service.settings import Settings
from chat_service.telemetry import logs, metrics, observation

if TYPE_CHECKING:
    from chat_service.telemetry.tracing import OpenTelemetry

_log = logging.getLogger(__name__)


class _Api(Api):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest with our error responses."""

    DEFAULT_ERROR_RESPONSE_NAME = None  # api/openapi.py declares the errors of each operation

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Return the problem document for an HTTP error."""
        return problems.answer_http_error(error)


class _Flask(Flask):
    """Flask without async views: Flask would look for them eight times a request."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is."""
        return func


class _Json(DefaultJSONProvider):
    """JSON as the contract prints it: fields in their order, text not escaped to ASCII, one line with spaces."""

    sort_keys = False
    ensure_ascii = False

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the arguments as a JSON response."""
        value = kwargs or (args[0] if len(args) == 1 else args)
        return Response(self.dumps(value), mimetype=self.mimetype)


def create_app(config: Settings, database: Database | None = None) -> Flask:
    """Return the application; it connects to the database with its first request.

    Raises:
        UnsupportedServerError: the database's address cannot be used.
    """
    app = _flask(config)
    tracer = _tracer(config)
    repositories = _repositories(config, database or _database(config, tracer))
    repositories.install(app.extensions)
    # The order matters: before a request the hooks run in this order, after it in the reverse order.
    observation.install(app, _observers(config, tracer))
    if tracer is not None:
        tracer.install(app, auth.API_PREFIX)
    headers.install(app)
    limits.install(app)
    cors.install(app, config.cors_origins)
    refusals.install(app)
    auth.install(app)
    parsing.install(app)
    api = _Api(app)
    for field in (fields.Rfc3339, fields.Time, fields.Seconds):
        api.register_field(field, "string", "date-time")
    problems.install(app)
    chat_modules = (chats, deletions, trash, messages, exports, connections)
    for module in (*chat_modules, holds, retention, erasures, webhooks, log, proofs, keys, system):
        api.register_blueprint(module.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(guides.blueprint)
    app.register_blueprint(verifying.blueprint)
    if config.chat_page:
        app.register_blueprint(chat_page.blueprint)
    with app.app_context():
        document = openapi.complete(app, api.spec.to_dict())
        parsing.declare_query_fields(app, openapi.query_fields(app, document))
        docs.publish(document)
    if config.metrics:
        metrics.install(app, __version__, config.commit, _questions(repositories))
    commands.install(app)
    return app


def _tracer(config: Settings) -> "OpenTelemetry | None":
    """Return the OpenTelemetry tracer; None if traces are off or cannot be set up, which is logged."""
    if not config.traces:
        return None
    try:
        from chat_service.telemetry.tracing import OpenTelemetry  # noqa: PLC0415 - its imports come with an extra

        return OpenTelemetry(__version__)
    except (ImportError, ValueError) as error:  # the extra is not installed, or one of its variables is wrong
        _log.warning("Traces are off: %s. See docs/observability.md.", str(error).rstrip("."))
        return None


def _observers(config: Settings, tracer: "OpenTelemetry | None") -> list[observation.Observer]:
    metrics_observers = [metrics.observe] if config.metrics else []
    trace_observers = [] if tracer is None else [tracer.answered]
    return [logs.write, *metrics_observers, *trace_observers]


def _questions(repositories: Repositories) -> list[metrics.Question]:
    """Return the queries by which /metrics gets its gauges from the database, each given its seconds."""

    def log(seconds: float) -> dict[str, float]:
        status = repositories.sequencer.status(seconds)
        behind = {} if status.behind is None else {"chat_service_log_behind_seconds": status.behind.total_seconds()}
        return {"chat_service_log_writers": float(status.process is not None), **behind}

    def purges(seconds: float) -> dict[str, float]:
        progress = repositories.purges.progress(seconds)
        return {
            "chat_service_purges_open": progress.open,
            "chat_service_purge_messages_left": progress.messages,
            "chat_service_purge_waiting_seconds": progress.waiting.total_seconds(),
        }

    def webhooks(seconds: float) -> dict[str, float]:
        health = repositories.health.webhooks(seconds)
        return {
            "chat_service_webhooks_enabled": health.enabled,
            "chat_service_webhooks_failing": health.failing,
            "chat_service_webhook_late_seconds": health.late.total_seconds(),
        }

    def retention(seconds: float) -> dict[str, float]:
        return {"chat_service_retention_overdue_chats": repositories.retention.overdue_in_all(seconds)}

    return [log, purges, webhooks, retention]


def _flask(config: Settings) -> Flask:
    app = _Flask("chat_service", static_folder=None)
    app.json = _Json(app)
    app.config.update(
        MAX_CONTENT_LENGTH=config.max_body_bytes,
        MAX_IMPORT_BYTES=config.max_import_bytes,
        API_TITLE="Chat service",
        API_VERSION=__version__,
        COMMIT=config.commit,
        PUBLIC_URL=config.public_url,
        OPENAPI_VERSION="3.1.0",
    )
    # Each address has one spelling: `//chats` and `/chats/` get 404, not a redirect.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.url_map.converters["default"] = parsing.PathPart
    return app


def _database(config: Settings, tracer: "OpenTelemetry | None") -> Database:
    # More connections than threads: also for the WebSockets and their feed, the log's listeners, the session killer
    # and a readiness probe.
    pool_listeners = [PoolListener(metrics.observe_pool)] if config.metrics else []
    trace_listeners = [] if tracer is None else [CommandListener(tracer.command_began, tracer.command_ended)]
    return Database(
        config.mongodb_uri,
        max_pool_size=config.threads + SOCKET_THREADS + LOG_THREADS + 3,
        listeners=[CommandCounter(), *pool_listeners, *trace_listeners],
        tracer=tracer or SILENT,
    )


def _repositories(config: Settings, database: Database) -> Repositories:
    caps = ConnectionCaps(config.connections_per_chat, config.connections_per_tenant)
    buckets = RateLimits(database, config.rate_limits, metrics.count_unlimited)
    sealer, private = Sealer(config.webhook_keys), config.webhook_private_networks
    return Repositories.on(
        database,
        config.delete_inline_limit,
        buckets,
        caps,
        sealer,
        private_networks=private,
        ledger=LedgerFile(Path(config.ledger_file)) if config.ledger_file else None,
        signing_keys=[SigningKey(key) for key in config.signing_keys],
    )
