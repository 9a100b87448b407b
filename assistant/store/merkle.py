"""The hashes that hold the ledger together: a leaf per record, a link to its predecessor, and the RFC 9162 tree over
all leaves.

The link chain says *where* something was changed; the tree gives one short root for the whole log and proofs for single
records. Standard library only; the prefixes 0 (leaf), 1 (node) and 2 (link) keep the three kinds of hash apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

GENESIS = bytes(32)
"""What the first link follows."""


def leaf_hash(record: bytes) -> bytes:
    """The tree's leaf for one canonical record."""
    return sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The tree's inner node over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


def link_hash(previous: bytes, leaf: bytes) -> bytes:
    """The chain's next link."""
    return sha256(b"\x02" + previous + leaf).digest()


class Frontier:
    """The right edge of the tree: all that is needed to append a leaf and to know the root (one hash per bit of the
    size).
    """

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)
        if len(self.hashes) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} frontier hashes, not {len(self.hashes)}")

    def add(self, leaf: bytes) -> None:
        """Append one leaf."""
        carry = self.size
        while carry & 1:  # full subtrees of equal height melt together, like the carry of a binary counter
            leaf = node_hash(self.hashes.pop(), leaf)
            carry >>= 1
        self.hashes.append(leaf)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append many leaves: `add`, written out."""
        hashes, size = self.hashes, self.size
        for leaf in leaves:
            carry = size
            while carry & 1:
                leaf = sha256(b"\x01" + hashes.pop() + leaf).digest()
                carry >>= 1
            hashes.append(leaf)
            size += 1
        self.size = size

    def join(self, later: Frontier) -> None:
        """Append the leaves of another tree. Raises ValueError unless this one ends where a full subtree of that height may begin."""
        height = max(0, later.size - 1).bit_length()
        if self.size % (1 << height):
            raise ValueError(f"a tree of {later.size} leaves cannot follow one of {self.size}")
        if later.size == 1 << height:
            carry, node = self.size >> height, later.hashes[0]
            while carry & 1:
                node = node_hash(self.hashes.pop(), node)
                carry >>= 1
            self.hashes.append(node)
        else:
            self.hashes += later.hashes
        self.size += later.size

    def root(self) -> bytes:
        """The tree's root; the hash of nothing for an empty tree."""
        if not self.hashes:
            return sha256(b"").digest()
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def copy(self) -> Frontier:
        """An independent copy."""
        return Frontier(self.size, self.hashes)


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index`: the sibling hashes from the leaf up to the root."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no leaf {index} in a tree of {len(leaves)}")
    path: list[bytes] = []
    level = list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        odd = level[-1:] if len(level) & 1 else []
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)] + odd
        index >>= 1
    return path


def root_from_proof(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that `path` leads to. Raises ValueError when the path cannot belong to that index and size."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    last, node = size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ValueError("the proof is too long")
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:  # the right edge has no sibling at these heights
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        index >>= 1
        last >>= 1
    if last != 0:
        raise ValueError("the proof is too short")
    return node
