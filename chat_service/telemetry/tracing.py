"""Traces, by OpenTelemetry: a span for a request, its transactions, its commands, and each attempt of a delivery.

The extra `otel` installs what this imports, and nothing else imports this unless traces are on. Names are those of the
semantic conventions. A span holds what the log and the metrics hold: no path with its ids, no key, no statement, no
text of an exception. docs/decisions/0025 says why no ready-made instrumentation is used.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from flask import Flask, request
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chat_service.errors import ChatServiceError, DatabaseUnavailableError, OutcomeUnknownError
from chat_service.repository.monitor import Command
from chat_service.repository.tracer import Outgoing, Tracer
from chat_service.telemetry import trace_context
from chat_service.telemetry.observation import NO_ROUTE, OTHER_METHOD, Answered, method, route

END_SECONDS = 1.5
"""To send the last spans when a process ends: a collector that is unreachable must not delay the end."""

SERVER_ERROR, CLIENT_ERROR = 500, 400

_propagator = TraceContextTextMapPropagator()


class OpenTelemetry(Tracer):
    """Sends spans to where OTEL_EXPORTER_OTLP_ENDPOINT and its like say. Create it after a fork: it has a thread."""

    def __init__(self, version: str) -> None:
        defaults = Resource({"service.name": "chat-service", "service.version": version})
        resource = Resource.create(defaults.merge(OTELResourceDetector().detect()).attributes)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("chat_service", version)
        self._commands: dict[int, Span] = {}
        # A batch that does not arrive is logged as an error; each of its retries would be logged as a warning.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)

    def install(self, app: Flask, prefix: str) -> None:
        """Begin a span for each request below `prefix`; `answered` ends it. Probes and scrapes get none."""

        def begin() -> None:
            # It stays the current context for as long as the context of the request lives.
            context.attach(self._begin() if request.path.startswith(prefix) else Context())

        app.before_request(begin)

    def _begin(self) -> Context:
        parent = Context()
        if trace_context.trace_id() is not None:
            # Without `tracestate`: it may contain any text, and there is nobody to pass it on to.
            parent = _propagator.extract({trace_context.HEADER: request.headers[trace_context.HEADER]})
        name, verb = ("HTTP", "_OTHER") if method() == OTHER_METHOD else (method(), method())
        attributes = {"http.request.method": verb, "url.scheme": request.scheme}
        if route() != NO_ROUTE:
            attributes["http.route"] = route()
            name = f"{name} {route()}"
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        trace_context.join(trace.format_trace_id(span.get_span_context().trace_id))
        return trace.set_span_in_context(span, parent)

    def answered(self, answered: Answered) -> None:
        """End the span of a request."""
        span = trace.get_current_span()
        span.set_attribute("http.response.status_code", answered.status)
        if answered.status >= SERVER_ERROR or (answered.cut and answered.error):
            _fail(span, answered.code or answered.error or str(answered.status))
        span.end()

    def current_step(self) -> SpanContext | None:
        """Return the current span, if it is recorded."""
        span = trace.get_current_span()
        return span.get_span_context() if span.is_recording() else None

    @contextmanager
    def step(self, name: str, links: Sequence[SpanContext | None] = ()) -> Iterator[SpanContext | None]:
        """Record a span within the current one; do nothing if there is none, as in a job."""
        if self.current_step() is None:
            yield None
            return
        span_links = [Link(linked) for linked in links if linked is not None]
        with self._tracer.start_as_current_span(
            name, links=span_links, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span.get_span_context()
            except BaseException as error:
                if not _is_refusal(error):
                    _fail(span, type(error).__name__)
                raise

    def carried(self, leader: SpanContext | None, since: int) -> None:
        """Record the wait of a follower as a span that links to the leader's group commit."""
        if self.current_step() is not None:
            links = [] if leader is None else [Link(leader)]
            self._tracer.start_span("carried by a group commit", links=links, start_time=since).end()

    def command_began(self, command: Command) -> None:
        """Begin a span for a command that is sent within the current one."""
        if self.current_step() is None:
            return
        attributes: dict[str, str | int] = {
            "db.system.name": "mongodb",
            "db.namespace": command.database,
            "db.operation.name": command.name,
            "server.address": command.host,
        }
        if command.port is not None:
            attributes["server.port"] = command.port
        if command.collection is not None:
            attributes["db.collection.name"] = command.collection
        name = f"{command.name} {command.collection or command.database}"
        self._commands[command.id] = self._tracer.start_span(name, None, SpanKind.CLIENT, attributes)

    def command_ended(self, command_id: int, error: str | None) -> None:
        """End the span of a command."""
        span = self._commands.pop(command_id, None)
        if span is None:
            return
        if error is not None:
            _fail(span, error)
        span.end()

    def outgoing(self, url: str, attempt: int) -> Outgoing:
        """Begin a new trace for a POST, whose headers let the receiver continue it."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        attributes: dict[str, str | int] = {
            "http.request.method": "POST",
            "server.address": parts.hostname or "",
            "server.port": port,
        }
        if attempt > 1:
            attributes["http.request.resend_count"] = attempt - 1
        return _Post(self._tracer.start_span("POST", Context(), SpanKind.CLIENT, attributes))

    def end(self) -> None:
        """Send the spans that were not sent yet, for `END_SECONDS` at most."""
        thread = threading.Thread(target=self._provider.shutdown, name="spans-end", daemon=True)
        thread.start()
        thread.join(END_SECONDS)


class _Post(Outgoing):
    """An attempt of a delivery. The URL's path is not recorded: it often contains the receiver's own secret."""

    def __init__(self, span: Span) -> None:
        self._span = span
        headers: dict[str, str] = {}
        _propagator.inject(headers, trace.set_span_in_context(span, Context()))
        self.headers = headers

    def end(self, status: int | None, error: str) -> None:
        """End the span."""
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if status is None or status >= CLIENT_ERROR:
            _fail(self._span, error if status is None else str(status))
        self._span.end()


def _is_refusal(error: BaseException) -> bool:
    """Return whether the request was refused by a rule of the service; anything else is a failure."""
    return isinstance(error, ChatServiceError) and not isinstance(error, DatabaseUnavailableError | OutcomeUnknownError)


def _fail(span: Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(StatusCode.ERROR)
