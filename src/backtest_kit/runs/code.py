"""What a strategy's code is, as a hash: the source of its file and of what it imports of its own.

Python, its libraries and this package are not hashed: the package's version is a part of a run's identity, the others
are the host's. Neither are data files that a strategy opens.
"""

from __future__ import annotations

import ast
import inspect
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any, Final

from backtest_kit.declare import Strategy

__all__ = ["Source", "source_of"]

_PLACES: Final[list[str]] = [
    *(sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib")),
    *site.getsitepackages(),
    site.getusersitepackages(),
    str(Path(__file__).parents[2]),
]
FOREIGN: Final = tuple(Path(place).resolve() for place in _PLACES)
"""Python, its libraries, this package."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a worker finds a strategy, and how it knows that it found the same one.

    Attributes:
        strategy: its name.
        file: that declares it, absolute; None: it was written at a prompt, and only this process has it.
        code: hash of its source, 32 hexadecimal characters.
    """

    strategy: str
    file: str | None
    code: str


def source_of(strategy: Strategy) -> Source:
    """The source of a declared strategy."""
    function = inspect.unwrap(strategy.get_signal)
    name = getattr(function, "__code__", None)
    file = Path(name.co_filename).resolve() if isinstance(name, CodeType) else None
    if file is None or not file.is_file():
        return Source(strategy.name, None, sha256(_compiled(function)).hexdigest()[:32])
    return Source(strategy.name, str(file), code_of(file, file.stat().st_mtime_ns))


@lru_cache(maxsize=64)
def code_of(file: Path, _changed_ns: int) -> str:
    """Hash of a file and of what it imports of its own; the same wherever it lies."""
    found = sha256()
    root = file.parent
    for one in sorted(_reached(file), key=lambda path: _label(path, root)):
        found.update(f"{_label(one, root)}\0".encode() + sha256(one.read_bytes()).digest())
    return found.hexdigest()[:32]


def _label(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _reached(file: Path) -> set[Path]:
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        waiting.extend(_imported(one, file.parent))
    return seen


def _imported(file: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            yield from file.parent.glob("*.py")  # Relative: the package that it is in.
            continue
        else:
            continue
        for name in names:
            yield from _files_of(name.partition(".")[0], root)


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """Of a top-level module, if it is the user's own."""
    if name in sys.stdlib_module_names or not name:
        return
    for place in (root / f"{name}.py", root / name / "__init__.py"):
        if place.is_file():
            break
    else:
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):
            return
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return
        place = Path(spec.origin).resolve()
        if any(place.is_relative_to(foreign) for foreign in FOREIGN):
            return
    yield from sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]


def _compiled(function: Any) -> bytes:
    """Of a function that has no file: its bytecode and constants."""
    try:
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return repr(function).encode() if code is None else code.co_code + repr(code.co_consts).encode()
