"""Compares the rules of `tests/sharding.py` for each command with the real router of a cluster of two shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from benchmarks.cluster import BORDER, DATABASE, FIRST, SECOND, EmbeddedCluster, Member
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.repository.database import Database
from chat_service.repository.shape import COLLECTIONS
from tests.sharding import Place, Sent, shard_keys, statements
from tests.tour import record
from tests.wait import wait_until

pytestmark = pytest.mark.soak

PAYLOAD = {"filter", "sort", "limit", "projection", "pipeline", "documents", "updates", "deletes", "ordered"}
"""Fields to keep of a recorded command; its session and concerns belong to the server that it was sent to."""

ALL_AT_ONCE = {"find": {"batchSize": 10_000}, "aggregate": {"cursor": {"batchSize": 10_000}}}
"""Batch sizes that leave no cursor open: an open one would keep the documents that it reads from being moved."""

DUPLICATE = 11000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(tmp_path_factory.mktemp("cluster")) as started:
        started.shard({name: key for name, key in shard_keys().items() if key})
        yield started


def shards_asked(cluster: EmbeddedCluster, command: dict[str, Any]) -> list[str]:
    """Route a command, and return the names of the shards that the router asked."""
    cluster.route(command)  # once before: a router that does not know the collection yet asks the primary shard
    for shard in cluster.shards:
        database = shard.client[DATABASE]
        database.drop_collection("system.profile")
        database.command("profile", 2)
    try:
        refusals = [error for error in cluster.route(command).get("writeErrors", ()) if error["code"] != DUPLICATE]
    finally:
        for shard in cluster.shards:
            shard.client[DATABASE].command("profile", 0)
    assert not refusals, (command, refusals)
    return [shard.name for shard in cluster.shards if _was_asked(shard)]


def _was_asked(shard: Member) -> bool:
    namespaces = [f"{DATABASE}.{name}" for name in COLLECTIONS]
    return shard.client[DATABASE]["system.profile"].find_one({"ns": {"$in": namespaces}}) is not None


def routable(sent: Sent) -> dict[str, Any]:
    """Return the command; for one that this router does not know, a find of the same documents."""
    if sent.name in {"findAndModify", "distinct"}:
        (condition,) = statements(sent.name, sent.command)
        return {"find": sent.collection, "filter": condition}
    payload = {name: sent.command[name] for name in PAYLOAD & sent.command.keys()}
    return {sent.name: sent.collection, **payload, **ALL_AT_ONCE.get(sent.name, {})}


def test_the_router_asks_the_shards_that_the_rules_say(
    mongod: EmbeddedMongod, database: Database, cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    """The router asks the shards that the rules say, for every command of the tour and every tenant."""
    kinds = {}
    for sent in record(mongod.uri, database, tmp_path):
        kinds.setdefault((sent.function, sent.name, sent.collection, sent.place), sent)
    all_shards = [shard.name for shard in cluster.shards]
    wrong = []
    for sent in kinds.values():
        shards = shards_asked(cluster, routable(sent))
        is_right = {
            Place.TENANT: len(shards) == 1,
            Place.TENANTS: len(shards) in {1, 2},
            Place.PRIMARY: shards == all_shards[:1],
            Place.ALL: shards == all_shards,
        }
        if not is_right[sent.place]:
            wrong.append((sent.function, sent.name, sent.collection, sent.place, shards))
    assert not wrong
    assert len(kinds) > 200


def test_a_transaction_that_only_reads_on_another_shard_is_prepared_on_both(cluster: EmbeddedCluster) -> None:
    """A transaction that writes there is prepared on both, too; one on a single shard is prepared on none."""
    for read_tenant, prepared in (FIRST, 0), (SECOND, 2):
        before = cluster.prepared()
        find = {"find": "chats", "filter": {"_id": {"tenant_id": read_tenant, "chat_id": "c"}}}
        cluster.transact(
            [find, {"insert": "outbox", "documents": [{"_id": {"tenant_id": FIRST, "chat_id": read_tenant}}]}]
        )
        assert cluster.prepared() - before == prepared


def test_what_is_deleted_after_a_move_is_off_the_old_shard_with_its_orphans(cluster: EmbeddedCluster) -> None:
    """By default the server keeps orphans 15 minutes, whatever is deleted of them: docs/scale.md says what to set."""
    old, new = cluster.shards
    tenant_id, ids = "1" * 36, {"$gte": {"tenant_id": "1" * 36}, "$lte": {"tenant_id": "1" * 36, "chat_id": "g"}}
    documents = [{"_id": {"tenant_id": tenant_id, "chat_id": "c", "seq": seq}} for seq in range(100)]

    def count_left(shard: Member) -> int:
        return shard.client[DATABASE].messages.count_documents({"_id": ids})

    cluster.route({"insert": "messages", "documents": documents})
    old.client.admin.command({"setParameter": 1, "orphanCleanupDelaySecs": 5})
    cluster.move(tenant_id, new)
    assert cluster.route({"delete": "messages", "deletes": [{"q": {"_id": ids}, "limit": 0}]})["n"] == 100
    assert (count_left(old), count_left(new)) == (100, 0)
    wait_until(lambda: count_left(old) == 0, 60)


@pytest.mark.parametrize("name", ["messages", "log_entries"])
def test_a_clustered_collection_can_be_sharded_by_no_other_key(cluster: EmbeddedCluster, name: str) -> None:
    """It has no index but that of its `_id`, and the server requires an index that begins with the shard key."""
    database = cluster.shards[0].client[DATABASE]
    database.drop_collection("clustered")
    database.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True})
    database.clustered.insert_one({"_id": {"tenant_id": BORDER}})
    with pytest.raises(OperationFailure, match="Please create an index that starts with the proposed shard key"):
        cluster.shard({"clustered": ("_id.tenant_id",)})
    assert shard_keys()[name] == ("_id",)
