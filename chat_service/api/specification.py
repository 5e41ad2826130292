"""The parts of the OpenAPI document that follow from no route, and from no schema of a view."""

from typing import Any

from chat_service.api import problems
from chat_service.api.parsing import IF_MATCH
from chat_service.models import WITHHELD, Kind, Scope

INFO = {
    "summary": "Chats of many tenants, deleted atomically, once, and for good.",
    "description": (
        "Send your tenant's API key in `X-API-Key`. Every error has one shape, `application/problem+json`, with a "
        "`code` to act on and a `request_id` to ask about. Lists page by `next_cursor`."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

SERVERS = [
    {"url": "/", "description": "Where this document was loaded from."},
    {
        "url": "{origin}",
        "description": "Where the service is, for a client that was generated from this document.",
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
    "description": "An `ETag` of the chat, or `*`: do it only if the chat is still as you saw it.",
    "schema": {"type": "string", "pattern": IF_MATCH},
}
IF_NONE_MATCH_FIELD = {
    "in": "header",
    "name": "If-None-Match",
    "description": "An `ETag` of the chat: answer 304 if it is still as you saw it.",
    "schema": {"type": "string"},
}
IDEMPOTENCY_KEY_FIELD = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "Your name for this request. For 24 hours the same key and request get the first answer again.",
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
    "description": "Of a live stream: the last `id` you have. It goes before `after`; browsers send it by themselves.",
    "schema": {"type": "string", "pattern": "^[0-9]{0,18}$"},
}

RATE_LIMIT_HEADERS = {
    "RateLimit": {
        "description": "What is left: `r` tokens, and the bucket is full in `t` seconds. Where there is a limit.",
        "schema": {"type": "string"},
        "example": '"delete";r=19;t=1',
    },
    "RateLimit-Policy": {
        "description": "The limit: a full bucket holds `q` tokens, and fills in `w` seconds. Where there is one.",
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
        "description": "An object of your own: at most 16 KiB as JSON, 32 levels deep, integers of at most 64 bits, no "
        "key with `.` or a first `$`.",
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
        "description": "What an export keeps of a chat.",
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
        "description": "What has happened, by ids, numbers and times; never content.",
        "required": ["seq", "kind", "at"],
        "properties": {
            "seq": {"type": "integer", "minimum": 1, "description": "Counts from 1 in your log, without gaps."},
            "kind": {
                "type": "string",
                "enum": [*(kind.value for kind in Kind), WITHHELD],
                "description": "`withheld`: of holds, which only a key with the scope `govern` reads; nothing else is "
                "in such an entry.",
            },
            "at": {"type": "string", "format": "date-time"},
            "chat_id": {"type": "string", "format": "uuid", "description": "Of what is of a chat."},
            "actor": {
                "type": "string",
                "description": "The id of the key that asked for it; or `expiry`, `retention`, `purge`, `operator`.",
            },
            "message_count": {
                "type": "integer",
                "description": "Of `chat.…`: how many messages it had; of `sender.erased`: how many were erased.",
            },
            "export_sha256": {"type": "string", "description": "Of `chat.deleted`: of the export that was kept."},
            "message_seq": {"type": "integer", "description": "Of `message.…`: which message."},
            "purge_at": {"type": "string", "format": "date-time", "description": "Of `chat.trashed`: until when."},
            "hold_id": {"type": "string", "format": "uuid", "description": "Of `hold.…`: which hold."},
            "everything": {"type": "boolean", "description": "Of `hold.…`: whether it is on all chats."},
            "chat_count": {"type": "integer", "description": "Of `hold.…`: on how many chats it is."},
            "chat_ids": {**_CHAT_IDS, "description": "Of `hold.placed`: on which chats."},
            "added": {**_CHAT_IDS, "description": "Of `hold.changed`: which chats it is on from now on."},
            "removed": {**_CHAT_IDS, "description": "Of `hold.changed`: which it is not on any more."},
            "erasure_id": {"type": "string", "format": "uuid", "description": "Of `sender.erased`: which erasure."},
            "mode": {"type": "string", "description": "Of `sender.erased`: `redact` or `remove`."},
            "delete_after_days": {
                "type": ["integer", "null"],
                "description": "Of `retention.changed`: the new policy; null if there is none any more.",
            },
            "action": {"type": "string", "description": "Of `retention.changed`: `delete` or `trash`."},
            "active_from": {
                "type": "string",
                "format": "date-time",
                "description": "Of `retention.changed`: from when on it is in force.",
            },
            "hold_ids": {
                "type": "array",
                "items": {"type": "string", "format": "uuid"},
                "description": "Of `deletion.refused`: which holds kept the chat.",
            },
        },
        "additionalProperties": False,
    },
    "LogPage": {
        "type": "object",
        "required": ["items", "next_after", "head"],
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/LogEntry"}},
            "next_after": {"type": "integer", "description": "What to ask with next, as `after`."},
            "head": {"type": "integer", "description": "The last seq there is."},
        },
        "additionalProperties": False,
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457, with `success: false` beside it.",
        "required": ["type", "title", "status", "detail", "success", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What to do."},
            "success": {"type": "boolean", "const": False},
            "code": {"type": "string", "enum": CODES, "description": "What to act on."},
            "request_id": {"type": "string"},
            "errors": {"type": "object", "description": "With `validation_error`: what to change, by field."},
            "reason": {"type": "string"},
            "required_scope": {"type": "string", "enum": [scope.value for scope in Scope]},
            "limited_scope": {"type": "string", "enum": [scope.value for scope in Scope]},
            "active_connections": {"type": "integer"},
            "holds": {
                "type": "array",
                "items": {"type": "string", "format": "uuid"},
                "description": "With `legal_hold`: which holds keep the chat.",
            },
            "deleted_at": {"type": "string", "format": "date-time", "description": "When your tenant has deleted it."},
            "deletion": {"type": "string", "format": "uri-reference", "description": "Where the receipt of that is."},
        },
    },
}
