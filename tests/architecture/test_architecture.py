"""Rules of the house that a compiler would not keep."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import backtest_kit
import backtest_kit_mongo
import backtest_kit_worker
from backtest_kit_mongo.adapters import REGISTRIES
from backtest_kit_mongo.domains.table import DOMAINS

PACKAGE = Path(backtest_kit_mongo.__file__).parent
WORKER = Path(backtest_kit_worker.__file__).parent
ENGINE = Path(backtest_kit.__file__).parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *WORKER.rglob("*.py"), *ENGINE.rglob("*.py")])
PURE = sorted((PACKAGE / "coherence").glob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports from: `coherence`, `backends`, ..."""
    prefix = "backtest_kit_mongo."
    return {name.removeprefix(prefix).split(".")[0] for name in imports(path) if name.startswith(prefix)}


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_the_core_does_no_io_and_reads_no_clock_and_draws_no_random_number(path: Path) -> None:
    allowed = {"__future__", "collections", "dataclasses", "datetime", "enum", "functools", "math", "typing", "types"}
    allowed |= {"urllib", "zlib", "hashlib", "msgpack", "pydantic", "sys", "backtest_kit_mongo"}
    assert {name.split(".")[0] for name in imports(path)} <= allowed
    assert rooms(path) <= {"coherence", "errors"}
    assert not re.search(r"\.now\(|\.today\(|open\(", path.read_text("utf-8"))


@pytest.mark.parametrize(
    ("room", "may_import"),
    [
        ("coherence", {"coherence", "errors"}),
        ("domains", {"coherence", "domains", "errors"}),
        ("backends", {"coherence", "candles", "backends", "errors"}),
        ("drivers", {"coherence", "candles", "backends", "drivers", "errors"}),
        ("embedded", {"embedded", "errors"}),
    ],
)
def test_rooms_import_only_in_the_allowed_direction(room: str, may_import: set[str]) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        assert rooms(path) <= may_import, path.name


def test_the_package_never_imports_the_worker() -> None:
    assert not [path for path in PACKAGE.rglob("*.py") if any("backtest_kit_worker" in name for name in imports(path))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_files_stay_under_400_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 400


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_functions_stay_under_40_lines(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{path.name}: {node.name} has {length} lines"


def test_public_names_are_listed_once_and_exist() -> None:
    names = backtest_kit_mongo.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(backtest_kit_mongo, name) for name in names)


def test_every_domain_has_one_registry_in_the_order_of_the_table() -> None:
    assert len(DOMAINS) == len(REGISTRIES) == 17
    for domain, registry in zip(DOMAINS, REGISTRIES, strict=True):
        assert type(registry).__name__ == f"Persist{domain.name.title()}Registry"
        assert hasattr(registry, f"use_persist_{domain.name}_adapter")


def test_no_backend_or_driver_knows_a_domain_by_name() -> None:
    # Comments and the word "candle" in prose are fine; comparing a domain's name is not.
    for room in ("coherence", "backends", "drivers"):
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert node.value not in {domain.name for domain in DOMAINS}, f"{path.name}:{node.lineno}"


ENGINE_CORE = (
    "identity signals events rules pricing pnl levels validation risk effects lifecycle held state operations ports"
)


def test_the_engine_knows_only_public_names_of_the_memory() -> None:
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("backtest_kit_mongo"):
                assert node.module == "backtest_kit_mongo", f"{path.name}: {node.module}"
                assert {alias.name for alias in node.names} <= set(backtest_kit_mongo.__all__), path.name
            elif isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.startswith("backtest_kit_mongo.")], path.name
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "bk"
                and isinstance(node.ctx, ast.Load)
            ):
                assert node.attr in backtest_kit_mongo.__all__, f"{path.name}:{node.lineno} bk.{node.attr}"


def test_the_engines_core_does_no_io_and_reads_no_clock_and_draws_no_random_number() -> None:
    allowed = {"__future__", "backtest_kit", "collections", "dataclasses", "hashlib", "math", "typing"}
    for name in ENGINE_CORE.split():
        path = ENGINE / f"{name}.py"
        assert not path.exists() or {module.split(".")[0] for module in imports(path)} <= allowed, name


def test_the_memory_and_the_worker_never_import_the_engine() -> None:
    for path in [*PACKAGE.rglob("*.py"), *WORKER.rglob("*.py")]:
        assert "backtest_kit" not in {name.split(".")[0] for name in imports(path)}, path.name
