"""The parts of the OpenAPI document that follow from no route, and from no schema of a view."""

from typing import Any

from chat_service.api import problems
from chat_service.api.parsing import IF_MATCH
from chat_service.models import WITHHELD, Kind, Scope

INFO = {
    "summary": "Chats of many tenants, deleted atomically, once, and for good.",
    "description": (
        "Send your tenant's API key in `X-API-Key`. All errors have the format `application/problem+json`, with a "
        "`code` for programs to decide by and a `request_id` to give to the operator. For the next page of a list, "
        "send its `next_cursor` as `cursor`."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

SERVERS = [
    {"url": "/", "description": "The server that this document was loaded from."},
    {
        "url": "{origin}",
        "description": "The service's address, for a client that was generated from this document.",
        "variables": {"origin": {"default": "http://127.0.0.1:8000"}},
    },
]

CODES = sorted({problem.code for problem in (*problems.DOMAIN.values(), *problems.HTTP.values())})

_UUID = {
    "type": "string",
    "format": "uuid",
    "pattern": "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$",
}

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "chat_id": {"schema": _UUID, "example": "a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"},
    "hold_id": {"schema": _UUID, "example": "5f0c1d9e-8b7a-4c6d-9e2f-3a4b5c6d7e8f"},
    "webhook_id": {"schema": _UUID, "example": "3b4c5d6e-7f80-4192-a3b4-c5d6e7f80912"},
    "erasure_id": {"schema": _UUID, "example": "7d9e2f3a-4b5c-4d7e-8f5f-0c1d9e8b7a4c"},
    "seq": {"schema": {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}, "example": 1},
    "name": {"schema": {"type": "string", "pattern": "^[a-z-]+$"}, "example": "chat-not-found"},
}

IF_MATCH_FIELD = {
    "in": "header",
    "name": "If-Match",
    "description": "An `ETag` of the chat, or `*`: do it only if the chat has not changed since. Otherwise 412.",
    "schema": {"type": "string", "pattern": IF_MATCH},
}
IF_NONE_MATCH_FIELD = {
    "in": "header",
    "name": "If-None-Match",
    "description": "An `ETag` of the chat: answer 304 if the chat has not changed since.",
    "schema": {"type": "string"},
}
IDEMPOTENCY_KEY_FIELD = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "Your name for this request. For 24 hours, a retry with the same key gets the first response again.",
    "schema": {
        "type": "string",
        "format": "idempotency-key",
        "minLength": 1,
        "maxLength": 255,
        "pattern": r"^[!-+\--~]+$",
    },
}

LAST_EVENT_ID_FIELD = {
    "in": "header",
    "name": "Last-Event-ID",
    "description": "For a live stream: the last `id` that you have. It overrides `after`. Browsers send it themselves.",
    "schema": {"type": "string", "pattern": "^[0-9]{0,18}$"},
}

RATE_LIMIT_HEADERS = {
    "RateLimit": {
        "description": "`r` tokens are left, and the bucket is full in `t` seconds. Left out if there is no limit.",
        "schema": {"type": "string"},
        "example": '"delete";r=19;t=1',
    },
    "RateLimit-Policy": {
        "description": "A full bucket holds `q` tokens, and fills in `w` seconds. Left out if there is no limit.",
        "schema": {"type": "string"},
        "example": '"delete";q=20;w=2',
    },
}
"""As draft-ietf-httpapi-ratelimit-headers-11 has them; see limits.py."""

_CHAT_IDS = {"type": "array", "items": {"type": "string", "format": "uuid"}}

COMPONENTS = {
    "Metadata": {
        "type": "object",
        # Its values are any JSON. A schema that refers to itself could say so, but code generators cannot read that.
        "description": "An object with your own data: at most 16 KiB as JSON, at most 32 levels deep, integers of at "
        "most 64 bits. No key may contain `.` or start with `$`.",
        "propertyNames": {"pattern": r"^([^$.\u0000][^.\u0000]*)?$"},
        "additionalProperties": True,
        "example": {"customer": 42},
    },
    "Export": {
        "type": "object",
        "required": ["chat", "messages"],
        "properties": {
            "chat": {"$ref": "#/components/schemas/ExportedChat"},
            "messages": {"type": "array", "items": {"$ref": "#/components/schemas/MessageOut"}},
        },
    },
    "ExportedChat": {
        "type": "object",
        "description": "The part of a chat that an export contains.",
        "required": ["id", "title", "metadata", "message_count", "created_at", "updated_at", "last_message_at"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "title": {"type": ["string", "null"]},
            "metadata": {"$ref": "#/components/schemas/Metadata"},
            "message_count": {"type": "integer"},
            "created_at": {"type": "string", "format": "date-time"},
            "updated_at": {"type": "string", "format": "date-time"},
            "last_message_at": {"type": ["string", "null"], "format": "date-time"},
        },
    },
    "LogEntry": {
        "type": "object",
        "description": "An event, with its ids, numbers and times; never content.",
        "required": ["seq", "kind", "at"],
        "properties": {
            "seq": {"type": "integer", "minimum": 1, "description": "Counts from 1 in your log, without gaps."},
            "kind": {
                "type": "string",
                "enum": [*(kind.value for kind in Kind), WITHHELD],
                "description": "`withheld` stands for a kind that only a key with the scope `govern` may read; the "
                "entry then has nothing but `seq` and `at`.",
            },
            "at": {"type": "string", "format": "date-time"},
            "chat_id": {"type": "string", "format": "uuid", "description": "The chat, if the entry is about one."},
            "actor": {
                "type": "string",
                "description": "The id of the key that requested it, or `expiry`, `retention`, `purge`, `operator`.",
            },
            "message_count": {
                "type": "integer",
                "description": "In `chat.…`: how many messages it had; in `sender.erased`: how many were erased.",
            },
            "export_sha256": {
                "type": "string",
                "description": "In `chat.deleted`: the SHA-256 of the export that the caller kept.",
            },
            "message_seq": {"type": "integer", "description": "In `message.…`: the `seq` of the message."},
            "purge_at": {
                "type": "string",
                "format": "date-time",
                "description": "In `chat.trashed`: until when the chat can be restored.",
            },
            "hold_id": {"type": "string", "format": "uuid", "description": "In `hold.…`: the hold."},
            "everything": {"type": "boolean", "description": "In `hold.…`: whether the hold is on all chats."},
            "chat_count": {"type": "integer", "description": "In `hold.…`: how many chats the hold is on."},
            "chat_ids": {**_CHAT_IDS, "description": "In `hold.placed`: the chats that the hold is on."},
            "added": {**_CHAT_IDS, "description": "In `hold.changed`: the chats that were added."},
            "removed": {**_CHAT_IDS, "description": "In `hold.changed`: the chats that were removed."},
            "erasure_id": {"type": "string", "format": "uuid", "description": "In `sender.erased`: the erasure."},
            "mode": {"type": "string", "description": "In `sender.erased`: `redact` or `remove`."},
            "delete_after_days": {
                "type": ["integer", "null"],
                "description": "In `retention.changed`: the days of the new policy; null if the policy was ended.",
            },
            "action": {"type": "string", "description": "In `retention.changed`: `delete` or `trash`."},
            "active_from": {
                "type": "string",
                "format": "date-time",
                "description": "In `retention.changed`: when the new policy takes effect.",
            },
            "hold_ids": {
                "type": "array",
                "items": {"type": "string", "format": "uuid"},
                "description": "In `deletion.refused`: the holds that forbade it.",
            },
        },
        "additionalProperties": False,
    },
    "LogPage": {
        "type": "object",
        "required": ["items", "next_after", "head"],
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/LogEntry"}},
            "next_after": {"type": "integer", "description": "Send it as `after` of the next request."},
            "head": {"type": "integer", "description": "The last `seq` of the log; 0 if it is empty."},
        },
        "additionalProperties": False,
    },
    "Problem": {
        "type": "object",
        "description": "An error, as in RFC 9457, with `success: false` in addition.",
        "required": ["type", "title", "status", "detail", "success", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, and what to do, for people."},
            "success": {"type": "boolean", "const": False},
            "code": {"type": "string", "enum": CODES, "description": "What is wrong, for programs to decide by."},
            "request_id": {"type": "string"},
            "errors": {"type": "object", "description": "With `validation_error`: for each field, what to change."},
            "reason": {"type": "string"},
            "required_scope": {"type": "string", "enum": [scope.value for scope in Scope]},
            "limited_scope": {"type": "string", "enum": [scope.value for scope in Scope]},
            "active_connections": {"type": "integer"},
            "holds": {
                "type": "array",
                "items": {"type": "string", "format": "uuid"},
                "description": "With `legal_hold`: the holds that forbid it.",
            },
            "deleted_at": {
                "type": "string",
                "format": "date-time",
                "description": "When your tenant deleted the chat.",
            },
            "deletion": {"type": "string", "format": "uri-reference", "description": "The path of the receipt."},
        },
    },
}
