"""The log: what was taken away and brought back, for clients that keep copies. By pages, by long polling, or live.

Requests that wait, and live streams, are kept by realtime/log_feed.py, which holds no thread for them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson
from flask import Response, request
from flask_smorest import Blueprint
from marshmallow import Schema, ValidationError, fields, validate

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.fields import Number
from chat_service.api.message_schemas import MOST_SEQ
from chat_service.api.openapi import raises
from chat_service.api.parsing import preferred
from chat_service.api.schemas import TicketOut
from chat_service.errors import InsufficientScopeError, TooManyListenersError, ValidationFailedError
from chat_service.models import WITHHELD, Attempt, Caller, Kind, LogEntry, LogPage, Scope, Ticket, milliseconds
from chat_service.proof.leaves import fields_of

ENTRIES_DEFAULT, ENTRIES_MOST = 100, 1_000
WAIT_MOST = 25
"""Seconds. Routers time out after 30."""

PATH = "/api/v1/log"
EVENTS = "text/event-stream"

RECONNECT = b"retry: 2000\n\n"
"""What a live stream begins with: after how many milliseconds a browser reconnects."""

LISTENER = "chat_service.listener"
"""The WSGI variable in which the view leaves the Listener that gets further entries once the response is sent."""

IS_FULL = "chat_service.is_full"
"""The WSGI variable that is set if no more listeners are accepted."""

LOGGED = {
    "application/json": {"schema": {"$ref": "#/components/schemas/LogPage"}},
    EVENTS: {"schema": {"type": "string", "description": "Server-sent events: `id` is the seq, `event` the kind."}},
}

_EVENT_ID = re.compile("[0-9]{1,18}", re.ASCII)

blueprint = Blueprint("log", __name__, url_prefix="/api/v1", description="What was deleted, restored or held")


class LogIn(Schema):
    """Which entries to read, and whether to wait for one."""

    after = Number(
        load_default=0,
        validate=validate.Range(0, MOST_SEQ),
        metadata={"description": "The `seq` of the last entry that you have; 0 starts at the beginning."},
    )
    limit = Number(load_default=ENTRIES_DEFAULT, validate=validate.Range(1, ENTRIES_MOST))
    kind = fields.String(load_default=None, validate=validate.OneOf([kind.value for kind in Kind]))
    wait = Number(
        load_default=0,
        validate=validate.Range(0, WAIT_MOST),
        metadata={"description": "How many seconds to wait for an entry, if there is none yet."},
    )
    ticket = fields.String(
        load_default=None, metadata={"description": "In place of a key, for browsers: from `POST /log/tickets`."}
    )


@dataclass(frozen=True, slots=True)
class Listener:
    """A client that follows the log."""

    caller: Caller
    after: int
    """The seq of the last entry that it has, or is being sent."""
    kind: Kind | None


@blueprint.get("/log")
@requires(Scope.READ)
@raises(TooManyListenersError, headers="Last-Event-ID")
@blueprint.arguments(LogIn(), location="query")
@blueprint.doc(responses={"200": {"description": "The entries after `after`.", "content": LOGGED}})
def read_log(query: dict[str, Any]) -> Response:
    """Read what was deleted, restored or held since the last entry that you have, in order and without gaps.

    Send `next_after` as `after` of your next request: then you miss nothing. With `wait`, the response waits for an
    entry if there is none yet. With `Accept: text/event-stream`, entries come live, as server-sent events, and
    `Last-Event-ID` continues where the last connection ended.
    """
    media_type = preferred("application/json", EVENTS)
    kind = None if query["kind"] is None else Kind(query["kind"])
    after = _resume_after(query["after"], request.headers.get("Last-Event-ID"))
    if media_type == EVENTS and IS_FULL in request.environ:
        raise TooManyListenersError
    if kind is not None and kind.is_confidential and not caller().governs:
        raise InsufficientScopeError(Scope.GOVERN.value)
    page = repositories().log.page(caller().tenant_id, after, query["limit"], kind)
    if media_type != EVENTS:
        return Response(orjson.dumps(_page_json(page, governs=caller().governs)), mimetype="application/json")
    if request.method == "GET":
        request.environ[LISTENER] = Listener(caller(), page.next_after, kind)
    # An iterator, so that the response has no length: more events may follow.
    events = [event_text(entry, governs=caller().governs) for entry in page.entries]
    response = Response(iter([RECONNECT, *events]), mimetype=EVENTS)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # else nginx keeps the events until its buffer is full
    return response


@blueprint.post("/log/tickets")
@requires(Scope.READ)
@blueprint.response(201, TicketOut())
def issue_log_ticket() -> Ticket:
    """Issue a ticket that opens one live stream of the log within 30 s, as `GET /log?ticket=`.

    For browsers, whose EventSource cannot send the key. A ticket is valid for one connection.
    """
    return repositories().tickets.issue(caller())


def _resume_after(after: int, last_event_id: str | None) -> int:
    """Return the seq to continue after: a browser that reconnects sends it in a header, to the same address.

    Raises:
        ValidationFailedError: the header is not the id of an event.
    """
    if not last_event_id:
        return after
    if not _EVENT_ID.fullmatch(last_event_id):
        raise ValidationFailedError({"Last-Event-ID": ["Must be the id of an event of this stream."]})
    return int(last_event_id)


def waiting_for(environ: Mapping[str, Any]) -> tuple[int, Kind | None, int] | None:
    """Return what a request that has not reached its view waits for: an entry after which one, which kind, how long.

    None if it does not wait, or if its view is going to refuse it.
    """
    if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != "GET" or "wait=" not in environ["QUERY_STRING"]:
        return None
    if EVENTS in environ.get("HTTP_ACCEPT", "").lower():
        return None
    try:
        query = LogIn().load(dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)))
        after = _resume_after(query["after"], environ.get("HTTP_LAST_EVENT_ID"))
    except (ValidationError, ValidationFailedError):
        return None
    kind = None if query["kind"] is None else Kind(query["kind"])
    return (after, kind, query["wait"]) if query["wait"] else None


def _page_json(page: LogPage, *, governs: bool) -> dict[str, Any]:
    items = [entry_json(entry, governs=governs) for entry in page.entries]
    return {"items": items, "next_after": page.next_after, "head": page.head}


def entry_json(entry: LogEntry, *, governs: bool) -> dict[str, Any]:
    """Return an entry as JSON, for a key that governs or for any other."""
    if entry.event.kind.is_confidential and not governs:
        return {"seq": entry.seq, "kind": WITHHELD, "at": milliseconds(entry.at)}
    return fields_of(entry)


def message_json(attempt: Attempt) -> dict[str, Any]:
    """Return the payload of a delivery. Nothing is withheld: webhooks belong to keys that govern."""
    data = {} if attempt.entry is None else entry_json(attempt.entry, governs=True)
    return {"type": attempt.type, "timestamp": data.get("at", milliseconds(attempt.at)), "data": data}


def event_text(entry: LogEntry, *, governs: bool) -> bytes:
    """Return an entry as a server-sent event (HTML Living Standard, section 9.2)."""
    data = entry_json(entry, governs=governs)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (entry.seq, data["kind"].encode(), orjson.dumps(data))
