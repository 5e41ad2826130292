"""What the bulk operations have in common: a result for each chat, whatever the results of the others are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chat_service.api.parsing import parse_uuid
from chat_service.api.problems import DOMAIN, visible_error
from chat_service.errors import ChatServiceError, InvalidChatIdError


def for_each(
    chat_ids: Sequence[str], run: Callable[[list[str]], Mapping[str, Any]], describe: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """Return the results of `run`: what `describe` says of each success, and the status and code of each failure.

    An id that is not a UUID is a failure, and is not passed to `run`.
    """
    parsed = {chat_id: parse_uuid(chat_id) for chat_id in chat_ids}
    outcomes = dict(run([chat_id for chat_id in parsed.values() if chat_id is not None]))
    outcomes.update((chat_id, InvalidChatIdError()) for chat_id, uuid in parsed.items() if uuid is None)
    successful, failed = [], []
    for chat_id, outcome in outcomes.items():
        if isinstance(outcome, ChatServiceError):
            problem = DOMAIN[type(visible_error(outcome))]
            failed.append({"chat_id": chat_id, "status": problem.status, "code": problem.code})
        else:
            successful.append({"chat_id": chat_id, **describe(outcome)})
    return {"successful": successful, "failed": failed}
