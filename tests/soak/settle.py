"""What a caller does that does not know what became of its request: it asks again."""

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
    """Repeat what has a key until its outcome is told, and ask for the receipts of other deletes.

    Returns the requests this took, as records.
    """
    asked: list[Record] = []
    for told in by_operation(records).values():
        if told[0].key is not None and _is_unknown(told):
            for _ in range(REPETITIONS):
                again = _repeat(told[0], wire)
                asked.extend(again)
                if not any(record.is_unknown or record.status == 503 for record in again):
                    break
                time.sleep(PAUSE_SECONDS)
        elif told[0].kind == "delete" and _is_unknown(told):
            asked.append(read_receipt(wire, told[0].chat_id, f"receipt of {told[0].operation}"))
    return asked


def _is_unknown(told: Sequence[Record]) -> bool:
    """Whether a request may have happened, or may still, without that anybody was told.

    A later refusal does not settle it: the request that nobody heard of may have had its turn after that.
    """
    return any(
        any(record.is_unknown for record in of_chat) and not any(record.succeeded for record in of_chat)
        for of_chat in by_chat(told).values()
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
