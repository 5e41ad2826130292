"""How fast can sixteen posters post to one and the same chat?

Both sides run the same transaction (touch the chat, insert the message, commit). All posts write the chat's document,
so the raw side conflicts and starts again, as the driver's `with_transaction` does it.

    python -m benchmarks.hot
"""

from functools import partial
from typing import Any

import pymongo

from benchmarks.client import Client
from benchmarks.delete import chat_document
from benchmarks.measure import interleave, keep, medians, options, ratio, timed
from benchmarks.posting import http_post, raw_post
from benchmarks.service import TENANT, service
from chat_service.repository.keys import chat_key, message_range

POSTERS = 16
RAW_CHAT, HTTP_CHAT = (f"55555555-0000-4000-8000-{number:012x}" for number in range(2))


def main() -> None:
    """Run, print the figures, write the JSON."""
    args = options(__doc__, rounds=7, posts=1_600).parse_args()
    with service() as (uri, address), pymongo.MongoClient[dict[str, Any]](uri, w="majority", maxPoolSize=20) as client:
        db = client.get_default_database()
        db.chats.insert_many([chat_document(chat_id, 0) for chat_id in (RAW_CHAT, HTTP_CHAT)])
        callers = [Client(address) for _ in range(POSTERS)]
        posters = [partial(http_post, caller) for caller in callers]
        sides = {
            # A quarter of the posts, because it is so much slower.
            "raw": partial(timed, [partial(raw_post, db)] * POSTERS, [RAW_CHAT] * (args.posts // 4)),
            "http": partial(timed, posters, [HTTP_CHAT] * args.posts),
        }
        results = interleave(sides, args.rounds)
        for caller in callers:
            caller.close()
        check(db, (args.rounds + 1) * args.posts)
    medians_by_side = {side: medians(figures) for side, figures in results.items()}
    for side, figures in medians_by_side.items():
        print(f"{side:4}: {figures['per_second']:5.0f}/s, p50 {figures['p50_ms']:.1f}, p99 {figures['p99_ms']:.1f} ms")
    print(f"ratio: {ratio(results, 'http', 'raw'):.2f}", flush=True)
    keep("hot", {"posters": POSTERS, "ratio": ratio(results, "http", "raw"), **medians_by_side})


def check(db: Any, posts: int) -> None:
    """Assert that every post is stored once, and that the seqs have no gap and no duplicate."""
    chat = db.chats.find_one({"_id": chat_key(TENANT, HTTP_CHAT)})
    seqs = [
        message["_id"]["seq"] for message in db.messages.find({"_id": message_range(TENANT, HTTP_CHAT)}, {"_id": True})
    ]
    assert chat["message_count"] == posts, chat["message_count"]
    assert sorted(seqs) == list(range(1, posts + 1))


if __name__ == "__main__":
    main()
