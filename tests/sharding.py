"""Where a cluster's router would send what the service asks of its database, by the shard keys of docs/scale.md.

The rules are the server's: it takes the shard key for an index, and asks the shards that the bounds of that index name.
`tests/soak/test_cluster.py` holds them against a real router.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from traceback import walk_stack
from typing import Any, NamedTuple

from pymongo import monitoring

from chat_service.repository.shape import COLLECTIONS

ROOT = Path(__file__).parents[1]
REPOSITORY = ROOT / "chat_service" / "repository"
SCALE = ROOT / "docs" / "scale.md"

PLUMBING = {"database", "unit_of_work", "transaction", "lists", "shape"}
"""Through these a command goes; who asks for it is who calls them."""

FIRST_OF_MANY = {"find", "aggregate", "distinct", "insert", "update", "delete", "findAndModify"}
"""Commands that say whose data they are about. What follows them (later batches, a commit) goes where they went."""

Condition = Mapping[str, Any]
Tenants = frozenset[str]


class Place(StrEnum):
    """Where a command goes."""

    TENANT = "the tenant's shard"
    TENANTS = "several tenants' shards"
    PRIMARY = "the primary shard"
    ALL = "all shards"


class Sent(NamedTuple):
    """A command that was sent."""

    operation: str
    """What it was part of."""
    function: str
    """Who sent it, like `chats.Chats.get`."""
    name: str
    collection: str
    place: Place
    command: dict[str, Any]


def table(title: str) -> list[list[str]]:
    """Return the cells of the table of docs/scale.md whose first column has this title."""
    rows = re.search(rf"^\| {re.escape(title)} \|.*\n\| ---.*\n((?:\|.*\n)+)", SCALE.read_text(), re.MULTILINE)
    assert rows, f"docs/scale.md has no table that begins with a column `{title}`"
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[1].splitlines()]


def shard_keys() -> dict[str, tuple[str, ...]]:
    """Return the fields of each collection's shard key as docs/scale.md has them; () where it is not sharded."""
    return {row[0].strip("`"): tuple(re.findall(r"([\w.]+)\"?: 1", row[1])) for row in table("collection")}


def statements(name: str, command: Condition) -> Iterator[Condition]:
    """Give the conditions by which the router finds the shards of a command: whole documents, of an insert."""
    match name:
        case "insert":
            yield from command["documents"]
        case "update" | "delete":
            yield from (one["q"] for one in command[f"{name}s"])
        case "aggregate":
            yield from _stages(command["pipeline"])
        case _:
            yield command.get("filter") or command.get("query") or {}


def _stages(pipeline: Iterable[Condition]) -> Iterator[Condition]:
    first, *others = [*pipeline, {}]
    yield first.get("$match", {})
    for stage in others:
        if "$unionWith" in stage:
            yield from _stages(stage["$unionWith"]["pipeline"])


def place_of(key: tuple[str, ...], conditions: Iterable[Condition]) -> Place:
    """Return where a command of these conditions goes, on a collection with this shard key."""
    if not key:
        return Place.PRIMARY
    named = [tenants_of(key, condition) for condition in conditions]
    if None in named:
        return Place.ALL
    return Place.TENANT if len(frozenset().union(*filter(None, named))) <= 1 else Place.TENANTS


def tenants_of(key: tuple[str, ...], condition: Condition) -> Tenants | None:
    """Return the tenants that a condition names by the first part of the shard key; None if it names none."""
    first = key[0]
    named = _tenants_of_id(condition.get("_id")) if first == "_id" else None
    if first == "_id.tenant_id" and isinstance(condition.get("_id"), Mapping) and "tenant_id" in condition["_id"]:
        named = frozenset({condition["_id"]["tenant_id"]})  # of a whole `_id`, and not of a range or list of them
    elif isinstance(condition.get(first), str):
        named = frozenset({condition[first]})
    branches = [tenants_of(key, one) for one in condition.get("$or", ())]
    if named is None and branches and None not in branches:
        named = frozenset().union(*filter(None, branches))
    return named


def _tenants_of_id(value: Any) -> Tenants | None:
    """Return the tenants of one `_id`, of a list of them, or of a range that does not leave the tenant."""
    if not isinstance(value, Mapping):
        return None
    if "$in" in value:
        return frozenset(one["tenant_id"] for one in value["$in"])
    if "tenant_id" in value:
        return frozenset({value["tenant_id"]})
    lower, upper = value.get("$gte", value.get("$gt")), value.get("$lte", value.get("$lt"))
    if not lower or not upper or lower["tenant_id"] != upper["tenant_id"]:
        return None
    return frozenset({lower["tenant_id"]})


class Recorder(monitoring.CommandListener):
    """Takes down what is sent to the collections, by which function, and as part of what."""

    def __init__(self, keys: Mapping[str, tuple[str, ...]]) -> None:
        self._keys = keys
        self._operation = ""
        self.sent: list[Sent] = []

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """Have what is sent in the block belong to an operation."""
        self._operation, before = name, self._operation
        yield
        self._operation = before

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        collection = event.command.get(event.command_name)
        if event.command_name not in FIRST_OF_MANY or collection not in COLLECTIONS or _is_look(event.command):
            return
        command = dict(event.command)
        # A collection without a row is missed by a test of its own; here it is taken for sharded, as most are.
        place = place_of(self._keys.get(collection, ("_id",)), statements(event.command_name, command))
        self.sent.append(Sent(self._operation, _sender(), event.command_name, collection, place, command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Only what is sent counts."""

    failed = succeeded  # type: ignore[assignment]


def _is_look(command: Condition) -> bool:
    """Tell whether a command asks for a collection's statistics or begins a change stream: of no document."""
    return bool({"$collStats", "$changeStream"} & {*next(iter(command.get("pipeline", ())), {})})


def _sender() -> str:
    """Return the innermost function of the repository, plumbing apart, that has the driver send a command."""
    for frame, _ in walk_stack(None):
        path = Path(frame.f_code.co_filename)
        if path.parent == REPOSITORY and path.stem not in PLUMBING:
            return f"{path.stem}.{frame.f_code.co_qualname.partition('.<locals>')[0]}"
    return ""


def rows(sent: Iterable[Sent]) -> list[str]:
    """Return the rows of the table of docs/scale.md that says of each operation which collections it asks, and where.

    Operations that ask the same share a row; those of one shard come first.
    """
    asked: dict[str, dict[Place, set[str]]] = {}
    for one in sent:
        if one.operation:
            asked.setdefault(one.operation, {}).setdefault(one.place, set()).add(one.collection)
    alike: dict[tuple[str, ...], list[str]] = {}
    for operation, places in asked.items():
        cells = tuple(", ".join(sorted(places.get(place, ()))) for place in Place)
        alike.setdefault(cells, []).append(re.sub(r"^((?:[A-Z]{3,}|flask) [^,]+)", r"`\1`", operation))
    ordered = sorted(alike.items(), key=lambda row: [bool(cell) for cell in reversed(row[0][1:])])
    return [" | ".join(["; ".join(operations), *cells]).strip() for cells, operations in ordered]
