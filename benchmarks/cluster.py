"""What a transaction over two shards costs against one on a single shard, and a move, on a real cluster.

    python -m benchmarks.cluster

A config server and two shards, each a replica set of one member; collections and zones as in docs/scale.md. There is no
mongos: since 6.0 a shard's mongod contains the same router, for its own transactions. Here it routes ours too, by the
commands that MongoDB's own tests use (`enableTestCommands`). It does not route `findAndModify`, so the chat is found by
one command and deleted by another.
"""

import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pymongo
from bson import MaxKey, MinKey
from pymongo.errors import PyMongoError

from benchmarks.measure import Side, interleave, keep, medians, options, ratio, timed
from chat_service.embedded.mongod import launch
from chat_service.embedded.process import EmbeddedError, free_port, stop
from chat_service.models import MAX_SEQ
from chat_service.repository.shape import COLLECTIONS, OPTIONS

Document = dict[str, Any]
Client = pymongo.MongoClient[Document]

DATABASE = "chat_service"
MAJORITY = {"writeConcern": {"w": "majority"}}

ROUTED = {
    "find": "clusterFind",
    "aggregate": "clusterAggregate",
    "insert": "clusterInsert",
    "update": "clusterUpdate",
    "delete": "clusterDelete",
}

START_SECONDS = 60

BORDER = "8"
"""Tenants whose ids are not less than this are on the second shard."""

FIRST, SECOND = "0" * 36, "f" * 36
"""A tenant on each shard."""


class Member:
    """A config server or a shard: a replica set of one."""

    def __init__(self, data: Path, name: str, role: str) -> None:
        self.name = name
        self.port = free_port()
        self._process = launch(data / name, self.port, ("enableTestCommands=1",), ("--replSet", name, role))
        self.client = Client("127.0.0.1", self.port, directConnection=True, retryWrites=False)
        self._config: Document = {"_id": name, "members": [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]}
        if role == "--configsvr":
            self._config["configsvr"] = True

    def begin(self) -> None:
        """Initiate the replica set, and wait until the member is its primary.

        Raises:
            EmbeddedError: it did not become primary.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if self.client.admin.command("hello")["isWritablePrimary"]:
                    return
                self.client.admin.command({"replSetInitiate": self._config})
            except PyMongoError:
                pass  # the member is starting, or its set is already initiated
            time.sleep(0.1)
        raise EmbeddedError(f"{self.name} did not become primary within {START_SECONDS} s.")

    def stop(self) -> None:
        """Stop the member."""
        self.client.close()
        stop(self._process, START_SECONDS)


class EmbeddedCluster:
    """Two shards and a config server; a context manager that stops them at the end."""

    def __init__(self, data: Path) -> None:
        """Prepare to run in folders below `data`."""
        self._data = data
        self._members: list[Member] = []

    def __enter__(self) -> Self:
        """Start the members, and make them a cluster with the service's collections, none of them sharded.

        Raises:
            EmbeddedError: a member did not start.
        """
        try:
            for name, role in ("config", "--configsvr"), ("first", "--shardsvr"), ("second", "--shardsvr"):
                self._members.append(Member(self._data, name, role))
            self._join()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the members."""
        self._stop()

    def _stop(self) -> None:
        for member in self._members:
            member.stop()

    def _join(self) -> None:
        self._config, *self.shards = self._members
        for member in self._members:
            member.begin()
        # Zones that exist before a collection is sharded place its chunks at once. The balancer must not move them.
        self._config.client.admin.command({"_configsvrBalancerStop": 1})
        for shard in self.shards:
            address = f"{shard.name}/127.0.0.1:{shard.port}"
            self._admin({"_configsvrAddShard": address, "name": shard.name})
            self._admin({"_configsvrAddShardToZone": shard.name, "zone": shard.name})
        self._admin({"_configsvrCreateDatabase": DATABASE, "primaryShardId": self.shards[0].name})
        database = self.shards[0].client[DATABASE]
        for name, indexes in COLLECTIONS.items():
            database.create_collection(name, **OPTIONS.get(name, {}))
            if indexes:
                database[name].create_indexes(indexes)

    def _admin(self, command: Document) -> Document:
        return self._config.client.admin.command({**command, **MAJORITY})

    def shard(self, keys: Mapping[str, Sequence[str]]) -> None:
        """Shard the collections by these keys, with the tenants from `BORDER` on on the second shard."""
        version = self._config.client.config.databases.find_one({"_id": DATABASE})
        assert version is not None
        for name, key in keys.items():
            namespace, border = f"{DATABASE}.{name}", _border(key)
            ends = [dict.fromkeys(key, MinKey()), border, dict.fromkeys(key, MaxKey())]
            for shard, (lower, upper) in zip(self.shards, pairwise(ends), strict=True):
                zone = {"min": lower, "max": upper, "zone": shard.name}
                self._admin({"_configsvrUpdateZoneKeyRange": namespace, **zone})
            command = {"_shardsvrCreateCollection": name, "shardKey": dict.fromkeys(key, 1)}
            self.shards[0].client[DATABASE].command({**command, "databaseVersion": version["version"], **MAJORITY})

    def move(self, tenant_id: str, to: Member) -> None:
        """Move the messages of a tenant to a shard; return when the move is complete."""
        lower, upper = ({"_id": {"tenant_id": end}} for end in (tenant_id, f"{tenant_id}\0"))
        self._admin({"_configsvrMoveRange": f"{DATABASE}.messages", "min": lower, "max": upper, "toShard": to.name})

    def route(self, command: Document) -> Document:
        """Run one command through the router, and return its reply."""
        name, *rest = command.items()
        reply: Document = self.shards[0].client[DATABASE].command({ROUTED[name[0]]: name[1], **dict(rest)})
        return reply

    def transact(self, commands: Iterable[Document]) -> None:
        """Run commands as one transaction, on the shards that they concern, and commit it."""
        steps = [{"dbName": DATABASE, "command": command, "assertSucceeds": True} for command in commands]
        self.shards[0].client.admin.command(
            {"testInternalTransactions": 1, "useClusterClient": True, "commandInfos": steps}
        )

    def prepared(self) -> int:
        """Return how many transactions the shards have prepared so far: only those on several shards are prepared."""
        return sum(
            int(shard.client.admin.command("serverStatus")["transactions"]["totalPrepared"]) for shard in self.shards
        )


def _border(key: Sequence[str]) -> Document:
    first, *others = key
    bound = {"tenant_id": BORDER} if first == "_id" else BORDER
    return {first: bound, **dict.fromkeys(others, MinKey())}


KEYS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("chats", "messages", "deletions"), ("_id",)),
    "presence": ("tenant_id", "chat_id"),
}
"""The shard keys of the collections that a delete touches, as in docs/scale.md."""


def make_chat(cluster: EmbeddedCluster, tenant_id: str) -> Document:
    """Make a chat of 10 messages, and return its key."""
    key = {"tenant_id": tenant_id, "chat_id": str(uuid.uuid4())}
    messages = [{"_id": {**key, "seq": seq}, "content": "Hello"} for seq in range(1, 11)]
    cluster.route({"insert": "chats", "documents": [{"_id": key, "message_count": 10}]})
    cluster.route({"insert": "messages", "documents": messages})
    return key


def delete(cluster: EmbeddedCluster, key: Document, receipt_of: str) -> None:
    """Delete a chat as the service does. If `receipt_of` is a tenant on the other shard, the transaction is on both."""
    tenant_id, chat_id = key["tenant_id"], key["chat_id"]
    message_keys = {"$gte": {**key, "seq": 1}, "$lte": {**key, "seq": MAX_SEQ}}
    cluster.transact(
        [
            {"find": "presence", "filter": {"tenant_id": tenant_id, "chat_id": {"$in": [chat_id]}}},
            {"find": "chats", "filter": {"_id": key}},
            {"delete": "chats", "deletes": [{"q": {"_id": key}, "limit": 0}]},
            {"delete": "messages", "deletes": [{"q": {"_id": message_keys}, "limit": 0}]},
            {"insert": "deletions", "documents": [{"_id": {**key, "tenant_id": receipt_of}}]},
        ]
    )


def side(cluster: EmbeddedCluster, clients: int, deletes: int, *, on_both: bool) -> Side:
    """Return a side of the comparison: so many clients delete chats of both shards' tenants at once."""

    def run() -> dict[str, float]:
        keys = [make_chat(cluster, (FIRST, SECOND)[number % 2]) for number in range(deletes)]
        before = cluster.prepared()

        def work(key: Document) -> None:
            other = SECOND if key["tenant_id"] == FIRST else FIRST
            delete(cluster, key, other if on_both else key["tenant_id"])

        result = timed([work] * clients, keys)
        prepared = cluster.prepared() - before
        assert prepared == (2 * deletes if on_both else 0), prepared  # else this would measure something else
        return result

    return run


def moved_a_second(cluster: EmbeddedCluster, messages: int) -> float:
    """Move a tenant with so many messages, and return the messages moved per second."""
    tenant_id = "1" * 36
    for chat_id in range(messages // 1_000):
        keys = ({"tenant_id": tenant_id, "chat_id": str(chat_id), "seq": seq} for seq in range(1_000))
        documents = [{"_id": key, "role": "user", "content": "x" * 80, "metadata": {}} for key in keys]
        cluster.route({"insert": "messages", "documents": documents})
    began = time.perf_counter()
    cluster.move(tenant_id, cluster.shards[1])
    return messages / (time.perf_counter() - began)


def main() -> None:
    """Run, print the figures, write the JSON."""
    args = options(__doc__, rounds=7, deletes=200, moved=200_000).parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedCluster(Path(folder)) as cluster:
        cluster.shard(KEYS)
        result: dict[str, Any] = {}
        for clients in (1, 8):
            sides = {
                "one shard": side(cluster, clients, args.deletes, on_both=False),
                "two shards": side(cluster, clients, args.deletes, on_both=True),
            }
            results = interleave(sides, args.rounds)
            result[f"{clients} clients"] = {name: medians(rounds) for name, rounds in results.items()} | {
                "two over one, p50": ratio(results, "two shards", "one shard", "p50_ms"),
                "two over one, deletes a second": ratio(results, "two shards", "one shard"),
            }
        result["messages moved a second"] = moved_a_second(cluster, args.moved)
        for title, value in result.items():
            print(title, value, flush=True)
        keep("cluster", result)


if __name__ == "__main__":
    main()
