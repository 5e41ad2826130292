"""A simulation of the service beyond one machine: shards, zones, chunks on the move, and workers that purge.

    python -m benchmarks.scale

It prints the tables of docs/scale.md, which describes the model. All its random numbers depend on `--seed` alone. What
an operation costs is measured elsewhere: the constants say where.
"""

import bisect
import itertools
import math
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.measure import options

DELETES_OF_A_SET = 583.0
"""Deletes a second, of chats of 10 messages by 32 clients; service and database on two cores (benchmarks/README.md)."""

TWO_SHARDS_COST = 2.0
"""The cost of a delete on two shards, in deletes on one shard (`python -m benchmarks.cluster`, 1 and 8 clients)."""

PURGED_A_SECOND = 10_000.0
"""Messages that one worker purges a second, beside 50 requests a second (benchmarks/README.md)."""

MOVED_A_SECOND = 60_000.0
"""Messages that a migration copies a second, from a shard that does nothing else (`python -m benchmarks.cluster`)."""

INLINE_LIMIT = 1_000
"""The most messages that a delete removes itself (`DELETE_INLINE_LIMIT`)."""

SLICE_SECONDS = 1.0
"""How long a worker stays with one purge (jobs/purge.py)."""

COLLECTIONS_OF_A_DELETE = ("presence", "chats", "messages", "deletions")
"""The collections that every delete touches, each in a chunk of its own."""

MESSAGES_OF_A_CHAT = 12
"""The average of the chats that exist. There are as many receipts as chats."""

CHUNKS = 64
"""Chunks of a collection on each shard, where the balancer places them one by one."""

LARGEST_CHAT = 10_000_000


def seeded_random(seed: int) -> random.Random:
    """Return a random number generator, which gives the same numbers for the same seed."""
    return random.Random(seed)  # noqa: S311 - no secret


def power_law(number: int, exponent: float) -> list[float]:
    """Return the shares of `number` tenants, the largest first; they add up to 1."""
    weights = [rank**-exponent for rank in range(1, number + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


class Tenants:
    """Tenants whose shares of chats, messages and requests follow a power law; their ids are spread evenly."""

    def __init__(self, number: int, exponent: float, rng: random.Random) -> None:
        self.shares = power_law(number, exponent)
        self.ids = [rng.random() for _ in self.shares]
        """The position of each tenant in the key space, from 0 to 1."""
        self._sums = list(itertools.accumulate(self.shares))

    def at(self, place: float) -> tuple[int, float]:
        """Return the tenant at a place of the key space, and how far into its chats the place is, from 0 to 1.

        A place is the share of the data that lies before it, so large tenants cover more of the space.
        """
        tenant = min(bisect.bisect(self._sums, place), len(self.shares) - 1)
        return tenant, 1 - (self._sums[tenant] - place) / self.shares[tenant]


def chat_size(rng: random.Random) -> int:
    """Return a random size of a chat in messages: the median is 10, one in a thousand has thousands, a few millions."""
    return min(int(5 * rng.paretovariate(1.0)), LARGEST_CHAT)


class Zones:
    """Zones: each tenant is on the same shard in all collections."""

    def __init__(self, tenants: Tenants, shards: int, largest: int = 0, *, are_split: bool = False) -> None:
        """Give each shard an equal span of tenants' ids; the `largest` tenants get own zones on the emptiest shards.

        With `are_split` a tenant that is more than half of a shard's share has several zones, by its chats' ids.
        """
        self._tenants = tenants
        self._loads = [0.0] * shards
        self._owners = [[int(place * shards)] for place in tenants.ids]
        for share, owners in list(zip(tenants.shares, self._owners, strict=True))[largest:]:
            self._loads[owners[0]] += share
        for share, owners in list(zip(tenants.shares, self._owners, strict=True))[:largest]:
            pieces = math.ceil(2 * share * shards) if are_split else 1
            owners[:] = [self._place(share / pieces) for _ in range(pieces)]

    def _place(self, share: float) -> int:
        shard = min(range(len(self._loads)), key=self._loads.__getitem__)
        self._loads[shard] += share
        return shard

    def shard(self, collection: str, place: float) -> int:
        """Return the shard of a place of the key space. By their key, all purges of a tenant are in one place."""
        tenant, into = self._tenants.at(place)
        owners = self._owners[tenant]
        return owners[0] if collection == "purges" else owners[min(int(into * len(owners)), len(owners) - 1)]

    @property
    def imbalance(self) -> float:
        """The load of the busiest shard, as a multiple of the average."""
        return max(self._loads) * len(self._loads)


class Chunks:
    """No zones: the balancer places the chunks of each collection independently, equally many on each shard."""

    imbalance = 1.0

    def __init__(self, shards: int, rng: random.Random) -> None:
        self._owners: dict[str, list[int]] = {}
        for collection in (*COLLECTIONS_OF_A_DELETE, "purges"):
            owners = [number % shards for number in range(shards * CHUNKS)]
            rng.shuffle(owners)
            self._owners[collection] = owners

    def shard(self, collection: str, place: float) -> int:
        """Return the shard of a place of the key space in the collection."""
        owners = self._owners[collection]
        return owners[int(place * len(owners))]


class Deletes(NamedTuple):
    """How deletes of all sizes spread over the shards."""

    on_several: float
    """The share of the deletes whose transaction is on more than one shard."""
    shards: float
    """The average number of shards of a delete."""


def collections_of(messages: int) -> tuple[str, ...]:
    """Return the collections that a delete of so many messages touches; for a large chat purges, not messages."""
    return COLLECTIONS_OF_A_DELETE if messages <= INLINE_LIMIT else ("presence", "chats", "purges", "deletions")


def deletes(number: int, placement: Zones | Chunks, rng: random.Random) -> Deletes:
    """Delete `number` chats of random sizes and places, and return how the deletes spread over the shards."""
    shard_counts = []
    for _ in range(number):
        place = rng.random()
        shard_counts.append(len({placement.shard(name, place) for name in collections_of(chat_size(rng))}))
    return Deletes(sum(shards > 1 for shards in shard_counts) / number, sum(shard_counts) / number)


def capacity(shards: int, imbalance: float, on_several: float) -> float:
    """Return the deletes a second of a cluster whose busiest shard is at its limit."""
    cost = 1 + on_several * (TWO_SHARDS_COST - 1)
    return DELETES_OF_A_SET * shards / imbalance / cost


class Move(NamedTuple):
    """What the move of a tenant to another shard costs."""

    seconds: float
    on_two: float
    """The share of its deletes during the move that are on two shards."""


def move(messages: float, number: int, rng: random.Random) -> Move:
    """Move a tenant with so many messages while `number` of its chats are deleted, and return what that costs.

    Its collections move one after another, the messages last, each from one end of the tenant's keys to the other.
    """
    chats = messages / MESSAGES_OF_A_CHAT
    order = {"presence": 0.0, "purges": 0.0, "deletions": chats, "chats": chats, "messages": messages}
    begins = dict(zip(order, itertools.accumulate(order.values(), initial=0.0), strict=False))
    total, on_two = sum(order.values()), 0
    for _ in range(number):
        now, place = rng.random() * total, rng.random()
        moved_states = {
            now >= begins[name] + place * order[name] for name in collections_of(chat_size(rng)) if order[name]
        }
        on_two += len(moved_states) > 1
    return Move(total / MOVED_A_SECOND, on_two / number)


@dataclass
class Purge:
    """The purge of a large chat that was deleted."""

    tenant: int
    opened: float
    left: int


@dataclass
class Purges:
    """The open purges, which tenants get in turn, and what was removed."""

    of_tenants: dict[int, deque[Purge]] = field(default_factory=dict)
    opened: int = 0
    """The messages of all purges that were ever opened."""
    removed: int = 0
    waited: list[float] = field(default_factory=list)
    """The seconds from each delete to the end of its purge."""

    def open(self, purge: Purge) -> None:
        """Queue a purge."""
        self.of_tenants.setdefault(purge.tenant, deque()).append(purge)
        self.opened += purge.left

    def work(self, now: float, messages: float) -> None:
        """Let a worker remove so many messages: of one purge, and of the next ones only when that is complete."""
        while messages > 0 and self.of_tenants:
            tenant = next(iter(self.of_tenants))
            queue = self.of_tenants.pop(tenant)
            purge = queue.popleft()
            removed = min(purge.left, int(messages))
            purge.left -= removed
            self.removed += removed
            messages -= removed
            if purge.left:
                queue.append(purge)
                messages = 0
            else:
                self.waited.append(now + SLICE_SECONDS - purge.opened)
            if queue:
                self.of_tenants[tenant] = queue  # at the end of the dict: the other tenants are next

    @property
    def backlog(self) -> int:
        """The messages that are still to be removed."""
        return self.opened - self.removed


def arrivals(tenants: Tenants, a_second: float, seconds: int, rng: random.Random) -> Iterator[list[Purge]]:
    """Yield the purges that the deletes of each second open."""
    for now in range(seconds):
        chats = ((tenants.at(rng.random())[0], chat_size(rng)) for _ in range(round(a_second)))
        yield [Purge(tenant, now, size) for tenant, size in chats if size > INLINE_LIMIT]


def purge(arriving: Sequence[Sequence[Purge]], workers: int, more_seconds: int) -> tuple[Purges, int]:
    """Purge what arrives, and go on for `more_seconds`; return the purges, and the backlog after the last arrival."""
    purges = Purges()
    backlog = 0
    for now in range(len(arriving) + more_seconds):
        if now < len(arriving):
            for opened in arriving[now]:
                purges.open(Purge(opened.tenant, opened.opened, opened.left))
        for _ in range(workers):
            purges.work(now, PURGED_A_SECOND * SLICE_SECONDS)
        if now == len(arriving) - 1:
            backlog = purges.backlog
    return purges, backlog


def placements(tenants: Tenants, counts: Sequence[int], number: int, seed: int) -> Iterator[list[str]]:
    """Yield the rows of the table of placements."""
    for shards in counts:
        ways: Mapping[str, Zones | Chunks] = {
            "zones of equal spans": Zones(tenants, shards),
            "the 20 largest placed": Zones(tenants, shards, 20),
            "placed, and split": Zones(tenants, shards, 20, are_split=True),
            "no zones": Chunks(shards, seeded_random(seed)),
        }
        for name, placement in ways.items():
            spread = deletes(number, placement, seeded_random(seed))
            most = capacity(shards, placement.imbalance, spread.on_several)
            figures = [f"{placement.imbalance:.2f}", f"{spread.on_several:.2%}", f"{spread.shards:.2f}", f"{most:,.0f}"]
            yield [str(shards), name, *figures]


def moves(tenants: Tenants, messages: float, number: int, seed: int) -> Iterator[list[str]]:
    """Yield the rows of the table of tenants that are moved, in a cluster with so many messages."""
    for rank in (1, 10, 100, 1_000):
        if rank <= len(tenants.shares):
            share = tenants.shares[rank - 1]
            cost = move(share * messages, number, seeded_random(seed))
            yield [
                str(rank),
                f"{share:.2%}",
                _duration(cost.seconds),
                f"{cost.on_two:.0%}",
                f"{share * cost.on_two:.2%}",
            ]


def backlogs(tenants: Tenants, workers: Mapping[int, Sequence[int]], seconds: int, seed: int) -> Iterator[list[str]]:
    """Yield the rows of the table of purges; `workers` has the numbers of workers to try for each rate of deletes."""
    for rate, counts in workers.items():
        arriving = list(arrivals(tenants, rate, seconds, seeded_random(seed)))
        a_second = sum(opened.left for second in arriving for opened in second) / seconds
        for count in counts:
            purges, backlog = purge(arriving, count, more_seconds=seconds)
            waited = sorted(purges.waited) or [0.0]
            p50, p99 = (_duration(waited[int(len(waited) * part)]) for part in (0.5, 0.99))
            yield [f"{rate:,}", f"{a_second:,.0f}", str(count), f"{backlog:,}", p50, p99, f"{purges.backlog:,}"]


def limits(number: int) -> Iterator[list[str]]:
    """Yield the rows of the table of what the largest tenant, which is on one shard, allows the cluster."""
    for exponent in (0.8, 1.0, 1.2):
        largest = power_law(number, exponent)[0]
        yield [f"{exponent}", f"{largest:.1%}", f"{DELETES_OF_A_SET / largest:,.0f}", f"{1 / largest:.0f}"]


MINUTE, HOUR = 60, 3_600


def _duration(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def show(title: str, columns: Sequence[str], rows: Iterator[list[str]]) -> None:
    """Print a table as docs/scale.md has it."""
    print(f"\n{title}\n")
    for cells in (columns, ["---"] * len(columns), *rows):
        print("|", " | ".join(cells), "|", flush=True)


WORKERS = {10: (1,), 100: (1, 2), 1_000: (1, 2, 4, 6, 8, 16)}
"""The numbers of purge workers to try, by deletes a second."""


def main() -> None:
    """Run, and print the tables."""
    parser = options(__doc__, seed=1, tenants=10_000, deletes=50_000, seconds=1_800)
    parser.add_argument("--exponent", type=float, default=1.0, help="of the power law")
    args = parser.parse_args()
    tenants = Tenants(args.tenants, args.exponent, seeded_random(args.seed))
    show(
        "Placement: deletes of all sizes",
        (
            "shards",
            "placement",
            "busiest shard, of the average",
            "deletes on several",
            "shards of a delete",
            "deletes a second",
        ),
        placements(tenants, (2, 4, 8, 16), args.deletes, args.seed),
    )
    show(
        "Moves: a tenant goes to another shard, of a cluster with a thousand million messages",
        ("tenant, by size", "its share", "takes", "of its deletes on two shards", "of all deletes"),
        moves(tenants, 1e9, args.deletes, args.seed),
    )
    show(
        f"Purges: {_duration(args.seconds)} of deletes",
        (
            "deletes a second",
            "messages to purge a second",
            "workers",
            "left at the end",
            "purged after, p50",
            "p99",
            "an equal time later",
        ),
        backlogs(tenants, WORKERS, args.seconds, args.seed),
    )
    show(
        f"The largest of {args.tenants:,} tenants",
        ("exponent", "its share", "deletes a second of the cluster, when its shard is full", "shards that help"),
        limits(args.tenants),
    )


if __name__ == "__main__":
    main()
