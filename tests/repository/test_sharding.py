"""For a sharded cluster, each command names its tenant by the shard key, or docs/scale.md says why it does not."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.repository.database import Database
from chat_service.repository.shape import COLLECTIONS
from tests.repository.test_doors import functions
from tests.sharding import PLUMBING, SCALE, Place, Sent, place_of, rows, shard_keys, statements, table
from tests.tour import record

SENDS = re.compile(
    r"\.(?:find|find_one|find_one_and_delete|find_one_and_update|insert_one|insert_many|update_one|update_many"
    r"|replace_one|delete_one|delete_many|count_documents|aggregate|aggregate_raw_batches|distinct|bulk_write)\("
    r"|\btx\.(?:command|read|log)\(|\bunbound\(\)\.command\(|\blatest_first\("
)

OF_NO_DOCUMENT = {
    "orphans.Orphans._look",  # $currentOp
    "traffic.chat_operations",  # $collStats
}
"""Functions whose command reads no document of a collection."""

T, U = "0e0e", "f0f0"


@pytest.fixture(scope="module")
def sent(
    mongod: EmbeddedMongod, real_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Sent]]:
    for collection in real_database.collections.values():
        collection.delete_many({})
    yield record(mongod.uri, real_database, tmp_path_factory.mktemp("tour"))
    real_database.rules._tenants.clear()


def test_each_collection_has_a_row_in_the_table_of_shard_keys() -> None:
    missing, gone = COLLECTIONS.keys() - shard_keys().keys(), shard_keys().keys() - COLLECTIONS.keys()
    assert not missing, f"Give {missing} rows in the table of shard keys in docs/scale.md, and lines in its script."
    assert not gone, f"Take {gone} out of docs/scale.md."
    assert all(len(row) == 3 and len(row[2]) > 10 for row in table("collection")), "each with a reason"


def test_each_shard_key_has_an_index() -> None:
    """The server needs an index that begins with the key, unless that is `_id`; `db init` creates it."""
    for name, key in shard_keys().items():
        indexes = [
            list(index.document["key"])
            for index in COLLECTIONS[name]
            if "partialFilterExpression" not in index.document
        ]
        assert key in {(), ("_id",)} or any(tuple(index[: len(key)]) == key for index in indexes), name


def test_the_script_shards_by_the_same_keys() -> None:
    """The mongosh script in docs/scale.md has the keys of the table there."""
    script = re.search(r"```js\n(.*?)```", SCALE.read_text(), re.DOTALL)
    assert script
    keys = {}
    for names, key in re.findall(r"\[([^\]]*)\], (\{[^}]*\})", script[1]):
        keys |= dict.fromkeys(re.findall(r"\w+", names), tuple(re.findall(r"([\w.]+)\"?: 1", key)))
    assert keys == {name: key for name, key in shard_keys().items() if key}


def test_the_tour_calls_every_function_that_sends_a_command(sent) -> None:
    sending = {name for name, source in functions().items() if SENDS.search(source)}
    own = {name for name in sending if name.partition(".")[0] not in PLUMBING}
    uncalled = own - {command.function for command in sent} - OF_NO_DOCUMENT
    assert not uncalled, f"The commands of {sorted(uncalled)} are not recorded: call them in tests/tour.py."


def test_each_command_names_its_tenant_or_has_a_reason(sent) -> None:
    scattered = [command for command in sent if command.place in {Place.ALL, Place.TENANTS}]
    functions_of_scattered = {command.function for command in scattered}
    listed = set(re.findall(r"`(\w+\.[\w.]+)`", "".join(row[0] for row in table("functions"))))
    problems = {
        f"{command.function} sends `{command.name}` of `{command.collection}` to {command.place}: name the tenant by "
        "the shard key of docs/scale.md, or say there, in the table `functions`, why it need not."
        for command in scattered
        if command.function not in listed
    }
    assert not problems, "\n".join(sorted(problems))
    outdated = listed - functions_of_scattered
    assert not outdated, f"{outdated} go to one shard now: take them out of docs/scale.md."
    assert all(len(row) == 3 and len(row[2]) > 20 for row in table("functions")), "each with a reason"


def test_a_change_of_one_document_names_its_shard(sent) -> None:
    """Otherwise servers before 7.0 refuse it, and later ones ask all shards first."""
    problems = {
        f"{command.function} changes one document of `{command.collection}` without naming its shard: name the tenant "
        "by the shard key of docs/scale.md, or leave the collection unsharded."
        for command in sent
        for condition in _conditions_for_one(command)
        if place_of(shard_keys().get(command.collection, ("_id",)), [condition]) not in {Place.TENANT, Place.PRIMARY}
    }
    assert not problems, "\n".join(sorted(problems))


def _conditions_for_one(sent: Sent) -> list[Any]:
    """Return the conditions by which a command changes a single document."""
    if sent.name == "findAndModify":
        return [sent.command["query"]]
    changes = [*sent.command.get("updates", ()), *sent.command.get("deletes", ())]
    return [change["q"] for change in changes if not change.get("multi") and change.get("limit") != 0]


def test_the_table_of_operations_says_where_each_goes(sent) -> None:
    expected = rows(sent)
    assert [" | ".join(row).strip() for row in table("operation")] == expected, (
        "docs/scale.md should say:\n" + "\n".join(f"| {row} |" for row in expected)
    )


@pytest.mark.parametrize(
    ("key", "condition", "place"),
    [
        (("_id",), {"_id": {"tenant_id": T, "chat_id": "c"}}, Place.TENANT),
        (("_id",), {"_id": {"$in": [{"tenant_id": T}, {"tenant_id": U}]}}, Place.TENANTS),
        (("_id",), {"_id": {"$gte": {"tenant_id": T}, "$lte": {"tenant_id": T, "chat_id": "g"}}}, Place.TENANT),
        (("_id",), {"_id": {"$gte": {"tenant_id": T}, "$lte": {"tenant_id": U}}}, Place.ALL),
        (("_id",), {"_id": {"$gt": {"tenant_id": T}}}, Place.ALL),
        (("_id",), {"_id.tenant_id": T}, Place.ALL),
        (("_id",), {"$or": [{"_id": {"tenant_id": T}}, {"_id": {"tenant_id": T, "chat_id": "c"}}]}, Place.TENANT),
        (("_id",), {"$or": [{"_id": {"tenant_id": T}}, {"kind": "x"}]}, Place.ALL),
        (("_id.tenant_id",), {"_id": {"tenant_id": T, "seq": 1}}, Place.TENANT),
        (("_id.tenant_id",), {"_id": {"$in": [{"tenant_id": T}]}}, Place.ALL),
        (("_id.tenant_id",), {"_id": {"$gte": {"tenant_id": T}, "$lte": {"tenant_id": T}}}, Place.ALL),
        (("tenant_id", "chat_id"), {"tenant_id": T, "chat_id": {"$in": ["a", "b"]}}, Place.TENANT),
        (("tenant_id", "chat_id"), {"_id": "connection"}, Place.ALL),
        ((), {}, Place.PRIMARY),
    ],
)
def test_the_rules(key, condition, place) -> None:
    """`place_of` follows the server's rules: `tests/soak/test_cluster.py` compares it with a server."""
    assert place_of(key, statements("find", {"filter": condition})) is place
