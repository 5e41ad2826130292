"""How much of raw pymongo's speed does DELETE over HTTP keep?

Both delete chats of the same size with the same five commands, from the same number of clients, in turns within one
run: first raw pymongo in threads, then HTTP through the real gunicorn, then raw again, and so on. A ratio is taken for
each round, and the median of the ratios is reported: the machine's mood is in both halves of a ratio.

    make bench                      the table below, and benchmarks/results/delete.json
    python -m benchmarks.delete --rounds 3 --chats 100     a quick look
"""

import argparse
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pymongo
from pymongo.client_session import ClientSession
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from benchmarks.client import Client
from benchmarks.measure import Work, interleave, keep, medians, options, ratio, timed
from benchmarks.service import TENANT, service
from chat_service.repository.keys import chat_key, message_key, message_range

CASES = [(10, 1), (10, 8), (10, 32), (1_000, 8)]

Collections = Any


def chat_document(chat_id: str, messages: int, tenant_id: str = TENANT) -> dict[str, Any]:
    """Return a chat as the service keeps it."""
    now = datetime.now(UTC)
    return {
        "_id": chat_key(tenant_id, chat_id),
        "title": "bench",
        "metadata": {},
        "first_seq": 1,
        "next_seq": messages + 1,
        "message_count": messages,
        "connections_opened": 0,
        "revision": 1,
        "created_at": now,
        "updated_at": now,
        "last_message_at": now,
    }


def message_document(chat_id: str, seq: int) -> dict[str, Any]:
    """Return a message as the service keeps it."""
    return {
        "_id": message_key(TENANT, chat_id, seq),
        "role": "user",
        "sender_id": None,
        "content": "a message of ordinary length, as people write them " * 2,
        "metadata": {},
        "created_at": datetime.now(UTC),
    }


def prepare(db: Collections, chats: int, messages: int) -> list[str]:
    """Store `chats` chats of `messages` messages each, and return their ids."""
    ids = [f"{time.time_ns():016x}"[-8:] + f"-0000-4000-8000-{number:012x}" for number in range(chats)]
    for chat_id in ids:
        db.chats.insert_one(chat_document(chat_id, messages))
        db.messages.insert_many([message_document(chat_id, seq) for seq in range(1, messages + 1)])
    return ids


def raw_delete(client: pymongo.MongoClient[dict[str, Any]], db: Collections, chat_id: str) -> None:
    """Delete one chat as a careful program on bare pymongo would: the same five commands, with_transaction."""

    def work(session: ClientSession) -> None:
        presence = {"tenant_id": TENANT, "chat_id": chat_id}
        if list(db.presence.find(presence, {"_id": False, "expires_at": True}, session=session)):
            raise RuntimeError
        key = {"_id": chat_key(TENANT, chat_id)}
        if db.chats.find_one_and_delete(key, projection={"_id": True}, session=session) is None:
            raise RuntimeError
        removed = db.messages.delete_many({"_id": message_range(TENANT, chat_id)}, session=session)
        receipt = {**key, "deleted_at": datetime.now(UTC), "message_count": removed.deleted_count, "requested_by": "b"}
        db.deletions.insert_one(receipt, session=session)

    with client.start_session(causal_consistency=False) as session:
        session.with_transaction(
            work, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern(w="majority", j=True)
        )


def http_delete(client: Client, chat_id: str) -> None:
    """Delete one chat over a kept-alive connection."""
    client.send("DELETE", f"/chats/{chat_id}")


def run_case(
    db: Collections, address: tuple[str, int], messages: int, clients: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Run one case for all rounds and return its medians."""
    chats = args.chats if messages <= 100 else max(args.chats // 8, clients * 4)  # noqa: PLR2004
    callers = [Client(address) for _ in range(clients)]
    raw: list[Work] = [partial(raw_delete, db.client, db)] * clients
    over_http: list[Work] = [partial(http_delete, caller) for caller in callers]
    sides = {"raw": raw, "http": over_http}
    results = interleave(
        {side: partial(_round, db, workers, chats, messages) for side, workers in sides.items()}, args.rounds
    )
    for caller in callers:
        caller.close()
    found = {side: medians(rounds) for side, rounds in results.items()}
    return {"messages": messages, "clients": clients, "ratio": ratio(results, "http", "raw"), **found}


def _round(db: Collections, workers: list[Work], chats: int, messages: int) -> dict[str, float]:
    return timed(workers, prepare(db, chats, messages))


def main() -> None:
    """Run all cases, print the table, write the JSON."""
    args = options(__doc__, rounds=9, chats=400).parse_args()
    results = []
    print("messages clients |  raw: chats/s   p50   p99 | http: chats/s   p50   p99 | ratio")
    with service() as (uri, address), pymongo.MongoClient[dict[str, Any]](uri, w="majority", maxPoolSize=10) as client:
        for messages, clients in CASES:
            result = run_case(client.get_default_database(), address, messages, clients, args)
            results.append(result)
            sides = " | ".join(
                f"{result[side]['per_second']:12.0f} {result[side]['p50_ms']:5.1f} {result[side]['p99_ms']:5.1f}"
                for side in ("raw", "http")
            )
            print(f"{messages:8d} {clients:7d} | {sides} | {result['ratio']:.2f}", flush=True)
    keep("delete", results)


if __name__ == "__main__":
    main()
