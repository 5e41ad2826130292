"""The frames of a connection: JSON objects in text frames, distinguished by their `type`."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from marshmallow import ValidationError, fields, post_load

from chat_service.api.message_schemas import MessageIn, message_json
from chat_service.api.problems import DOMAIN
from chat_service.api.schemas import ChatOut
from chat_service.api.strict_json import parse_json
from chat_service.errors import ChatServiceError, InvalidJsonError, ValidationFailedError
from chat_service.models import Chat, IdempotencyKey, Message, NewMessage
from chat_service.realtime.closing import BAD_FRAME, ClosedError

_CLIENT_ID = re.compile(r"[!-~]{1,100}", re.ASCII)

_CHAT = ChatOut()


@dataclass(frozen=True, slots=True)
class MessageCreate:
    """A message that a client posts, and the client's own id for it."""

    message: NewMessage
    client_id: str | None

    def idempotency_key(self, tenant_id: str, chat_id: str, text: str) -> IdempotencyKey | None:
        """Return the key that makes a frame sent again after a reconnect the same message; None without `client_id`."""
        if self.client_id is None:
            return None
        # No key that a caller can send over HTTP contains a space, so the two kinds never collide.
        return IdempotencyKey(tenant_id, f"ws {chat_id} {self.client_id}", sha256(text.encode()).hexdigest())


class _Frame(MessageIn):
    client_id = fields.String(load_default=None, allow_none=True)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> MessageCreate:
        """Return what the frame asks for."""
        client_id = data.pop("client_id")
        if client_id is not None and not _CLIENT_ID.fullmatch(client_id):
            raise ValidationError("Must be 1 to 100 visible ASCII characters, without spaces.", "client_id")
        return MessageCreate(NewMessage(**data), client_id)


_FRAME = _Frame()


def read(text: str) -> tuple[MessageCreate | ValidationFailedError, str | None]:
    """Return the post in a client's frame, or what is wrong with its fields; and its `client_id` if it has one.

    Raises:
        ClosedError: it is not a frame of this protocol.
    """
    try:
        frame = parse_json(text.encode("utf-8", "surrogatepass"))
    except InvalidJsonError:
        raise ClosedError(BAD_FRAME) from None
    if not isinstance(frame, dict) or frame.pop("type", None) != "message.create":
        raise ClosedError(BAD_FRAME)
    client_id = frame.get("client_id")
    client_id = client_id if isinstance(client_id, str) and _CLIENT_ID.fullmatch(client_id) else None
    try:
        create: MessageCreate = _FRAME.load(frame)
    except ValidationError as error:
        messages = error.messages
        return ValidationFailedError(messages if isinstance(messages, dict) else {"frame": messages}), client_id
    return create, client_id


def message_created(message: Message) -> str:
    """Return the frame that carries a message."""
    return _text({"type": "message.created", "message": message_json(message)})


def with_client_id(frame: str, client_id: str) -> str:
    """Return the frame with the `client_id`, for the connection that posted the message with it."""
    return f'{frame[:-1]},"client_id":{_text(client_id)}}}'


def chat_updated(chat: Chat) -> str:
    """Return the frame that carries a chat as it is now."""
    return _text({"type": "chat.updated", "chat": _CHAT.dump(chat)})


def chat_deleted(chat_id: str) -> str:
    """Return the last frame of a connection to a chat that was deleted."""
    return _text({"type": "chat.deleted", "chat_id": chat_id})


def error(problem: ChatServiceError, client_id: str | None) -> str:
    """Return the frame that says why a client's request was not done, with the members of a problem."""
    row = DOMAIN[type(problem)]
    extras = dict(row.extras(problem))
    if "Retry-After" in row.headers(problem):
        extras["retry_after"] = int(row.headers(problem)["Retry-After"])
    if client_id is not None:
        extras["client_id"] = client_id
    return _text({"type": "error", "code": row.code, "detail": row.detail, **extras})


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()
