"""The engine's documentation is true: its files run, its reference is complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import backtest_kit as bt

from .test_examples import EXAMPLES, run_json

DOCS = (Path(__file__).parents[2] / "docs" / "engine.md").read_text("utf-8")


def test_the_strategy_of_the_ten_minutes_runs(desk: Path) -> None:
    (code,) = (code for code in re.findall(r"```\n(.*?)```", DOCS, re.DOTALL) if "def mine(" in code)
    (desk / "examples").symlink_to(EXAMPLES)
    (desk / "mine.py").write_text(code)
    assert len(run_json("mine.py")["trades"]) == 3


def test_many_runs_are_many_processes(desk: Path) -> None:
    (code,) = (code for code in re.findall(r"```\n(.*?)```", DOCS, re.DOTALL) if "ProcessPoolExecutor" in code)
    (desk / "examples").symlink_to(EXAMPLES)
    (desk / "many.py").write_text(code)
    done = subprocess.run([sys.executable, "many.py"], capture_output=True, text=True, check=True)
    assert sorted(ast.literal_eval(done.stdout)) == [6, 12, 24]


def test_every_public_name_is_in_the_reference() -> None:
    reference = DOCS[DOCS.index("## Every public name") :]
    assert [name for name in bt.__all__ if not re.search(rf"\b{name}\b", reference)] == []
