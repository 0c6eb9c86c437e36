"""`docs/domains.md`: its examples run, and say what comes back; what is derived in it is up to date."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.domains.table import DOMAINS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "domains.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (\w+): .*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


def test_the_page_has_every_domain_and_its_derived_parts_are_up_to_date() -> None:
    assert set(SECTIONS) == {domain.name for domain in DOMAINS if domain.name in SECTIONS}
    assert {domain.name for domain in DOMAINS} <= set(SECTIONS)
    ops = runpy.run_path(str(ROOT / "ops" / "domains_page.py"))
    assert ops["page_text"]() == PAGE, "run `make derived`"


@pytest.mark.parametrize("name", SECTIONS)
def test_an_example_runs_and_gives_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, names = SECTIONS[name], {"bk": bk}
    compared = 0
    for node in ast.parse(code).body:
        source: Any = ast.get_source_segment(code, node)
        said = re.search(re.escape(source) + r"  # (.+)$", code, re.MULTILINE)
        if isinstance(node, ast.Expr) and said is not None and _is_value(said[1]):
            compared += 1
            assert eval(source, names) == eval(said[1], names)
        else:
            exec(source, names)
    assert compared or name == "breakeven"


def _is_value(text: str) -> bool:
    try:
        return isinstance(ast.parse(text, mode="eval"), ast.Expression)
    except SyntaxError:
        return False
