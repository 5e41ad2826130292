"""Hooks for what schemathesis cannot know of valid requests: values that only the service issues, or used only once."""

import hashlib
import json
import os
import uuid
from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.openapi.checks import UseAfterFree
from schemathesis.specs.openapi.checks import use_after_free

from chat_service.api import cursors
from chat_service.api.parsing import parse_uuid
from chat_service.models import ListPosition, Span

TENANT_ID = os.environ["SCHEMATHESIS_TENANT_ID"]
CHAT_IDS = os.environ["SCHEMATHESIS_CHAT_IDS"].split(",")
"""Chats that exist when the run begins, so that not every request gets a 404."""

LONGEST_QUERY = 1_000

TIME = "2024-01-15T10:45:00.000Z"


@st.composite
def exports(draw: st.DrawFn) -> bytes:
    """Generate complete ndjson exports."""
    contents = draw(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=40)))
    chat = {"id": str(draw(st.uuids())), "title": None, "metadata": {}, "message_count": len(contents)}
    times = {"created_at": TIME, "updated_at": TIME, "last_message_at": None}
    lines = [{"type": "chat", "chat": {**chat, **times}}]
    for seq, content in enumerate(contents, 1):
        message = {"seq": seq, "role": "user", "sender_id": None, "content": content, "metadata": {}}
        lines.append({"type": "message", "message": {**message, "created_at": TIME, "edited_at": None}})
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    end = {"type": "end", "message_count": len(contents), "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


schemathesis.openapi.media_type("application/x-ndjson", exports())


METADATA_VALUE = {
    "anyOf": [
        {"type": ["null", "boolean", "string"]},
        {"type": "number"},
        {"type": "array", "items": {"$ref": "#/components/schemas/MetadataValue"}},
        {"$ref": "#/components/schemas/Metadata"},
    ]
}


@schemathesis.hook
def before_load_schema(_: Any, schema: dict[str, Any]) -> None:
    """Define exactly what metadata may contain; the document says it in words, because generators cannot recurse."""
    schemas = schema["components"]["schemas"]
    schemas["Metadata"]["additionalProperties"] = {"$ref": "#/components/schemas/MetadataValue"}
    schemas["MetadataValue"] = METADATA_VALUE


@schemathesis.hook
def map_path_parameters(_: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Request a chat that exists in about half of the cases."""
    chat_id = (path_parameters or {}).get("chat_id")
    if path_parameters and isinstance(chat_id, str) and parse_uuid(chat_id):
        number = int(chat_id[:4], 16)
        if number % 2:
            return {**path_parameters, "chat_id": CHAT_IDS[number % len(CHAT_IDS)]}
    return path_parameters


@schemathesis.hook
def filter_query(_: Any, query: dict[str, Any] | None) -> bool:
    """Skip queries that make the request line too long: each is a 414, which the corpus of wrong requests covers."""
    return len(str(query)) < LONGEST_QUERY


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    """Send an integer that exceeds 64 bits as the double it becomes; a schema cannot tell the two apart."""
    if isinstance(body, dict):
        return {name: map_body(None, value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(None, value) for value in body]
    is_large = isinstance(body, int) and not -(2**63) <= body < 2**63
    return float(body) if is_large and abs(body) < 10**308 else body


@schemathesis.hook
def before_call(_: Any, case: schemathesis.Case, **__: Any) -> None:
    """Correct a request that is meant to be valid, where a schema cannot say what is valid."""
    if str((case.query or {}).get("wait")) in map(str, range(1, 26)):
        case.query["wait"] = 0  # in an empty log, the request would wait for an entry
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict) and isinstance(case.body.get("expires_at"), str):
        case.body["expires_at"] = "9999-12-31T23:59:59Z"  # in the future
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if "If-Match" in (case.headers or {}):
        case.headers["If-Match"] = "*"
    if parse_uuid(str(case.path_parameters.get("chat_id", CHAT_IDS[0]))) is None:
        # The answer of a bulk delete repeats ids that are invalid; a request that follows cannot use them.
        case.path_parameters["chat_id"] = CHAT_IDS[0]
    if "cursor" in (case.query or {}):
        _set_cursor(case)


@schemathesis.check
def nothing_comes_back(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Run the built-in `use_after_free`, except where it mistakes emptying a chat for deleting its list of messages."""
    try:
        use_after_free(ctx, response, case)
    except UseAfterFree as error:
        if not error.free.endswith("/messages"):
            raise


def _set_cursor(case: schemathesis.Case) -> None:
    """Use a cursor as the service issues it for this list; the cursor carries the bounds of the first page."""
    query: dict[str, Any] = case.query
    position = ListPosition(datetime.now(UTC), str(uuid.uuid4()))
    if case.path.endswith("/messages"):
        query["cursor"] = cursors.next_cursor(Span(), 1, TENANT_ID, str(case.path_parameters["chat_id"]).lower())
        for name in ("after", "before", "order"):
            query.pop(name, None)
    elif case.path.endswith("/connections"):
        owners = ("connections", TENANT_ID, str(case.path_parameters["chat_id"]).lower())
        query["cursor"] = cursors.write_position(position, *owners)
    else:
        query["cursor"] = cursors.write_position(position, case.path.rpartition("/")[2], TENANT_ID)
