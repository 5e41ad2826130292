"""Resolves unknown outcomes as a caller would: it repeats the request, or reads the receipt."""

import json
import time
from collections.abc import Sequence

from tests.client import CHATS
from tests.soak.load import delete_all, move, post
from tests.soak.receipts import read_receipt
from tests.soak.record import Record, by_chat, by_operation
from tests.soak.wire import Answer, Wire

REPETITIONS = 20
PAUSE_SECONDS = 0.5


def settle(records: Sequence[Record], wire: Wire) -> list[Record]:
    """Repeat each request with a key and an unknown outcome until it is known; read the receipts of other deletes.

    Returns the records of these requests.
    """
    new_records: list[Record] = []
    for attempts in by_operation(records).values():
        if attempts[0].key is not None and _is_unknown(attempts):
            for _ in range(REPETITIONS):
                repeated = _repeat(attempts[0], wire)
                new_records.extend(repeated)
                if not any(record.is_unknown or record.status == 503 for record in repeated):
                    break
                time.sleep(PAUSE_SECONDS)
        elif attempts[0].kind == "delete" and _is_unknown(attempts):
            new_records.append(read_receipt(wire, attempts[0].chat_id, f"receipt of {attempts[0].operation}"))
    return new_records


def _is_unknown(attempts: Sequence[Record]) -> bool:
    """Whether an operation may have happened, or may still happen, although no answer said so.

    A later refusal does not settle it: the request without an answer may have run after that.
    """
    return any(
        any(record.is_unknown for record in chat_attempts) and not any(record.succeeded for record in chat_attempts)
        for chat_attempts in by_chat(attempts).values()
    )


def _repeat(first: Record, wire: Wire) -> list[Record]:
    if first.kind == "bulk":
        return delete_all(wire, list(first.parts), first.operation)
    if first.kind == "post":
        answer = post(wire, first.chat_id, first.parts, first.key)
    elif first.kind == "create":
        answer = wire.send("POST", CHATS, {"title": first.operation}, first.key)
    elif first.kind in {"trash", "restore"}:
        answer = move(wire, first.kind, first.chat_id, first.key)
    else:
        answer = wire.send("DELETE", f"{CHATS}/{first.chat_id}", key=first.key)
    chat_id = first.chat_id or (json.loads(answer.body)["id"] if answer.status == 201 else "")
    return [_record(first.kind, chat_id, first.operation, answer, first.key, first.parts)]


def _record(
    kind: str, chat_id: str, operation: str, answer: Answer, key: str | None, parts: tuple[str, ...] = ()
) -> Record:
    body = answer.body if answer.status in {200, 201} else b""
    return Record(kind, chat_id, operation, answer.began, answer.ended, answer.status, answer.code, key, parts, body)
