"""Which combinations of parameters there are, and which code a strategy is."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backtest_kit as bt
from backtest_kit.errors import DeclarationError
from backtest_kit.runs.code import code_of
from backtest_kit.runs.params import combinations, parse_param, require_taken


@pytest.mark.parametrize(
    ("params", "found"),
    [
        (None, [{}]),
        ({"a": [1, 2], "b": ["x"]}, [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]),
        ([{"a": 1}, {"a": 2, "b": True}, {"a": 1}], [{"a": 1}, {"a": 2, "b": True}]),
        ({"a": np.arange(2), "b": np.array([0.5])}, [{"a": 0, "b": 0.5}, {"a": 1, "b": 0.5}]),
        ({"a": [1, 1.0, True]}, [{"a": 1}, {"a": 1.0}, {"a": True}]),
    ],
)
def test_a_grid_is_every_combination_and_a_list_is_itself_each_once(
    params: Any, found: list[dict[str, object]]
) -> None:
    assert [list(one.items()) for one in combinations(params)] == [list(one.items()) for one in found]
    assert [list(map(type, one.values())) for one in combinations(params)] == [
        list(map(type, one.values())) for one in found
    ]


def test_a_function_draws_the_same_again() -> None:
    def draw(source: Any) -> dict[str, float]:
        return {"a": source.random()}

    assert combinations(draw, 5) == combinations(draw, 5)
    assert len(combinations(draw, 5)) == 5


@pytest.mark.parametrize(
    "params",
    [
        {"a": []},
        [],
        {"a": 3},
        {"a": "abc"},
        {"a": [float("nan")]},
        {"a": [object()]},
        {"a b": [1]},
        [3],
        7,
        {"a": range(10**7)},
    ],
)
def test_what_is_no_combination_is_refused(params: Any) -> None:
    with pytest.raises(DeclarationError):
        combinations(params)


def test_a_function_without_a_count_and_a_count_without_a_function_are_refused() -> None:
    for params, samples in ((lambda source: {"a": 1}, None), ({"a": [1]}, 3)):
        with pytest.raises(DeclarationError, match="samples="):
            combinations(params, samples)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("fast=5..20:5", "fast", [5, 10, 15, 20]),
        ("fast=3..5", "fast", [3, 4, 5]),
        ("stop=0.1..0.4:0.1", "stop", [0.1, 0.2, 0.3, 0.4]),
        ("x=1,2.5,true,none,long", "x", [1, 2.5, True, None, "long"]),
    ],
)
def test_an_option_says_values(text: str, name: str, values: list[object]) -> None:
    assert parse_param(text) == (name, values)


@pytest.mark.parametrize(
    "text", ["fast", "=1", "fast=", "fast=9..5", "fast=1..5:0", "fast=a..c", "fast=1..true", "1a=3"]
)
def test_an_option_that_says_none_is_refused(text: str) -> None:
    with pytest.raises(DeclarationError):
        parse_param(text)


def test_a_parameter_that_the_strategy_does_not_take_is_named_with_the_nearest() -> None:
    strategy = bt.Strategy("s", lambda ctx, fast=1, slow=3: None)
    require_taken(strategy, [{"fast": 1}])
    with pytest.raises(DeclarationError, match="did you mean 'fast'"):
        require_taken(strategy, [{"fast": 1, "fasst": 2}])
    require_taken(bt.Strategy("s", lambda ctx, **rest: None), [{"anything": 1}])


def test_code_is_the_file_and_what_it_imports_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("A = 1\n")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "__init__.py").write_text("from deeper import part\n")
    (tmp_path / "deeper" / "part.py").write_text("B = 1\n")
    (tmp_path / "unused.py").write_text("C = 1\n")
    file = tmp_path / "s.py"
    file.write_text("import json\nimport numpy\nimport helper\nfrom deeper import part\n")

    def code() -> str:
        importlib.invalidate_caches()
        code_of.cache_clear()
        return code_of(file, 0)

    first = code()
    (tmp_path / "unused.py").write_text("C = 2\n")
    assert code() == first
    for changed in ("helper.py", "deeper/part.py", "s.py"):
        path = tmp_path / changed
        before = path.read_text()
        path.write_text(before + "# changed\n")
        assert code() != first, changed
        path.write_text(before)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("s.py", "helper.py", "deeper"):
        (tmp_path / name).rename(moved / name)
    assert code_of(moved / "s.py", 0) == first
