"""The arithmetic of a Merkle tree as in RFC 6962, section 2.1: SHA-256, leaves and nodes told apart by a first byte.

A node is complete when its subtree has all its 2**level leaves; then its hash never changes again. All that is ever
stored are hashes of complete nodes. Everything else, roots and proofs of any size, is put together from a few of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

HASH_BYTES = 32

EMPTY_ROOT = sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree: the leaves from `index << level` on, `1 << level` of them."""

    level: int
    index: int

    @property
    def last_leaf(self) -> int:
        """The number of leaves up to the end of the subtree: with the last of them its hash is known."""
        return (self.index + 1) << self.level


@dataclass(frozen=True, slots=True)
class Stretch:
    """The leaves from `begin` to before `end`, as a proof names one: they are a subtree, complete or the last one."""

    begin: int
    end: int

    def nodes(self) -> list[Node]:
        """Return the complete subtrees that it consists of, from left to right."""
        found, begin = [], self.begin
        while begin < self.end:
            level = (self.end - begin).bit_length() - 1
            found.append(Node(level, begin >> level))
            begin += 1 << level
        return found


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees side by side."""
    return sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of complete subtrees, from left to right, as of one tree: that of the empty tree if none."""
    if not hashes:
        return EMPTY_ROOT
    *rest, folded = hashes
    for left in reversed(rest):
        folded = node_hash(left, folded)
    return folded


class Frontier:
    """A tree as far as it has to be known for going on with it: its complete subtrees, the largest first."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Go on with a tree of `size` leaves.

        Raises:
            ValueError: a tree of that size has another number of complete subtrees.
        """
        if len(hashes) != size.bit_count():
            raise ValueError(f"{len(hashes)} subtrees are no tree of {size} leaves")
        self.size = size
        self.hashes = [bytes(one) for one in hashes]

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf by its hash; return the hashes of the subtrees that are complete with it, the leaf's own first."""
        completed = [leaf]
        for _ in range(_trailing_ones(self.size)):
            completed.append(node_hash(self.hashes.pop(), completed[-1]))
        self.hashes.append(completed[-1])
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Return the hash of the whole tree."""
        return fold(self.hashes)


def inclusion_path(index: int, size: int) -> list[Stretch]:
    """Return what proves that a leaf is in the tree of `size` leaves: from its sibling up to the root's child.

    RFC 6962, section 2.1.1.
    """
    path: list[Stretch] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        inner, outer = ((begin, middle), (middle, end)) if index < middle else ((middle, end), (begin, middle))
        path.append(Stretch(*outer))
        begin, end = inner
    return path[::-1]


def consistency_path(old: int, new: int) -> list[Stretch]:
    """Return what proves that the tree of `new` leaves begins with that of `old`, which has at least one and fewer.

    RFC 6962, section 2.1.2.
    """
    path: list[Stretch] = []
    begin, end, is_whole = 0, new, True
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(Stretch(middle, end))
            end = middle
        else:
            path.append(Stretch(begin, middle))
            begin, is_whole = middle, False
    if not is_whole:
        path.append(Stretch(begin, end))
    return path[::-1]


def hashes_of(path: Sequence[Stretch], known: Callable[[Node], bytes]) -> list[bytes]:
    """Return the hashes of a path, from those of the complete subtrees in it."""
    return [fold([known(node) for node in stretch.nodes()]) for stretch in path]


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Tell whether the path leads from the leaf's hash to the root. RFC 9162, section 2.1.3.2, says it for RFC 6962."""
    if not 0 <= index < size:
        return False
    position, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            found = node_hash(sibling, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Tell whether the path shows that the new tree begins with the old one. RFC 9162, section 2.1.4.2."""
    if old == new or not old:
        return not path and old <= new and (old_root == new_root if old else old_root == EMPTY_ROOT)
    if old > new or not path:
        return False
    hashes = [old_root, *path] if old.bit_count() == 1 else list(path)
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    of_old = of_new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            of_old, of_new = node_hash(sibling, of_old), node_hash(sibling, of_new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            of_new = node_hash(of_new, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and of_old == old_root and of_new == new_root


def _split(size: int) -> int:
    """Return the largest power of two that is smaller than the size."""
    return 1 << ((size - 1).bit_length() - 1)


def _trailing_ones(number: int) -> int:
    return ((number ^ (number + 1)).bit_length()) - 1
