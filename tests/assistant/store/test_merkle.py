"""The tree against the definition of RFC 9162, written out naively."""

from __future__ import annotations

from hashlib import sha256

import pytest

from assistant.store import merkle


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return merkle.node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


LEAVES = [merkle.leaf_hash(bytes([i])) for i in range(40)]


def test_the_frontier_gives_the_root_of_every_size() -> None:
    tree = merkle.Frontier()
    for size in range(len(LEAVES) + 1):
        assert tree.root() == naive_root(LEAVES[:size])
        assert merkle.Frontier(tree.size, tree.hashes).root() == tree.root()
        if size < len(LEAVES):
            tree.add(LEAVES[size])


def test_known_answers() -> None:
    assert merkle.Frontier().root().hex().startswith("e3b0c44298fc1c14")
    assert merkle.leaf_hash(b"").hex().startswith("6e340b9cffb37a98")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, 40])
def test_every_leaf_has_a_proof_and_no_other_leaf_fits_it(size: int) -> None:
    leaves = LEAVES[:size]
    root = naive_root(leaves)
    for index in range(size):
        path = merkle.inclusion_proof(leaves, index)
        assert merkle.root_from_proof(leaves[index], index, size, path) == root
        assert merkle.root_from_proof(merkle.leaf_hash(b"other"), index, size, path) != root
        for wrong in (path[:-1], [*path, root]):
            if wrong != path:
                with pytest.raises(ValueError, match="the proof is too"):
                    merkle.root_from_proof(leaves[index], index, size, wrong)


def test_a_frontier_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="3 leaves"):
        merkle.Frontier(3, [LEAVES[0]])
