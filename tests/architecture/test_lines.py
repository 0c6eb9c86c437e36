"""How long a line may be, and that no formatter tore a docstring apart."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
TABLES = {name for name, codes in SETTINGS["per-file-ignores"].items() if "E501" in codes}
"""Files whose tables may be wider."""
CODE = SETTINGS["pycodestyle"]["max-line-length"]
PROSE = 100
ROOMS = ("src", "worker", "tests", "benchmarks", "docs", "ops", "examples")


def files(suffix: str) -> Iterator[Path]:
    yield from ROOT.glob(f"*{suffix}")
    for room in ROOMS:
        yield from (ROOT / room).rglob(f"*{suffix}")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines of Markdown that can be wrapped: no code, no table, no line that is one link or one code span."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        is_code ^= line.lstrip().startswith("```")
        if not is_code and not re.match(r"\s*(\||```|#|!?\[[^]]*\]\([^)]*\)\S*$|[-*> ]*`[^`]*`\S*$)", line):
            yield number, line


def test_prose_is_wrapped_at_100_columns() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files(".md")
        for number, line in prose(path.read_text("utf-8"))
        if len(line) > PROSE and " " in line.strip()
    ]
    assert not long


def test_code_is_at_most_120_characters_wide_except_listed_tables() -> None:
    assert CODE == 120
    long = {
        path.relative_to(ROOT).as_posix()
        for path in files(".py")
        if any(len(line) > CODE for line in path.read_text("utf-8").splitlines())
    }
    assert long <= TABLES


TORN = re.compile(r'"""[^\n]*[a-z,;]\s*\n\n\s*[a-z]')


def test_no_docstring_is_torn_in_the_middle_of_a_sentence() -> None:
    torn = []
    for path in files(".py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if TORN.search(text) else ():
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                first, _, rest = node.value.value.partition("\n\n")
                if "\n" not in first and re.search(r"[a-z,;]$", first.rstrip()) and re.match(r"\s*[a-z]", rest):
                    torn.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not torn


def test_no_two_test_files_are_one_module() -> None:
    """The second could not be imported, which shows in a fresh clone alone."""
    found = (path for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists())
    names = Counter(path.stem for path in found)
    assert [name for name, count in names.items() if count > 1] == []
