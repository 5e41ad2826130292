"""Downloads exports as a caller does, and checks what arrived.

An export with an end line is complete: it has the whole chat at one moment between its beginning and its end, in order,
and nothing else. An export without an end line was cut. It promises nothing, but the caller must be able to see the
cut: the HTTP response does not end cleanly.
"""

import hashlib
import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.client import CHATS, TenantAccess
from tests.soak.record import CUT, Export, Record, label

PART = 64 * 2**10
MARK_BYTES = 4 * PART

ANSWER_SECONDS = 40.0

AFTER_DELETE_BYTES = 3 * 2**20
"""How much of an export may still arrive after its chat's delete was answered: what was in the sockets' buffers."""

Problems = Iterator[tuple[str, str]]
"""Kind and detail of each violation."""


def download(port: int, access: TenantAccess, chat_id: str, operation: str, rest: float = 0.0) -> Record:
    """Export a chat, with a pause of `rest` seconds after every 64 KiB, and return the record."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    began = time.monotonic()
    try:
        connection.sock = socket.socket()
        connection.sock.settimeout(ANSWER_SECONDS)
        # Otherwise the buffers would hold megabytes, and nobody could tell when the server stopped sending.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PART)
        connection.sock.connect(("127.0.0.1", port))
        connection.request("GET", f"{CHATS}/{chat_id}/export?format=ndjson", headers=access.headers)
        response = connection.getresponse()
        if response.status != 200:
            code = str(json.loads(response.read())["code"])
            return Record("export", chat_id, operation, began, time.monotonic(), response.status, code)
        received, arrivals, ended_cleanly = _receive(response, rest)
    except (OSError, http.client.HTTPException):
        return Record("export", chat_id, operation, began, time.monotonic(), None, None)
    finally:
        connection.close()
    seen = _read(bytes(received), arrivals, ended_cleanly=ended_cleanly)
    code = CUT if seen.stated is None else ""
    return Record("export", chat_id, operation, began, time.monotonic(), 200, code, seen=seen)


def _receive(response: http.client.HTTPResponse, rest: float) -> tuple[bytearray, list[tuple[float, int]], bool]:
    """Return what arrived, when, and whether the response ended cleanly."""
    received = bytearray()
    arrivals = [(time.monotonic(), 0)]
    try:
        while part := response.read1(PART):
            received += part
            if len(received) - arrivals[-1][1] >= MARK_BYTES:
                arrivals.append((time.monotonic(), len(received)))
            if rest:
                time.sleep(rest)
    except (OSError, http.client.HTTPException):
        ended_cleanly = False
    else:
        ended_cleanly = True
    return received, [*arrivals, (time.monotonic(), len(received))], ended_cleanly


def _read(received: bytes, arrivals: Sequence[tuple[float, int]], *, ended_cleanly: bool) -> Export:
    # What follows the last newline is an incomplete line.
    lines = [json.loads(line) for line in received.split(b"\n")[:-1]]
    stated, before_end = None, received
    if lines and lines[-1]["type"] == "end":
        stated = (lines[-1]["message_count"], lines[-1]["sha256"])
        before_end = received[: received.rindex(b"\n", 0, -1) + 1]
    rows = tuple(
        (line["message"]["seq"], label(line["message"]["content"])) for line in lines if line["type"] == "message"
    )
    counted = (len(rows), hashlib.sha256(before_end).hexdigest())
    return Export(rows, stated, counted, ended_cleanly, tuple(arrivals))


def check_export(
    export: Record,
    posts: Mapping[str, Sequence[Record]],
    clears: Sequence[Record],
    deletes: Sequence[Record],
    *,
    is_excused: bool,
) -> Problems:
    """Check a download; if `is_excused`, it may be cut, because of a fault or a delete meanwhile."""
    seen: Export = export.seen
    for delete in deletes:
        late_bytes = seen.arrivals[-1][1] - _arrived(seen, delete.ended)
        if late_bytes > AFTER_DELETE_BYTES and seen.arrivals[-1][0] > delete.ended:
            yield "export after delete", f"{export.operation}: {late_bytes} bytes after the 200 of {delete.operation}"
    if seen.stated is None:
        if seen.ended_cleanly:
            yield "false end", f"{export.operation} was cut and ended as if it were whole"
        if not is_excused:
            yield "cut without need", export.operation
        return
    if seen.stated != seen.counted:
        yield "false end", f"{export.operation} states {seen.stated}, and {seen.counted} arrived"
    for kind, detail in _content(export, posts, clears):
        yield kind, f"{export.operation}: {detail}"


def _arrived(seen: Export, at: float) -> int:
    """Return how many bytes had arrived by then, at least: not every arrival is noted, so it may be a little more."""
    return max((size for when, size in seen.arrivals if when <= at), default=0)


def _content(export: Record, posts: Mapping[str, Sequence[Record]], clears: Sequence[Record]) -> Problems:
    seqs = [seq for seq, _ in export.seen.rows]
    may_be_cleared = any(clear.may_have_happened and clear.began < export.ended for clear in clears)
    if seqs and seqs != list(range(seqs[0], seqs[0] + len(seqs))):
        yield "export with a gap", "its numbers do not run on"
    elif seqs and seqs[0] != 1 and not may_be_cleared:
        yield "export with a gap", f"it begins with message {seqs[0]}"
    present = Counter(content for _, content in export.seen.rows)
    for name, attempts in posts.items():
        count = sum(present.pop(part, 0) for part in attempts[0].parts)
        for kind in _of_post(export, attempts, clears, count):
            yield kind, f"{count} of {len(attempts[0].parts)} messages of {name}"
    if present:
        yield "export from nowhere", f"messages that nobody posted: {list(present)[:3]}"


def _of_post(export: Record, attempts: Sequence[Record], clears: Sequence[Record], count: int) -> Iterator[str]:
    """Give the kind of each violation, if `count` messages of a post are in an export."""
    total, began = len(attempts[0].parts), min(record.began for record in attempts)
    acked_at = min((record.ended for record in attempts if record.succeeded), default=float("inf"))
    may_be_cleared = any(
        clear.may_have_happened and clear.settled > began and clear.began < export.ended for clear in clears
    )
    was_cleared = any(clear.succeeded and clear.began > acked_at and clear.ended < export.began for clear in clears)
    if count not in {0, total}:
        yield "half a post in an export"
    elif not count and acked_at < export.began and not may_be_cleared:
        yield "missing in an export"
    elif count and (began > export.ended or was_cleared):
        yield "export of another moment"
    elif count and not any(record.may_have_happened for record in attempts):
        yield "dishonest"
