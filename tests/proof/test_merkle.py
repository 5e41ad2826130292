"""The tree's hashes and paths equal published test vectors, and those of an independent implementation."""

import random

import pytest
from proofbundle import merkle as theirs

from chat_service.proof.merkle import (
    EMPTY_ROOT,
    Frontier,
    Node,
    Stretch,
    consistency_path,
    fold,
    hashes_of,
    inclusion_path,
    is_consistent,
    is_included,
    leaf_hash,
    node_hash,
)

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The roots in the Certificate Transparency project's own tests, for the first 0 to 8 of `LEAVES`."""

MAX_LEAVES = 70


class Tree:
    """A tree with the hashes of all its complete subtrees, and its roots at every size."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.frontier = Frontier()
        self.nodes: dict[Node, bytes] = {}
        self.roots = [EMPTY_ROOT]
        for number, leaf in enumerate(leaves):
            for level, subtree_hash in enumerate(self.frontier.append(leaf_hash(leaf))):
                self.nodes[Node(level, number >> level)] = subtree_hash
            self.roots.append(self.frontier.root())

    def hashes(self, path: list[Stretch]) -> list[bytes]:
        return hashes_of(path, self.nodes.__getitem__)


DATA = [f"leaf {number}".encode() for number in range(MAX_LEAVES)]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(DATA)


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_published_roots(size: int) -> None:
    assert Tree(LEAVES[:size]).roots[-1].hex() == ROOTS[size]


def test_published_paths() -> None:
    """The tree of seven leaves in RFC 6962, section 2.1.3, has the proofs that are given there."""
    published = Tree(LEAVES[:7])
    a, b, c, d, e, f, j = (leaf_hash(leaf) for leaf in LEAVES[:7])
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k = node_hash(g, h)
    left, right = k, node_hash(i, j)
    assert published.roots[7] == node_hash(left, right)
    assert published.hashes(inclusion_path(0, 7)) == [b, h, right]
    assert published.hashes(inclusion_path(3, 7)) == [c, g, right]
    assert published.hashes(inclusion_path(4, 7)) == [f, j, k]
    assert published.hashes(inclusion_path(6, 7)) == [i, k]
    assert published.hashes(consistency_path(3, 7)) == [c, d, g, right]
    assert published.hashes(consistency_path(4, 7)) == [right]
    assert published.hashes(consistency_path(6, 7)) == [i, j, k]


def test_every_proof_of_every_size_equals_that_of_another_implementation(tree: Tree) -> None:
    for size in range(1, MAX_LEAVES + 1):
        assert tree.roots[size] == theirs.merkle_tree_hash(DATA[:size])
        for index in range(size):
            path = tree.hashes(inclusion_path(index, size))
            assert path == theirs.inclusion_proof(DATA[:size], index)
            assert is_included(leaf_hash(DATA[index]), index, size, path, tree.roots[size])
    for new in range(1, MAX_LEAVES + 1):
        for old in range(1, new):
            path = tree.hashes(consistency_path(old, new))
            assert path == theirs.consistency_proof(DATA[:new], old)
            assert is_consistent(old, tree.roots[old], new, tree.roots[new], path)


def test_false_claims_are_not_proved(tree: Tree) -> None:
    """A proof fails with another leaf, index, size, root or path, at any size."""
    dice = random.Random(6962)
    for _ in range(2_000):
        size = dice.randint(2, MAX_LEAVES)
        index, other = dice.sample(range(size), 2)
        path, root = tree.hashes(inclusion_path(index, size)), tree.roots[size]
        leaf = leaf_hash(DATA[index])
        assert not is_included(leaf_hash(DATA[other]), index, size, path, root)
        assert not is_included(leaf, other, size, path, root)
        assert not is_included(leaf, index, size, path, tree.roots[size - 1])
        assert not is_included(leaf, index, size, path[:-1], root)
        assert not is_included(leaf, index, size, [*path, root], root)
        assert not is_included(leaf, -1, size, path, root)
        assert not is_included(leaf, size, size, path, root)
        old = dice.randint(1, size - 1)
        growth = tree.hashes(consistency_path(old, size))
        assert not is_consistent(old, tree.roots[old - 1], size, root, growth)
        assert not is_consistent(old, tree.roots[old], size, tree.roots[size - 1], growth)
        assert not is_consistent(old, tree.roots[old], size, root, growth[:-1])
        assert not is_consistent(old, tree.roots[old], size, root, [*growth, root])
        assert not is_consistent(size, root, old, tree.roots[old], growth)


def test_growth_from_an_empty_log_and_without_new_entries(tree: Tree) -> None:
    """An empty log is consistent with any log, and a log that has not grown only with itself."""
    assert is_consistent(0, EMPTY_ROOT, 5, tree.roots[5], [])
    assert is_consistent(5, tree.roots[5], 5, tree.roots[5], [])
    assert not is_consistent(5, tree.roots[5], 5, tree.roots[4], [])
    assert not is_consistent(0, tree.roots[1], 5, tree.roots[5], [])
    assert not is_consistent(0, EMPTY_ROOT, 5, tree.roots[5], [EMPTY_ROOT])


def test_a_stored_frontier_can_be_continued(tree: Tree) -> None:
    for size in range(MAX_LEAVES):
        earlier = Tree(DATA[:size]).frontier
        again = Frontier(earlier.size, list(earlier.hashes))
        again.append(leaf_hash(DATA[size]))
        assert again.root() == tree.roots[size + 1]
        assert fold(again.hashes) == again.root()


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="no tree of 3 leaves"):
        Frontier(3, [EMPTY_ROOT])
