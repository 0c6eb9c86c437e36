"""Rules of the house that a compiler would not keep."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import backtest_kit
import backtest_kit_console
import backtest_kit_mongo
import backtest_kit_verify
import backtest_kit_worker
from backtest_kit_mongo import stored
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.backends.mongo.layout import own_collections
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.settings import Settings

ROOT = Path(__file__).parents[2]
PACKAGE = Path(backtest_kit_mongo.__file__).parent
WORKER = Path(backtest_kit_worker.__file__).parent
ENGINE = Path(backtest_kit.__file__).parent
CONSOLE = Path(backtest_kit_console.__file__).parent
SOURCES = sorted(path for package in (PACKAGE, WORKER, ENGINE, CONSOLE) for path in package.rglob("*.py"))
VERIFY = Path(backtest_kit_verify.__file__).parent
LENGTHS = [*SOURCES, *sorted(VERIFY.rglob("*.py"))]
PURE = sorted((PACKAGE / "coherence").glob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "backtest_kit_mongo":
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports from: `coherence`, `backends`, ..."""
    prefix = "backtest_kit_mongo."
    return {name.removeprefix(prefix).split(".")[0] for name in imports(path) if name.startswith(prefix)}


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_the_core_does_no_io_and_reads_no_clock_and_draws_no_random_number(path: Path) -> None:
    allowed = {"__future__", "collections", "dataclasses", "datetime", "enum", "functools", "math", "typing", "types"}
    allowed |= {"urllib", "zlib", "hashlib", "msgpack", "pydantic", "sys", "backtest_kit_mongo"}
    assert {name.split(".")[0] for name in imports(path)} <= allowed
    assert not re.search(r"\.now\(|\.today\(|open\(", path.read_text("utf-8"))


ARROWS = {
    "errors": "",
    "locks": "errors",
    "moved": "locks",
    "inheritance": "",
    "exits": "",
    "stored": "",
    "connect": "errors",
    "embedded": "connect errors",
    "coherence": "errors",
    "limits": "coherence errors",
    "candles": "coherence errors",
    "terminal": "coherence exits",
    "causing": "coherence errors",
    "look_ahead": "coherence errors locks",
    "domains": "candles coherence errors",
    "ports": "candles coherence",
    "backends": "candles causing coherence connect errors limits locks ports stored",
    "settings": "backends domains errors locks",
    "drivers": "candles coherence errors locks ports",
    "tracing": "coherence drivers",
    "stores": "backends drivers errors inheritance locks ports",
    "adapters": "candles coherence domains drivers errors inheritance locks look_ahead stores",
    "modes": "adapters domains drivers errors stores",
    "rehearsal": "adapters backends coherence domains drivers ports stores",
    "metrics": "coherence domains drivers locks ports stores",
    "reachability": "backends errors locks settings",
    "caches": "backends coherence domains settings",
    "servers": "backends coherence connect settings",
    "setup": (
        "adapters backends caches domains drivers embedded errors inheritance locks metrics modes "
        "ports reachability servers settings stores tracing"
    ),
    "collections": "backends coherence connect domains errors locks setup stored",
    "audit": "backends candles coherence connect domains drivers errors locks look_ahead servers settings setup stored",
    "feed": "audit backends coherence connect domains errors locks reachability servers settings setup stored",
    "operate": (
        "adapters audit backends caches candles coherence connect domains drivers errors feed locks ports servers "
        "settings setup stored terminal"
    ),
    "candle_sources": "adapters candles coherence errors look_ahead operate",
    "aio": "adapters candle_sources collections drivers feed setup",
    "testing": (
        "adapters aio backends candles coherence domains drivers embedded errors look_ahead ports settings setup stores"
    ),
    "cli": (
        "adapters audit backends caches candles coherence domains drivers embedded errors exits feed operate "
        "servers settings setup stored stores terminal"
    ),
}
"""Every room of the package, from the ground up, and the rooms that it may import. Each stands above what it
imports.
"""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_arrow_between_rooms_is_listed_and_points_down() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            found.setdefault(room_of(path), set()).update(rooms(path) - {room_of(path)})
    assert {room: " ".join(sorted(arrows)) for room, arrows in found.items()} == ARROWS
    floors = list(ARROWS)
    assert not [(room, to) for room in floors for to in ARROWS[room].split() if floors.index(to) >= floors.index(room)]


def test_clients_and_the_durable_write_concern_are_made_in_one_place() -> None:
    made = r"\b(MongoClient|Redis|StrictRedis|RedisCluster|Sentinel)(\[.*\])?\(|\.from_url\(|WriteConcern\(\"majority"
    sources = [*PACKAGE.rglob("*.py"), *WORKER.rglob("*.py"), *CONSOLE.rglob("*.py")]
    product = [path for path in sources if "testing" not in path.parts]
    found = {path.name for path in product if re.search(made, path.read_text())}
    assert found == {"connect.py"}, "take `servers.Servers`, a function of `connect`, or `connect.DURABLE`"


def test_names_of_collections_beside_the_domains_stand_in_one_place() -> None:
    for path in [*PACKAGE.rglob("*.py"), *WORKER.rglob("*.py"), *CONSOLE.rglob("*.py"), *VERIFY.rglob("*.py")]:
        if path != PACKAGE / "stored.py":
            texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not texts & stored.ALL, f"{path.name}: take the names of `stored`"


def test_what_checks_the_product_is_not_part_of_it() -> None:
    assert not [path for path in SOURCES if any("backtest_kit_verify" in name for name in imports(path))]
    loaded = "import sys, backtest_kit_mongo.cli.main; sys.exit('backtest_kit_verify' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)


def test_nothing_imports_the_console() -> None:
    below = [path for path in LENGTHS if CONSOLE not in path.parents]
    assert not [path for path in below if any("backtest_kit_console" in name for name in imports(path))]


def test_the_package_never_imports_the_worker() -> None:
    assert not [path for path in PACKAGE.rglob("*.py") if any("backtest_kit_worker" in name for name in imports(path))]


def test_what_benchmarks_and_examples_import_exists() -> None:
    for path in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("backtest_kit"):
                module = import_module(node.module)
                for alias in node.names:
                    is_there = hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")
                    assert is_there, f"{path.name} imports {alias.name} of {node.module}"


def test_the_map_shows_every_room_and_no_arrow_goes_up_there() -> None:
    plan = (ROOT / "docs/architecture.md").read_text("utf-8").split("```")[1].splitlines()
    depth = {room: at for at, line in enumerate(plan) if line.startswith("    ") for room in line[4:35].split()}
    assert set(depth) == set(ARROWS)
    assert not [(room, to) for room in ARROWS for to in ARROWS[room].split() if depth[to] < depth[room]]


MAPS = ("CONTRIBUTING.md", "docs/architecture.md", "docs/extending.md", "docs/glossary.md")
SHORT = {"mongo/": "src/backtest_kit_mongo/", "engine/": "src/backtest_kit/", "worker/": "worker/backtest_kit_worker/"}
"""How the maps abbreviate packages."""
IN_A_MAP = re.compile(r"(?<![\w./-])[\w./-]+(?:\.(?:py|lua|md|json|ya?ml|acl)\b|/$)")


def test_the_maps_name_only_files_that_exist() -> None:
    found = [path for top in ("src", "worker", "tests", "docs", "ops") for path in (ROOT / top).rglob("*")]
    paths = {path.relative_to(ROOT).as_posix() + "/" * path.is_dir() for path in found}
    known = {path[at:] for path in paths for at in (0, *(slash.end() for slash in re.finditer("/", path)))}
    known |= {short + path.removeprefix(long) for short, long in SHORT.items() for path in paths if long in path}
    for file in MAPS:
        spans = re.findall(r"`([^`]+)`", (ROOT / file).read_text("utf-8"))
        named = {name for span in spans for name in IN_A_MAP.findall(span) if "NAME" not in name}
        assert not named - known, file


def test_files_stay_under_400_lines() -> None:
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in LENGTHS}
    assert not {path: length for path, length in lengths.items() if length >= 400}


def test_functions_stay_under_40_lines() -> None:
    functions = [(path, node) for path in LENGTHS for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]
    assert not {f"{path}: {node.name}": _length(node) for path, node in functions if _length(node) > 40}


def _length(function: ast.FunctionDef) -> int:
    """Lines without the docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_public_names_are_listed_once_and_exist() -> None:
    names = backtest_kit_mongo.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(backtest_kit_mongo, name) for name in names)


def test_every_domain_has_one_registry_in_the_order_of_the_table() -> None:
    assert len(DOMAINS) == len(REGISTRIES)
    for domain, registry in zip(DOMAINS, REGISTRIES, strict=True):
        assert type(registry).__name__ == f"Persist{domain.name.title()}Registry"
        assert hasattr(registry, f"use_persist_{domain.name}_adapter")
        assert getattr(backtest_kit_mongo, registry.name) is registry


def test_what_is_derived_from_the_table_and_the_signatures_is_up_to_date() -> None:
    ops = runpy.run_path(str(Path(__file__).parents[2] / "ops" / "derived.py"))
    assert ops["CONTRACTS"].read_text("utf-8") == ops["contracts_text"](), "run `make derived`"
    assert ops["LOOPS"].read_text("utf-8") == ops["loops_text"](), "run `make derived`"
    assert ops["ROLES"].read_text("utf-8") == ops["roles_text"](), "run `make derived`"


NPM_TABLES = {"mongo/layout.py", "files/layout.py", "redis/npm_names.py"}
"""What the npm package, with which all three share what is stored, does otherwise than the rule, by domain."""


def test_no_backend_or_driver_knows_a_domain_by_name_but_in_a_table() -> None:
    # Comments and the word "candle" in prose are fine; comparing a domain's name is not.
    names, tables = {domain.name for domain in DOMAINS}, {PACKAGE / "backends" / each for each in NPM_TABLES}
    for room in ("coherence", "backends", "drivers"):
        for path in (PACKAGE / room).rglob("*.py"):
            found = [each for each in tree(path).body if path not in tables or not isinstance(each, ast.AnnAssign)]
            for node in (node for each in found for node in ast.walk(each)):
                assert not (isinstance(node, ast.Constant) and node.value in names), f"{path.name}:{node.lineno}"


def test_a_row_of_the_domain_table_and_the_common_settings_name_no_database() -> None:
    own = {name: str(Settings.model_fields[name].description) for name in Settings.__annotations__}
    assert not [name for name, text in own.items() if re.search("(?i)mongo|redis", name + text)]
    for module in ("coherence/record.py", "domains/table.py"):
        text = (PACKAGE / module).read_text("utf-8").replace("backtest_kit_mongo", "")
        assert not re.search(r"(?i)mongo|redis|\b(collection|index|indexes)\b|-items|_cache\b", text), module


ENGINE_CORE = (
    "identity signals events rules pricing pnl levels validation risk "
    "effects lifecycle watching keeping rows held state operations ports"
)


def test_the_engine_knows_only_public_names_of_the_memory() -> None:
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(tree(path)):
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
    allowed = {"__future__", "backtest_kit", "collections", "dataclasses", "hashlib", "math", "numpy", "typing"}
    for name in ENGINE_CORE.split():
        path = ENGINE / f"{name}.py"
        assert not path.exists() or {module.split(".")[0] for module in imports(path)} <= allowed, name


def test_the_memory_and_the_worker_never_import_the_engine() -> None:
    for path in [*PACKAGE.rglob("*.py"), *WORKER.rglob("*.py")]:
        assert "backtest_kit" not in {name.split(".")[0] for name in imports(path)}, path.name


def test_no_lock_and_no_logger_but_those_of_locks_py() -> None:
    # A feed's turn is held over waits of any length; what is said meanwhile must not be kept back.
    allowed = {PACKAGE / "locks.py", PACKAGE / "feed" / "consume" / "change_feed.py"}
    found = [
        path
        for path in PACKAGE.rglob("*.py")
        if re.search(r"threading\.(Lock|RLock|Condition|Sem\w+)\(", path.read_text())
    ]
    assert set(found) <= allowed, (
        "take `locks.Lock()`: re-entrant, free in a forked child, and nothing is logged under it"
    )
    assert not [path for path in PACKAGE.rglob("*.py") if "getLogger(__name__)" in path.read_text()]


def _collections_named_in(path: Path, constants: dict[str, str]) -> set[str]:
    """Names in `database[NAME]` and `get_collection(NAME)`, as far as they are constants."""
    found: set[str] = set()
    own = constants | _constants(tree(path))
    for node in ast.walk(tree(path)):
        place: ast.expr | None = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("database"):
            place = node.slice
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".get_collection") and node.args:
            place = node.args[0]
        if isinstance(place, ast.Constant) and isinstance(place.value, str):
            found.add(place.value)
        elif isinstance(place, ast.Name) and place.id in own:
            found.add(own[place.id])
    return found


def _constants(module: ast.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.module == "backtest_kit_mongo.stored":
            found |= {alias.asname or alias.name: getattr(stored, alias.name) for alias in node.names}
        name = (
            node.targets[0]
            if isinstance(node, ast.Assign)
            else node.target
            if isinstance(node, ast.AnnAssign)
            else None
        )
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[name.id] = value.value
    return found


def test_every_collection_is_known_and_so_has_its_place_in_the_roles() -> None:
    sources = SOURCES
    constants: dict[str, str] = {}
    for path in sources:
        constants |= _constants(tree(path))
    named = set().union(*(_collections_named_in(path, constants) for path in sources))
    assert len(named) > 10
    elsewhere = ("oplog", "audit-anchors")  # Of another database.
    assert {name for name in named if not name.startswith(elsewhere)} <= own_collections(DOMAINS)
