"""Exports: how a caller downloads one, and what is promised of what arrives.

An export with an end line is whole: all of the chat at one moment between its beginning and its end, in order, nothing
else. One without has been cut, which claims nothing but must be seen: by the HTTP answer, which does not end cleanly.
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
"""What may still arrive of an export after its chat's delete was answered: what was on its way in sockets' buffers."""

Problems = Iterator[tuple[str, str]]
"""Kind and detail of what is wrong."""


def download(port: int, access: TenantAccess, chat_id: str, operation: str, rest: float = 0.0) -> Record:
    """Export a chat, with a rest after every 64 KiB, and return what came of it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    began = time.monotonic()
    try:
        connection.sock = socket.socket()
        connection.sock.settimeout(ANSWER_SECONDS)
        # Else megabytes would be on their way, and nobody could tell when the other side stopped.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PART)
        connection.sock.connect(("127.0.0.1", port))
        connection.request("GET", f"{CHATS}/{chat_id}/export?format=ndjson", headers=access.headers)
        answer = connection.getresponse()
        if answer.status != 200:
            code = str(json.loads(answer.read())["code"])
            return Record("export", chat_id, operation, began, time.monotonic(), answer.status, code)
        received, arrivals, cleanly = _receive(answer, rest)
    except (OSError, http.client.HTTPException):
        return Record("export", chat_id, operation, began, time.monotonic(), None, None)
    finally:
        connection.close()
    seen = _read(bytes(received), arrivals, ended_cleanly=cleanly)
    code = CUT if seen.stated is None else ""
    return Record("export", chat_id, operation, began, time.monotonic(), 200, code, seen=seen)


def _receive(answer: http.client.HTTPResponse, rest: float) -> tuple[bytearray, list[tuple[float, int]], bool]:
    """Return what arrives, when it did, and whether that ends as a complete answer."""
    received = bytearray()
    arrivals = [(time.monotonic(), 0)]
    try:
        while part := answer.read1(PART):
            received += part
            if len(received) - arrivals[-1][1] >= MARK_BYTES:
                arrivals.append((time.monotonic(), len(received)))
            if rest:
                time.sleep(rest)
    except (OSError, http.client.HTTPException):
        cleanly = False
    else:
        cleanly = True
    return received, [*arrivals, (time.monotonic(), len(received))], cleanly


def _read(received: bytes, arrivals: Sequence[tuple[float, int]], *, ended_cleanly: bool) -> Export:
    # What stands behind the last newline is part of a line.
    lines = [json.loads(line) for line in received.split(b"\n")[:-1]]
    stated, before = None, received
    if lines and lines[-1]["type"] == "end":
        stated = (lines[-1]["message_count"], lines[-1]["sha256"])
        before = received[: received.rindex(b"\n", 0, -1) + 1]
    rows = tuple(
        (line["message"]["seq"], label(line["message"]["content"])) for line in lines if line["type"] == "message"
    )
    counted = (len(rows), hashlib.sha256(before).hexdigest())
    return Export(rows, stated, counted, ended_cleanly, tuple(arrivals))


def check_export(
    export: Record,
    posts: Mapping[str, Sequence[Record]],
    clears: Sequence[Record],
    deletes: Sequence[Record],
    *,
    is_excused: bool,
) -> Problems:
    """Judge a download; `is_excused` is one that may be cut, because something was broken or deleted meanwhile."""
    seen: Export = export.seen
    for delete in deletes:
        late = seen.arrivals[-1][1] - _arrived(seen, delete.ended)
        if late > AFTER_DELETE_BYTES and seen.arrivals[-1][0] > delete.ended:
            yield "export after delete", f"{export.operation}: {late} bytes after the 200 of {delete.operation}"
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
    """Return how many bytes had arrived by then; a little more than were counted, since not every part is."""
    return max((size for when, size in seen.arrivals if when <= at), default=0)


def _content(export: Record, posts: Mapping[str, Sequence[Record]], clears: Sequence[Record]) -> Problems:
    seqs = [seq for seq, _ in export.seen.rows]
    may_be_cleared = any(clear.may_have_happened and clear.began < export.ended for clear in clears)
    if seqs and seqs != list(range(seqs[0], seqs[0] + len(seqs))):
        yield "export with a gap", "its numbers do not run on"
    elif seqs and seqs[0] != 1 and not may_be_cleared:
        yield "export with a gap", f"it begins with message {seqs[0]}"
    present = Counter(content for _, content in export.seen.rows)
    for name, of in posts.items():
        there = sum(present.pop(part, 0) for part in of[0].parts)
        for kind in _of_post(export, of, clears, there):
            yield kind, f"{there} of {len(of[0].parts)} messages of {name}"
    if present:
        yield "export from nowhere", f"messages that nobody posted: {list(present)[:3]}"


def _of_post(export: Record, of: Sequence[Record], clears: Sequence[Record], there: int) -> Iterator[str]:
    """Name what is wrong with so many messages of a post in an export."""
    parts, began = len(of[0].parts), min(record.began for record in of)
    acked = min((record.ended for record in of if record.succeeded), default=float("inf"))
    taken = any(one.may_have_happened and one.settled > began and one.began < export.ended for one in clears)
    surely_taken = any(one.succeeded and one.began > acked and one.ended < export.began for one in clears)
    if there not in {0, parts}:
        yield "half a post in an export"
    elif not there and acked < export.began and not taken:
        yield "missing in an export"
    elif there and (began > export.ended or surely_taken):
        yield "export of another moment"
    elif there and not any(record.may_have_happened for record in of):
        yield "dishonest"
