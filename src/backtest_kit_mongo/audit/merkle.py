"""Merkle trees as RFC 6962 (Certificate Transparency) defines them. Pure: bytes in, bytes out.

A leaf is hashed with the prefix 0, an inner node with 1, so neither can pass for the other. A tree of n leaves splits
at the largest power of two below n, so a tree that grows keeps its full left parts, and few hashes prove that an older
tree is the beginning of a newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


Full = Callable[[int, int], bytes]
"""Of a tree, by level and position: the root over the leaves from position * 2**level on, 2**level of them. That is all
a proof asks for, so whoever keeps these nodes (`kept.py`) hashes little more than the proof is long.
"""


def over(leaves: Sequence[bytes]) -> Full:
    """The full parts of a tree of which the leaves are held, hashed when they are asked for."""

    def full(level: int, position: int) -> bytes:
        if level == 0:
            return leaves[position]
        return node(full(level - 1, 2 * position), full(level - 1, 2 * position + 1))

    return full


def root(full: Full, end: int, start: int = 0) -> bytes:
    """The root over the leaves from `start` to before `end`. `start`: a multiple of the largest power of two that
    fits.
    """
    if end == start:
        return EMPTY
    level = (end - start).bit_length() - 1
    left, middle = full(level, start >> level), start + (1 << level)
    return left if middle == end else node(left, root(full, end, middle))


def inclusion(full: Full, index: int, end: int, start: int = 0) -> list[bytes]:
    """The hashes that lead from a leaf to the root, from the bottom up; about log2(n).

    Args:
        index: of the leaf.
        end: number of leaves.
    """
    if end - start <= 1:
        return []
    middle = start + _split(end - start)
    if index < middle:
        return [*inclusion(full, index, middle, start), root(full, end, middle)]
    return [*inclusion(full, index, end, middle), root(full, middle, start)]


def consistency(full: Full, older: int, newer: int) -> list[bytes]:
    """The hashes that prove that the tree of the first `older` leaves is the beginning of that of the first `newer`.

    Args:
        older: from 1 to `newer`.
    """
    return _consistency(full, older, newer, 0, whole=True)


def _consistency(full: Full, older: int, end: int, start: int, *, whole: bool) -> list[bytes]:
    if older == end:
        return [] if whole else [root(full, end, start)]
    middle = start + _split(end - start)
    if older <= middle:
        return [*_consistency(full, older, middle, start, whole=whole), root(full, end, middle)]
    return [*_consistency(full, older, end, middle, whole=False), root(full, middle, start)]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
