"""The log: a line for each request, and one format for the lines of all libraries.

The format is JSON in production, and readable text in development.
"""

import logging
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter

from chat_service.models import Caller
from chat_service.telemetry.observation import Answered, place

Event = MutableMapping[str, Any]

SERVER_ERROR = 500
UNAVAILABLE = 503

_log = logging.getLogger("chat_service.requests")
_processes = logging.getLogger("chat_service.processes")


def configure(log_format: str) -> None:
    """Write the log of this process to stderr, unless the root logger has a handler already."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("chat_service").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


def write(answered: Answered) -> None:
    """Write the line of one request."""
    line: dict[str, Any] = {
        "request_id": answered.request_id,
        **({"trace_id": answered.trace_id} if answered.trace_id else {}),
        "tenant_id": answered.tenant_id,
        "key_id": answered.key_id,
        "method": answered.method,
        "route": answered.route,
        "status": answered.status,
        "duration_ms": round(answered.seconds * 1000, 2),
        "database_commands": answered.commands,
    }
    optional = {"code": answered.code, "error": answered.error, "place": answered.place, "cut": answered.cut}
    line.update((name, value) for name, value in optional.items() if value)
    _log.log(_level(answered), {**line, "event": "request"})


def write_connection(caller: Caller | None, seconds: float, code: int, reason: str) -> None:
    """Write the line of one WebSocket that has ended: its caller, how long it was open, and how it was closed."""
    caller_ids = {} if caller is None else {"tenant_id": caller.tenant_id, "key_id": caller.key_id}
    line = {**caller_ids, "duration_ms": round(seconds * 1000, 2), "close_code": code, "reason": reason}
    _log.info({**line, "event": "connection"})


def write_start(process: str, version: str, commit: str | None, **more: Any) -> None:
    """Write the line of a process that starts: which one of the Procfile it is, and which code it runs."""
    _processes.info({"process": process, **more, "version": version, "commit": commit, "event": "started"})


def _level(answered: Answered) -> int:
    if answered.status == UNAVAILABLE or (answered.cut and answered.error):
        return logging.WARNING
    return logging.ERROR if answered.status >= SERVER_ERROR else logging.INFO


def formatter(log_format: str) -> logging.Formatter:
    """Return the formatter of log lines: `console` is for people, anything else is JSON."""
    meta = ProcessorFormatter.remove_processors_meta
    if log_format == "console":
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        return _Formatter(lambda event: console(None, "", event), processors=[_add_origin, meta, console])
    return _Formatter(_json, processors=[_add_origin, meta, _conceal_error, structlog.processors.JSONRenderer(_json)])


class _Formatter(ProcessorFormatter):
    """Formats our own lines and those of other libraries, without the texts of exceptions in the latter."""

    def __init__(self, render: Callable[[Event], str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        if isinstance(record.msg, dict):  # our own, one for each request: it is written as it is
            return self._render({**_origin(record), **record.msg})
        arguments = tuple(map(_class_name_if_error, record.args)) if isinstance(record.args, tuple) else record.args
        record = logging.makeLogRecord({**record.__dict__, "msg": _class_name_if_error(record.msg), "args": arguments})
        return super().format(record)


def _class_name_if_error(value: object) -> object:
    """Return the class of an exception, whose text may quote what no log may hold; return anything else as it is."""
    return type(value).__name__ if isinstance(value, BaseException) else value


def _add_origin(_logger: Any, _name: str, event: Event) -> Event:
    return {**_origin(event["_record"]), **event}


def _origin(record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    return {"timestamp": time, "level": record.levelname.lower(), "logger": record.name}


def _conceal_error(_logger: Any, _name: str, event: Event) -> Event:
    """Keep the class and the place of an exception, and nothing else of it."""
    error = (event.pop("exc_info", None) or (None, None, None))[1]
    if error is not None:
        event.update(error=type(error).__name__, place=place(error))
    return event


def _json(event: Event, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
