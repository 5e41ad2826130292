"""How fast is DELETE over HTTP: against raw pymongo, and against what others would build?

All delete chats of the same size on the same mongod, from the same number of clients, in turns within one run. A ratio
is taken for each round, and the median of the ratios is reported: how busy the machine is affects both halves.

- floor: raw pymongo in threads, two commands and a commit: the chat and its messages, and nothing else.
- raw: the same with the five commands that the service sends: presence and the receipt as well.
- ours: this service, as it is deployed. FastAPI and Eve: see benchmarks/peers/.

    make bench                      the table below, benchmarks/results/delete.json, and the picture
    python -m benchmarks.delete --rounds 3 --chats 100     a quick look
"""

import argparse
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import pymongo
from pymongo.client_session import ClientSession
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from benchmarks.client import Client
from benchmarks.measure import RESULTS, Work, interleave, keep, medians, options, ratio, timed
from benchmarks.peers.running import EVE, FASTAPI, peer
from benchmarks.service import TENANT, Address, service
from chat_service.repository.keys import chat_key, message_key, message_range

CASES = [(10, 1), (10, 8), (10, 32), (1_000, 8)]

Collections = Any
Prepare = Callable[[int, int], list[str]]
"""Stores so many chats, each with so many messages, and returns the chats' ids."""


def chat_document(chat_id: str, messages: int, tenant_id: str = TENANT) -> dict[str, Any]:
    """Return a chat as the service stores it."""
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
    """Return a message as the service stores it."""
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


def prepare_for_eve(db: Collections, chats: int, messages: int) -> list[str]:
    """Store the same chats as Eve stores them, and return their ids."""
    ids = [str(uuid.uuid4()) for _ in range(chats)]
    now = datetime.now(UTC)
    eve_fields = {"tenant_id": TENANT, "_created": now, "_updated": now, "_etag": "0" * 40}
    db.chats.insert_many([{"_id": chat_id, "title": "bench", **eve_fields} for chat_id in ids])
    for chat_id in ids:
        content = message_document(chat_id, 1)["content"]
        db.messages.insert_many([{"chat_id": chat_id, "content": content, **eve_fields} for _ in range(messages)])
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


def floor_delete(client: pymongo.MongoClient[dict[str, Any]], db: Collections, chat_id: str) -> None:
    """Delete one chat and its messages, and nothing more."""

    def work(session: ClientSession) -> None:
        assert db.chats.delete_one({"_id": chat_key(TENANT, chat_id)}, session=session).deleted_count == 1
        db.messages.delete_many({"_id": message_range(TENANT, chat_id)}, session=session)

    with client.start_session(causal_consistency=False) as session:
        session.with_transaction(
            work, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern(w="majority", j=True)
        )


def http_delete(client: Client, chat_id: str) -> None:
    """Delete one chat over a kept-alive connection."""
    client.send("DELETE", f"/chats/{chat_id}")


class Side(NamedTuple):
    """One of the sides that are compared."""

    prepare: Prepare
    caller: Callable[[], Work]
    """Returns the work of one caller, with a client of its own."""


def over_http(address: Address, prepare: Prepare) -> Side:
    """Return the side of a service at `address`."""
    return Side(prepare, lambda: partial(http_delete, Client(address)))


@contextmanager
def all_sides() -> Iterator[dict[str, Side]]:
    """Start everything that is compared, and give the sides by name."""
    with (
        service() as (uri, address),
        pymongo.MongoClient[dict[str, Any]](uri, w="majority", maxPoolSize=10) as client,
        (RESULTS / "peers.log").open("wb") as log,
        peer(FASTAPI, uri, log) as fastapi,
        peer(EVE, uri.replace("/chat_service", "/eve"), log) as eve,
    ):
        db, eve_db = client.get_default_database(), client["eve"]
        eve_db.messages.create_index(["tenant_id", "chat_id"])
        prepare_ours, prepare_eve = partial(prepare, db), partial(prepare_for_eve, eve_db)
        yield {
            "floor": Side(prepare_ours, lambda: partial(floor_delete, client, db)),
            "raw": Side(prepare_ours, lambda: partial(raw_delete, client, db)),
            "ours": over_http(address, prepare_ours),
            "FastAPI": over_http(fastapi, prepare_ours),
            "Eve": over_http(eve, prepare_eve),
        }


def run_case(sides: Mapping[str, Side], messages: int, clients: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run one case for all rounds; return the medians of each side, and its ratio to each other side."""
    chats = args.chats if messages <= 100 else max(args.chats // 8, clients * 4)  # noqa: PLR2004
    callers = {name: [side.caller() for _ in range(clients)] for name, side in sides.items()}

    def run_round(name: str) -> dict[str, float]:
        return timed(callers[name], sides[name].prepare(chats, messages))

    results = interleave({name: partial(run_round, name) for name in sides}, args.rounds)
    return {
        name: {"messages": messages, "clients": clients}
        | medians(results[name])
        | {f"over_{other}": ratio(results, name, other) for other in sides}
        for name in sides
    }


def main() -> None:
    """Run all cases, print the table, write the JSON."""
    args = options(__doc__, rounds=7, chats=400).parse_args()
    results = []
    print("| messages | clients | | chats/s | p50 ms | p99 ms | CPU ms | over floor | over raw | ours over it |")
    print("|" + " --- |" * 10)
    with all_sides() as sides:
        for messages, clients in CASES:
            result = run_case(sides, messages, clients, args)
            results.append(result)
            for name, side in result.items():
                print(
                    f"| {messages:,} | {clients} | {name} | {side['per_second']:.0f} | {side['p50_ms']:.1f} "
                    f"| {side['p99_ms']:.1f} | {side['cpu_ms']:.2f} | {side['over_floor']:.2f} "
                    f"| {side['over_raw']:.2f} | {result['ours'][f'over_{name}']:.2f} |",
                    flush=True,
                )
    keep("delete", results)


if __name__ == "__main__":
    main()
