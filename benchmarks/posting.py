"""How much of raw pymongo's speed does posting a message over HTTP keep?

Both run the same transaction (touch the chat, insert the message, commit) over 64 chats, in turns, with one client and
with eight.

    python -m benchmarks.posting
"""

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pymongo
from pymongo.client_session import ClientSession
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from benchmarks.client import Client
from benchmarks.delete import chat_document, message_document
from benchmarks.measure import interleave, keep, medians, options, ratio, timed
from benchmarks.service import TENANT, Address, service
from chat_service.repository.keys import chat_key

CLIENTS = (1, 8)
CHATS = [f"44444444-0000-4000-8000-{number:012x}" for number in range(64)]
BODY = {"content": "a message of ordinary length, as people write them " * 2}


def raw_post(db: Any, chat_id: str) -> None:
    """Post one message as a careful program on bare pymongo would."""

    def work(session: ClientSession) -> None:
        now = datetime.now(UTC)
        change = {
            "$inc": {"next_seq": 1, "message_count": 1, "revision": 1},
            "$set": {"updated_at": now, "last_message_at": now},
        }
        key = {"_id": chat_key(TENANT, chat_id)}
        chat = db.chats.find_one_and_update(key, change, projection={"next_seq": True}, session=session)
        db.messages.insert_many([message_document(chat_id, chat["next_seq"])], session=session)

    with db.client.start_session(causal_consistency=False) as session:
        session.with_transaction(
            work, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern(w="majority", j=True)
        )


def http_post(client: Client, chat_id: str) -> None:
    """Post one message over a kept-alive connection."""
    client.send("POST", f"/chats/{chat_id}/messages", BODY)


def main() -> None:
    """Run, print the figures, write the JSON."""
    args = options(__doc__, rounds=9, posts=640).parse_args()
    with service() as (uri, address), pymongo.MongoClient[dict[str, Any]](uri, w="majority", maxPoolSize=10) as client:
        db = client.get_default_database()
        db.chats.insert_many([chat_document(chat_id, 0) for chat_id in CHATS])
        items = CHATS * (args.posts // len(CHATS))
        keep("posting", [run_case(db, address, clients, items, args.rounds) for clients in CLIENTS])


def run_case(db: Any, address: Address, clients: int, items: list[str], rounds: int) -> dict[str, Any]:
    """Run both sides with so many clients; print the figures and return them."""
    callers = [Client(address) for _ in range(clients)]
    sides = {
        "raw": partial(timed, [partial(raw_post, db)] * clients, items),
        "http": partial(timed, [partial(http_post, caller) for caller in callers], items),
    }
    results = interleave(sides, rounds)
    for caller in callers:
        caller.close()
    medians_by_side = {side: medians(figures) for side, figures in results.items()}
    print(f"{clients} clients")
    for side, figures in medians_by_side.items():
        print(f"{side:4}: {figures['per_second']:5.0f}/s, p50 {figures['p50_ms']:.1f}, p99 {figures['p99_ms']:.1f} ms")
    print(f"ratio: {ratio(results, 'http', 'raw'):.2f}", flush=True)
    return {"clients": clients, "ratio": ratio(results, "http", "raw"), **medians_by_side}


if __name__ == "__main__":
    main()
