"""How the corpus writes its requests: as bytes, because a client library would tidy them.

In requests, `@GOOD@` and the like stand for what a test
puts there (`TOKENS`); they stand in heads only, so that no length depends on them.
"""

from typing import NamedTuple

CHAT = "c0ffee00-1111-4222-8333-444444444444"
"""A chat of the caller, with messages."""

FOREIGN = "f0e1f000-1111-4222-8333-444444444444"
"""A chat of somebody else."""

UNKNOWN = "00000000-0000-4000-8000-00000000dead"

TOKENS = (
    *("@GOOD@", "@SWAPPED@", "@READ@", "@REVOKED@", "@OTHER@"),
    *("@CURSOR@", "@ALTERED_CURSOR@", "@FOREIGN_CURSOR@"),
)
"""The caller's key, the same in the other case, its read-only and its revoked one, and the other tenant's key.

A cursor of the messages of the caller's chat, the same altered in its last part, and one of the other tenant's chat.
"""

CANARY = "canary-of-the-caller"
"""Stands where callers' words stand, and may come back in no answer."""

BODY_LIMIT = 2**20

Case = tuple[bytes, int, str]


class Wrong(NamedTuple):
    """A request, what is wrong with it, and its answer."""

    name: str
    request: bytes
    status: int
    code: str


def http(
    target: str | bytes = f"/api/v1/chats/{CHAT}",
    *headers: str | bytes,
    method: str | bytes = "GET",
    key: str | bytes | None = "@GOOD@",
    body: bytes | None = None,
    version: str = "HTTP/1.1",
    host: str | None = "x",
) -> bytes:
    """Return a request as bytes; only what is asked for is unusual about it."""
    lines = [b" ".join([_bytes(method), _bytes(target), version.encode()])]
    lines += [] if host is None else [b"Host: " + host.encode()]
    lines += [] if key is None else [b"X-API-Key: " + _bytes(key)]
    lines += [_bytes(header) for header in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + (body or b"")


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def delete(*headers: str | bytes, **kwargs: str | bytes | None) -> bytes:
    return http(f"/api/v1/chats/{CHAT}", *headers, method="DELETE", **kwargs)  # type: ignore[arg-type]


def chat_id(text: str | bytes) -> bytes:
    return http(b"/api/v1/chats/" + _bytes(text), method="DELETE")


def json(
    body: bytes | str, target: str = f"/api/v1/chats/{CHAT}/messages", *headers: str, method: str = "POST"
) -> bytes:
    body = body if isinstance(body, bytes) else body.encode()
    return http(target, "Content-Type: application/json", *headers, method=method, body=body)


def field(name: str, value: str) -> bytes:
    """Return a message in which one field is as given."""
    fields = {"content": '"x"', name: value}
    return json("{" + ", ".join(f'"{key}": {text}' for key, text in fields.items()) + "}")


def bulk(ids: str, *headers: str) -> bytes:
    return json(f'{{"chat_ids": {ids}}}', "/api/v1/chats/delete", *headers)


def framed(*headers: str, body: bytes = b'{"content": "x"}') -> bytes:
    """Return a post whose framing is what the headers say."""
    return http(f"/api/v1/chats/{CHAT}/messages", "Content-Type: application/json", *headers, method="POST") + body


def imported(body: bytes, media_type: str = "application/x-ndjson") -> bytes:
    return http("/api/v1/chats/import", f"Content-Type: {media_type}", method="POST", body=body)
