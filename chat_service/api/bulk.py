"""What the operations on many chats have in common: a result for each, whatever becomes of the others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chat_service.api.parsing import parse_uuid
from chat_service.api.problems import DOMAIN, as_told
from chat_service.errors import ChatServiceError, InvalidChatIdError


def for_each(
    chat_ids: Sequence[str], run: Callable[[list[str]], Mapping[str, Any]], describe: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """Return what `run` made of the chats: `describe` says it of each that went well, and a code of each that did not.

    An id that is no UUID is one of these, and is not run.
    """
    parsed = {chat_id: parse_uuid(chat_id) for chat_id in chat_ids}
    outcomes = dict(run([chat_id for chat_id in parsed.values() if chat_id is not None]))
    outcomes.update((chat_id, InvalidChatIdError()) for chat_id, uuid in parsed.items() if uuid is None)
    successful, failed = [], []
    for chat_id, outcome in outcomes.items():
        if isinstance(outcome, ChatServiceError):
            problem = DOMAIN[type(as_told(outcome))]
            failed.append({"chat_id": chat_id, "status": problem.status, "code": problem.code})
        else:
            successful.append({"chat_id": chat_id, **describe(outcome)})
    return {"successful": successful, "failed": failed}
