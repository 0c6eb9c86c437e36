"""Merkle trees as RFC 6962 (Certificate Transparency) defines them. Pure: bytes in, bytes out.

A leaf is hashed with the prefix 0, an inner node with 1, so neither can pass for the other. A tree of n leaves splits
at the largest power of two below n, so a tree that grows keeps its full left parts, and few hashes prove that an older
tree is the beginning of a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

EMPTY: Final = sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\0" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


class Growing:
    """A tree of which only the roots of its full parts are kept: log2(n) hashes, whatever n is.

    Args:
        leaves: hashes of the first leaves.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._full: list[bytes] = []
        for each in leaves:
            self.append(each)

    def append(self, leaf_hash: bytes) -> None:
        self.size += 1
        carried, bits = leaf_hash, self.size
        while bits % 2 == 0:
            carried = node(self._full.pop(), carried)
            bits //= 2
        self._full.append(carried)

    def root(self) -> bytes:
        """The root of the leaves so far."""
        if not self._full:
            return EMPTY
        *rest, root = self._full
        for each in reversed(rest):
            root = node(each, root)
        return root


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from a leaf to the root, from the bottom up; about log2(n).

    Args:
        leaves: hashes of all leaves.
        index: of the leaf, from 0.
    """
    if len(leaves) <= 1:
        return []
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if index < split:
        return [*inclusion(left, index), Growing(right).root()]
    return [*inclusion(right, index - split), Growing(left).root()]


def consistency(leaves: Sequence[bytes], older: int) -> list[bytes]:
    """The hashes that prove that the tree of the first `older` leaves is the beginning of the tree of all of them.

    Args:
        older: from 1 to the number of leaves.
    """
    return _consistency(leaves, older, whole=True)


def _consistency(leaves: Sequence[bytes], older: int, *, whole: bool) -> list[bytes]:
    if older == len(leaves):
        return [] if whole else [Growing(leaves).root()]
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if older <= split:
        return [*_consistency(left, older, whole=whole), Growing(right).root()]
    return [*_consistency(right, older - split, whole=False), Growing(left).root()]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
