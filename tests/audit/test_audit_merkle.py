"""Trees and proofs without a database, checked by the script that others are given."""

from __future__ import annotations

import runpy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from backtest_kit_mongo.audit.kept import KeptTree
from backtest_kit_mongo.audit.merkle import Growing, consistency, inclusion, leaf, node, over
from backtest_kit_mongo.audit.seals import seal_leaf

SCRIPT = Path(__file__).parents[2] / "docs/check_proof.py"
SIZES = range(1, 18)


@pytest.fixture(scope="module")
def checker() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def leaves(count: int) -> list[bytes]:
    return [leaf(number.to_bytes(4, "big")) for number in range(count)]


def test_the_root_is_that_of_the_standard() -> None:
    a, b, c = leaves(3)
    assert Growing([]).root() == sha256(b"").digest()
    assert Growing([a, b, c]).root() == node(node(a, b), c) == sha256(b"\1" + node(a, b) + c).digest()


def test_a_leaf_is_proved_in_its_place_and_in_no_other(checker: dict[str, Any]) -> None:
    climb = checker["climb"]
    for size in SIZES:
        tree = leaves(size)
        root = Growing(tree).root()
        for index in range(size):
            path = inclusion(over(tree), index, size)
            assert climb(index, size - 1, path, tree[index]) == (root,)
            for elsewhere in set(range(size)) - {index}:
                try:
                    assert climb(elsewhere, size - 1, path, tree[index]) != (root,)
                except ValueError:
                    continue
            with pytest.raises(ValueError, match="too long"):
                climb(index, size - 1, [*path, root], tree[index])


def test_a_tree_is_proved_to_be_the_beginning_of_its_growth_only(checker: dict[str, Any]) -> None:
    both_roots = checker["both_roots"]
    for newer in SIZES:
        tree = leaves(newer)
        for older in range(1, newer + 1):
            old, new = Growing(tree[:older]).root(), Growing(tree).root()
            path = consistency(over(tree), older, newer)
            assert both_roots(older, newer, path, old) == (old, new)
            forged = Growing([*tree[: older - 1], leaf(b"forged")]).root()
            assert both_roots(older, newer, path, forged) != (forged, new)


def test_a_kept_tree_proves_what_a_whole_one_does_and_grows_on_after_it_was_closed(tmp_path: Path) -> None:
    batches = [leaves(count) for count in (1, 3, 0, 2, 8, 1, 1, 5, 2, 4, 1)]
    whole = [seal_leaf(number, bytes([number] * 32), batch) for number, batch in enumerate(batches, 1)]
    for size, batch in enumerate(batches, 1):
        tree = KeptTree(tmp_path / "tree")
        tree.append(size, bytes([size] * 32), batch)
        last = tree.state()
        assert last == (size, size, sum(map(len, batches[:size])), bytes([size] * 32))
        assert tree.root(last) == Growing(whole[:size]).root()
        for older in range(1, size + 1):
            assert tree.root(tree.state(older)) == Growing(whole[:older]).root()
            assert consistency(tree.full, older, size) == consistency(over(whole[:size]), older, size)
            assert inclusion(tree.full, older - 1, size) == inclusion(over(whole[:size]), older - 1, size)
        tree.close()


@pytest.mark.parametrize(("seals", "records"), [(1_000, 10_000), (100_000, 100), (10_000_000, 1), (1, 10_000_000)])
def test_a_proof_among_ten_million_records_stays_under_three_kilobytes(seals: int, records: int) -> None:
    """The lengths of the paths are those of the highest way through each tree; the rest has a fixed length."""
    hashes = (seals - 1).bit_length() + (records - 1).bit_length()
    longest_path = 4 * ((32 * hashes + 2) // 3) + 8  # base64, two texts
    fixed = 3 * 64 + 200  # digest, chain value and hash in hex; names, numbers
    assert longest_path + fixed + len("signal/0123456789abcdef01234567/1000000") <= 1_700


def test_no_path_is_longer_than_its_tree_is_high() -> None:
    tree = leaves(10_000)
    assert len(inclusion(over(tree), 7_777, len(tree))) <= (len(tree) - 1).bit_length() == 14
