"""A simulation of the service beyond one machine: shards, zones, chunks on the move, and workers that purge.

    python -m benchmarks.scale

It prints the tables of docs/scale.md, which says what the model is. Nothing in it is random but by `--seed`. What an
operation costs is measured elsewhere: the constants say where.
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
"""A second, of chats of 10 messages by 32 clients, service and database on two cores (benchmarks/README.md)."""

TWO_SHARDS_COST = 2.0
"""Times what a delete on one shard costs, if it is on two (`python -m benchmarks.cluster`, 1 and 8 clients)."""

PURGED_A_SECOND = 10_000.0
"""Messages, by one worker beside 50 requests a second (benchmarks/README.md)."""

MOVED_A_SECOND = 60_000.0
"""Messages that a migration copies, from a shard that does nothing else (`python -m benchmarks.cluster`)."""

INLINE_LIMIT = 1_000
"""Messages that a delete removes itself (`DELETE_INLINE_LIMIT`)."""

SLICE_SECONDS = 1.0
"""For which a worker stays with one purge (jobs/purge.py)."""

OF_A_DELETE = ("presence", "chats", "messages", "deletions")
"""The collections that every delete asks, each in a chunk of its own."""

MESSAGES_OF_A_CHAT = 12
"""On average of those that are there, and receipts as many as chats."""

CHUNKS = 64
"""Of a collection for each shard, where the balancer places them one by one."""

LARGEST_CHAT = 10_000_000


def seeded_random(seed: int) -> random.Random:
    """Return a random number generator, which gives the same numbers for the same seed."""
    return random.Random(seed)  # noqa: S311 - no secret


def power_law(number: int, exponent: float) -> list[float]:
    """Return the shares of so many tenants, the largest first; they add up to 1."""
    weights = [rank**-exponent for rank in range(1, number + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


class Tenants:
    """Tenants whose shares of chats, messages and requests follow a power law; their ids are spread evenly."""

    def __init__(self, number: int, exponent: float, rng: random.Random) -> None:
        self.shares = power_law(number, exponent)
        self.ids = [rng.random() for _ in self.shares]
        """Where in the key space each tenant is, from 0 to 1."""
        self._sums = list(itertools.accumulate(self.shares))

    def at(self, place: float) -> tuple[int, float]:
        """Return whose chats are at a place of the key space, and how far into them it is, from 0 to 1.

        A place is how much of the data lies before it: large tenants have more places.
        """
        tenant = min(bisect.bisect(self._sums, place), len(self.shares) - 1)
        return tenant, 1 - (self._sums[tenant] - place) / self.shares[tenant]


def chat_size(rng: random.Random) -> int:
    """Return how many messages a chat has: ten in the middle, a thousandth of the chats thousands, a few millions."""
    return min(int(5 * rng.paretovariate(1.0)), LARGEST_CHAT)


class Zones:
    """Which shard has which tenant, in all collections alike."""

    def __init__(self, tenants: Tenants, shards: int, largest: int = 0, *, are_split: bool = False) -> None:
        """Give each shard an equal span of tenants' ids, and the `largest` zones of their own, where there is least.

        With `are_split` a tenant that is more than half of a shard's share has several, by its chats' ids.
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
        """Return which shard has this place of the key space. The purges of a tenant are in one place: by their key."""
        tenant, into = self._tenants.at(place)
        owners = self._owners[tenant]
        return owners[0] if collection == "purges" else owners[min(int(into * len(owners)), len(owners) - 1)]

    @property
    def imbalance(self) -> float:
        """What the busiest shard has, in times of the average."""
        return max(self._loads) * len(self._loads)


class Chunks:
    """Where the balancer puts chunks without zones: each collection's by themselves, as many on each shard."""

    imbalance = 1.0

    def __init__(self, shards: int, rng: random.Random) -> None:
        self._owners: dict[str, list[int]] = {}
        for collection in (*OF_A_DELETE, "purges"):
            owners = [number % shards for number in range(shards * CHUNKS)]
            rng.shuffle(owners)
            self._owners[collection] = owners

    def shard(self, collection: str, place: float) -> int:
        """Return which shard has this place of the key space in the collection."""
        owners = self._owners[collection]
        return owners[int(place * len(owners))]


class Deletes(NamedTuple):
    """What deletes of all sizes meet."""

    on_several: float
    """The share that is a transaction over more than one shard."""
    shards: float
    """On average."""


def collections_of(messages: int) -> tuple[str, ...]:
    """Return where a delete of so many messages has something to do: of a large chat the purge, and no message."""
    return OF_A_DELETE if messages <= INLINE_LIMIT else ("presence", "chats", "purges", "deletions")


def deletes(number: int, placement: Zones | Chunks, rng: random.Random) -> Deletes:
    """Delete so many chats of all sizes, from all over the key space, and return how many shards that took."""
    asked = []
    for _ in range(number):
        place = rng.random()
        asked.append(len({placement.shard(name, place) for name in collections_of(chat_size(rng))}))
    return Deletes(sum(shards > 1 for shards in asked) / number, sum(asked) / number)


def capacity(shards: int, imbalance: float, on_several: float) -> float:
    """Return the deletes a second of a cluster when its busiest shard is full."""
    cost = 1 + on_several * (TWO_SHARDS_COST - 1)
    return DELETES_OF_A_SET * shards / imbalance / cost


class Move(NamedTuple):
    """What the move of a tenant to another shard costs."""

    seconds: float
    on_two: float
    """The share of its deletes in that time that are on two shards."""


def move(messages: float, number: int, rng: random.Random) -> Move:
    """Move a tenant of so many messages while `number` of its chats are deleted, and return what that costs.

    Its collections go one after another, the messages last, each from one end of the tenant's keys to the other.
    """
    chats = messages / MESSAGES_OF_A_CHAT
    order = {"presence": 0.0, "purges": 0.0, "deletions": chats, "chats": chats, "messages": messages}
    begins = dict(zip(order, itertools.accumulate(order.values(), initial=0.0), strict=False))
    total, on_two = sum(order.values()), 0
    for _ in range(number):
        now, place = rng.random() * total, rng.random()
        has_gone = {now >= begins[name] + place * order[name] for name in collections_of(chat_size(rng)) if order[name]}
        on_two += len(has_gone) > 1
    return Move(total / MOVED_A_SECOND, on_two / number)


@dataclass
class Purge:
    """A large chat that was deleted."""

    tenant: int
    opened: float
    left: int


@dataclass
class Purges:
    """The open purges, in turns of the tenants, and what was done."""

    of_tenants: dict[int, deque[Purge]] = field(default_factory=dict)
    opened: int = 0
    """Messages, of all purges."""
    removed: int = 0
    waited: list[float] = field(default_factory=list)
    """Seconds from each delete to the end of its purge."""

    def open(self, purge: Purge) -> None:
        """Have a purge wait."""
        self.of_tenants.setdefault(purge.tenant, deque()).append(purge)
        self.opened += purge.left

    def work(self, now: float, messages: float) -> None:
        """Let a worker remove so many messages: it stays with a purge, and goes on with the next when that is done."""
        while messages > 0 and self.of_tenants:
            tenant = next(iter(self.of_tenants))
            queue = self.of_tenants.pop(tenant)
            purge = queue.popleft()
            done = min(purge.left, int(messages))
            purge.left -= done
            self.removed += done
            messages -= done
            if purge.left:
                queue.append(purge)
                messages = 0
            else:
                self.waited.append(now + SLICE_SECONDS - purge.opened)
            if queue:
                self.of_tenants[tenant] = queue  # at the end: the others have their turn

    @property
    def backlog(self) -> int:
        """Messages that are still there."""
        return self.opened - self.removed


def arrivals(tenants: Tenants, a_second: float, seconds: int, rng: random.Random) -> Iterator[list[Purge]]:
    """Give what the deletes of each second leave to be purged."""
    for now in range(seconds):
        drawn = ((tenants.at(rng.random())[0], chat_size(rng)) for _ in range(round(a_second)))
        yield [Purge(tenant, now, size) for tenant, size in drawn if size > INLINE_LIMIT]


def purge(come: Sequence[Sequence[Purge]], workers: int, more_seconds: int) -> tuple[Purges, int]:
    """Purge what comes, and go on afterwards; return the purges, and how much was left when all had come."""
    purges = Purges()
    backlog = 0
    for now in range(len(come) + more_seconds):
        if now < len(come):
            for one in come[now]:
                purges.open(Purge(one.tenant, one.opened, one.left))
        for _ in range(workers):
            purges.work(now, PURGED_A_SECOND * SLICE_SECONDS)
        if now == len(come) - 1:
            backlog = purges.backlog
    return purges, backlog


def placements(tenants: Tenants, counts: Sequence[int], number: int, seed: int) -> Iterator[list[str]]:
    """Give the rows of the table of placements."""
    for shards in counts:
        ways: Mapping[str, Zones | Chunks] = {
            "zones of equal spans": Zones(tenants, shards),
            "the 20 largest placed": Zones(tenants, shards, 20),
            "placed, and split": Zones(tenants, shards, 20, are_split=True),
            "no zones": Chunks(shards, seeded_random(seed)),
        }
        for name, placement in ways.items():
            found = deletes(number, placement, seeded_random(seed))
            most = capacity(shards, placement.imbalance, found.on_several)
            figures = [f"{placement.imbalance:.2f}", f"{found.on_several:.2%}", f"{found.shards:.2f}", f"{most:,.0f}"]
            yield [str(shards), name, *figures]


def moves(tenants: Tenants, messages: float, number: int, seed: int) -> Iterator[list[str]]:
    """Give the rows of the table of tenants that are moved, of a cluster with so many messages."""
    for rank in (1, 10, 100, 1_000):
        if rank <= len(tenants.shares):
            share = tenants.shares[rank - 1]
            found = move(share * messages, number, seeded_random(seed))
            yield [
                str(rank),
                f"{share:.2%}",
                _duration(found.seconds),
                f"{found.on_two:.0%}",
                f"{share * found.on_two:.2%}",
            ]


def backlogs(tenants: Tenants, workers: Mapping[int, Sequence[int]], seconds: int, seed: int) -> Iterator[list[str]]:
    """Give the rows of the table of purges; `workers` has for each rate of deletes how many of them are tried."""
    for rate, counts in workers.items():
        come = list(arrivals(tenants, rate, seconds, seeded_random(seed)))
        a_second = sum(one.left for ones in come for one in ones) / seconds
        for count in counts:
            found, backlog = purge(come, count, more_seconds=seconds)
            waited = sorted(found.waited) or [0.0]
            p50, p99 = (_duration(waited[int(len(waited) * part)]) for part in (0.5, 0.99))
            yield [f"{rate:,}", f"{a_second:,.0f}", str(count), f"{backlog:,}", p50, p99, f"{found.backlog:,}"]


def limits(number: int) -> Iterator[list[str]]:
    """Give the rows of the table of what the largest of so many tenants allows: it is on one shard."""
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
"""That purge, by deletes a second."""


def main() -> None:
    """Run, and print the tables."""
    parser = options(__doc__, seed=1, tenants=10_000, deletes=50_000, seconds=1_800)
    parser.add_argument("--exponent", type=float, default=1.0, help="of the power law")
    asked = parser.parse_args()
    tenants = Tenants(asked.tenants, asked.exponent, seeded_random(asked.seed))
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
        placements(tenants, (2, 4, 8, 16), asked.deletes, asked.seed),
    )
    show(
        "Moves: a tenant goes to another shard, of a cluster with a thousand million messages",
        ("tenant, by size", "its share", "takes", "of its deletes on two shards", "of all deletes"),
        moves(tenants, 1e9, asked.deletes, asked.seed),
    )
    show(
        f"Purges: {_duration(asked.seconds)} of deletes",
        (
            "deletes a second",
            "messages to purge a second",
            "workers",
            "left at the end",
            "purged after, p50",
            "p99",
            "an equal time later",
        ),
        backlogs(tenants, WORKERS, asked.seconds, asked.seed),
    )
    show(
        f"The largest of {asked.tenants:,} tenants",
        ("exponent", "its share", "deletes a second of the cluster, when its shard is full", "shards that help"),
        limits(asked.tenants),
    )


if __name__ == "__main__":
    main()
