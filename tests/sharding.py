"""Where a cluster's router would send the service's database commands, by the shard keys of docs/scale.md.

The rules are the server's: it treats the shard key as an index, and targets the shards that the bounds of that index
name. `tests/soak/test_cluster.py` compares them with a real router.
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
"""Modules through which every command passes. The sender of a command is the function that calls them."""

FIRST_OF_MANY = {"find", "aggregate", "distinct", "insert", "update", "delete", "findAndModify"}
"""Commands that name their data. Those that follow them (later batches, a commit) go to the same shards."""

Condition = Mapping[str, Any]
Tenants = frozenset[str]


class Place(StrEnum):
    """The shards that a command goes to."""

    TENANT = "the tenant's shard"
    TENANTS = "several tenants' shards"
    PRIMARY = "the primary shard"
    ALL = "all shards"


class Sent(NamedTuple):
    """A command that was sent."""

    operation: str
    """The operation that it was part of."""
    function: str
    """The function that sent it, like `chats.Chats.get`."""
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
    """Yield the conditions by which the router finds the shards of a command; for an insert, the documents."""
    match name:
        case "insert":
            yield from command["documents"]
        case "update" | "delete":
            yield from (statement["q"] for statement in command[f"{name}s"])
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
    """Return where a command with these conditions goes, on a collection with this shard key."""
    if not key:
        return Place.PRIMARY
    tenants = [tenants_of(key, condition) for condition in conditions]
    if None in tenants:
        return Place.ALL
    return Place.TENANT if len(frozenset().union(*filter(None, tenants))) <= 1 else Place.TENANTS


def tenants_of(key: tuple[str, ...], condition: Condition) -> Tenants | None:
    """Return the tenants that a condition names by the first part of the shard key; None if it names none."""
    first = key[0]
    tenants = _tenants_of_id(condition.get("_id")) if first == "_id" else None
    if first == "_id.tenant_id" and isinstance(condition.get("_id"), Mapping) and "tenant_id" in condition["_id"]:
        tenants = frozenset({condition["_id"]["tenant_id"]})  # only of a whole `_id`, not of a range or a list
    elif isinstance(condition.get(first), str):
        tenants = frozenset({condition[first]})
    branches = [tenants_of(key, branch) for branch in condition.get("$or", ())]
    if tenants is None and branches and None not in branches:
        tenants = frozenset().union(*filter(None, branches))
    return tenants


def _tenants_of_id(value: Any) -> Tenants | None:
    """Return the tenants of one `_id`, of a list of them, or of a range within one tenant; else None."""
    if not isinstance(value, Mapping):
        return None
    if "$in" in value:
        return frozenset(key["tenant_id"] for key in value["$in"])
    if "tenant_id" in value:
        return frozenset({value["tenant_id"]})
    lower, upper = value.get("$gte", value.get("$gt")), value.get("$lte", value.get("$lt"))
    if not lower or not upper or lower["tenant_id"] != upper["tenant_id"]:
        return None
    return frozenset({lower["tenant_id"]})


class Recorder(monitoring.CommandListener):
    """Records the commands that are sent to the collections, with the function and the operation that sent each."""

    def __init__(self, keys: Mapping[str, tuple[str, ...]]) -> None:
        self._keys = keys
        self._operation = ""
        self.sent: list[Sent] = []

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """Record the commands that the block sends as part of an operation."""
        self._operation, before = name, self._operation
        yield
        self._operation = before

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        collection = event.command.get(event.command_name)
        if (
            event.command_name not in FIRST_OF_MANY
            or collection not in COLLECTIONS
            or _reads_no_document(event.command)
        ):
            return
        command = dict(event.command)
        # Another test reports a collection without a row; here it counts as sharded, as most are.
        place = place_of(self._keys.get(collection, ("_id",)), statements(event.command_name, command))
        self.sent.append(Sent(self._operation, _sender(), event.command_name, collection, place, command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Do nothing: only what is sent counts."""

    failed = succeeded  # type: ignore[assignment]


def _reads_no_document(command: Condition) -> bool:
    """Tell whether a command reads a collection's statistics or opens a change stream."""
    return bool({"$collStats", "$changeStream"} & {*next(iter(command.get("pipeline", ())), {})})


def _sender() -> str:
    """Return the innermost function of the repository, outside the plumbing, that sends the current command."""
    for frame, _ in walk_stack(None):
        path = Path(frame.f_code.co_filename)
        if path.parent == REPOSITORY and path.stem not in PLUMBING:
            return f"{path.stem}.{frame.f_code.co_qualname.partition('.<locals>')[0]}"
    return ""


def rows(sent: Iterable[Sent]) -> list[str]:
    """Return the rows of the table in docs/scale.md that shows for each operation its collections and their shards.

    Operations with the same cells share a row; those on one shard come first.
    """
    places_by_operation: dict[str, dict[Place, set[str]]] = {}
    for command in sent:
        if command.operation:
            places_by_operation.setdefault(command.operation, {}).setdefault(command.place, set()).add(
                command.collection
            )
    operations_by_cells: dict[tuple[str, ...], list[str]] = {}
    for operation, places in places_by_operation.items():
        cells = tuple(", ".join(sorted(places.get(place, ()))) for place in Place)
        operations_by_cells.setdefault(cells, []).append(re.sub(r"^((?:[A-Z]{3,}|flask) [^,]+)", r"`\1`", operation))
    ordered = sorted(operations_by_cells.items(), key=lambda row: [bool(cell) for cell in reversed(row[0][1:])])
    return [" | ".join(["; ".join(operations), *cells]).strip() for cells, operations in ordered]
