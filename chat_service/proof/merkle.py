"""The arithmetic of a Merkle tree as in RFC 6962, section 2.1: SHA-256, with a first byte that marks leaf or node.

A node is complete when its subtree has all its 2**level leaves; then its hash never changes again. Only hashes of
complete nodes are ever stored. Roots and proofs of any size are computed from a few of them.
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
        """The number of leaves up to the end of the subtree. With the last of them its hash is known."""
        return (self.index + 1) << self.level


@dataclass(frozen=True, slots=True)
class Stretch:
    """The leaves from `begin` to before `end`, as one step of a proof: a complete subtree, or the tree's last one."""

    begin: int
    end: int

    def nodes(self) -> list[Node]:
        """Return the complete subtrees that make it up, from left to right."""
        nodes, begin = [], self.begin
        while begin < self.end:
            level = (self.end - begin).bit_length() - 1
            nodes.append(Node(level, begin >> level))
            begin += 1 << level
        return nodes


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the parent of two subtrees."""
    return sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the root of the tree that these complete subtrees form, from left to right; of the empty tree for none."""
    if not hashes:
        return EMPTY_ROOT
    *rest, folded = hashes
    for left in reversed(rest):
        folded = node_hash(left, folded)
    return folded


class Frontier:
    """What must be known of a tree to append to it: the hashes of its complete subtrees, the largest first."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Continue a tree of `size` leaves.

        Raises:
            ValueError: a tree of that size has another number of complete subtrees.
        """
        if len(hashes) != size.bit_count():
            raise ValueError(f"{len(hashes)} subtrees are no tree of {size} leaves")
        self.size = size
        self.hashes = [bytes(subtree) for subtree in hashes]

    def append(self, leaf: bytes) -> list[bytes]:
        """Append a leaf by its hash; return the hashes of the subtrees that it completes, its own first."""
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
    """Return the path that proves a leaf to be in the tree of `size` leaves: from its sibling up to the root's child.

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
    """Return the path that proves that the tree of `new` leaves begins with the tree of `old` leaves; 1 <= old < new.

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
    """Return the hashes of a path, computed from those of its complete subtrees, which `known` returns."""
    return [fold([known(node) for node in stretch.nodes()]) for stretch in path]


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Tell whether the path leads from the leaf's hash to the root: RFC 9162, section 2.1.3.2, for RFC 6962."""
    if not 0 <= index < size:
        return False
    position, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and computed == root


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Tell whether the path proves that the new tree begins with the old one: RFC 9162, section 2.1.4.2."""
    if old == new or not old:
        return not path and old <= new and (old_root == new_root if old else old_root == EMPTY_ROOT)
    if old > new or not path:
        return False
    hashes = [old_root, *path] if old.bit_count() == 1 else list(path)
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_computed = new_computed = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old_computed, new_computed = node_hash(sibling, old_computed), node_hash(sibling, new_computed)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new_computed = node_hash(new_computed, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and old_computed == old_root and new_computed == new_root


def _split(size: int) -> int:
    """Return the largest power of two that is smaller than the size."""
    return 1 << ((size - 1).bit_length() - 1)


def _trailing_ones(number: int) -> int:
    return ((number ^ (number + 1)).bit_length()) - 1
