"""Everything that a tenant can read, to compare it before and after a restore."""

import json
from collections.abc import Callable
from typing import Any

from tests.client import Client

Get = Callable[[str, dict[str, Any]], bytes | None]
"""Returns the body of a GET of a path below /api/v1, or None for 404."""


def getter_of(client: Client) -> Get:
    """Return a function that reads with a client of the tests."""

    def get(path: str, query: dict[str, Any]) -> bytes | None:
        answer = client.send("GET", f"/api/v1/{path}", query_string=query)
        assert answer.status_code in {200, 404}, (path, answer.get_data())
        return answer.get_data() if answer.status_code == 200 else None

    return get


def pages(get: Get, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = json.loads(get(path, {"limit": 100, **({"cursor": cursor} if cursor else {})}) or b"{}")
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


def log_of(get: Get) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    while page := json.loads(get("log", {"after": len(entries), "limit": 1000}) or b"{}")["items"]:
        entries += page
    return entries


def readable(get: Get) -> dict[str, Any]:
    """Return chats with their messages, the trash, receipts, holds, erasures, the policy, the log and its root."""
    chats = pages(get, "chats")
    note = get("log/checkpoint", {}) or b""
    return {
        "chats": chats,
        "exports": [get(f"chats/{chat['id']}/export", {"format": "ndjson"}) for chat in chats],
        **{name: pages(get, name) for name in ("trash", "holds", "erasures")},
        "deletions": [_without_completion(receipt) for receipt in pages(get, "deletions")],
        "retention": get("retention", {}),
        "log": log_of(get),
        "tree": note.split(b"\n\n")[0],
    }


def _without_completion(receipt: dict[str, Any]) -> dict[str, Any]:
    """Remove the time at which the messages were purged: after a restore, a large chat's are back for a while."""
    return {**receipt, "purge": {**receipt["purge"], "completed_at": None}}
