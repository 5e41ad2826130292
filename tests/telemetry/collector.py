"""A collector of traces: it accepts OTLP over HTTP, as protobuf, and keeps the spans."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.wait import wait_until

EXPORTER = "_upb"
"""Part of the name of protobuf's library, which is mapped into every process that has loaded the exporter."""


@dataclass(frozen=True)
class Span:
    """A span that has arrived."""

    name: str
    kind: str
    trace_id: str
    id: str
    parent_id: str
    links: tuple[str, ...]
    """The ids of other spans."""
    has_failed: bool
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]

    @classmethod
    def of(cls, wire: Wire, resource: Mapping[str, Any]) -> "Span":
        return cls(
            name=wire.name,
            kind=Wire.SpanKind.Name(wire.kind).removeprefix("SPAN_KIND_"),
            trace_id=wire.trace_id.hex(),
            id=wire.span_id.hex(),
            parent_id=wire.parent_span_id.hex(),
            links=tuple(link.span_id.hex() for link in wire.links),
            has_failed=wire.status.code == Status.STATUS_CODE_ERROR,
            attributes=_values(wire.attributes),
            resource=resource,
        )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


class Collector:
    """Listens on loopback while the block runs."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        """The request bodies, as they were sent."""
        self.spans: list[Span] = []

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.accept(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def settings(self) -> dict[str, str]:
        """The settings with which a process sends its spans here, and does so soon."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def accept(self, body: bytes) -> None:
        self.bodies.append(body)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(resource_spans.resource.attributes)
            self.spans += [Span.of(wire, resource) for scope in resource_spans.scope_spans for wire in scope.spans]

    def find(self, condition: Callable[[Span], bool]) -> list[Span]:
        return [span for span in self.spans if condition(span)]

    def wait_for(self, condition: Callable[[Span], bool]) -> Span:
        """Wait for a span that meets the condition; return the first."""
        wait_until(lambda: self.find(condition))
        return self.find(condition)[0]
