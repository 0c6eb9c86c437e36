"""What is stored in files: every path of a layout, and the key or keys that it may mean.

Our own names say which key they are. The original joins parts with `_` as they are, so a file of its own may be several
keys'; then the file itself is asked: our stamp says whose it is, and of what the original wrote, the payload's own
`symbol`, `strategyName` and the like do in most cases. What is left is told as ambiguous, never guessed silently.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, product
from typing import Any, Final, NamedTuple

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.files import disk, names, sharing
from backtest_kit_mongo.backends.files.json import unseal
from backtest_kit_mongo.backends.files.layout import Level, layout
from backtest_kit_mongo.backends.files.reading import record_of
from backtest_kit_mongo.backends.files.series import count_rows, span_of_blocks
from backtest_kit_mongo.coherence.inventory import Entry, Selection, entry_of
from backtest_kit_mongo.coherence.record import Domain, Key, Shape
from backtest_kit_mongo.errors import CorruptData

logger = locks.logger(__name__)

READINGS_MAX: Final = 64


class Path(NamedTuple):
    """A file of a domain: where it is relative to the base, and what its levels are called."""

    path: str
    levels: tuple[str, ...]
    mtime_ns: int


class Located(NamedTuple):
    """A document's file, and the key that it is of; `others` are keys that it may be of as well."""

    key: Key
    path: str
    mtime_ns: int
    others: tuple[Key, ...] = ()


class FileBrowsing:
    """A part of `FileTruth`, which has these methods."""

    _root: Callable[[], str]

    def browse(self, domain: Domain, chosen: Selection) -> Iterator[Entry]:
        if not chosen.concerns(domain):
            return
        root = self._root()
        if domain.shape is Shape.SERIES:
            yield from _series(root, domain, chosen)
            return
        for one in located(root, domain):
            if not any(map(chosen.fits_key, (one.key, *one.others))):
                continue
            content, changed_ms = disk.read(f"{root}/{one.path}"), one.mtime_ns // 1_000_000
            if content is None:
                continue
            try:
                record = record_of(one.key, one.path, *unseal(content))
            except CorruptData as cause:
                yield Entry(one.key, changed_ms=changed_ms, place=one.path, fault=str(cause), others=one.others)
                continue
            if chosen.fits(one.key, record.payload, changed_ms):
                yield entry_of(record, changed_ms=changed_ms, size=len(content))._replace(others=one.others)


def located(root: str, domain: Domain) -> Iterator[Located]:
    """All files of a domain's documents, each once for its key: what our name hides of the original's is left out."""
    found: dict[Key, Located] = {}
    for one in paths(root, domain):
        keys = keys_of(root, domain, one)
        if not keys:
            logger.warning("%s: %s is named as no document is, and was left out", domain.name, one.path)
            continue
        key, *others = keys
        before = found.get(key)
        if before is None or before.path != names.path(key):
            found[key] = Located(key, one.path, one.mtime_ns, tuple(others))
    yield from sorted(found.values(), key=lambda one: [names.natural_order(str(part)) for part in one.key.parts])


def paths(root: str, domain: Domain) -> Iterator[Path]:
    """The files of a domain's layout, whatever they are called."""
    found = layout(domain)
    yield from _walk(root, "", found.directories, (), found.file)


def _walk(root: str, where: str, left: Sequence[Level], so_far: tuple[str, ...], file: Level) -> Iterator[Path]:
    if not left:
        for name, mtime_ns in disk.listing(f"{root}/{where}", timed=True):
            if file.literal in ("", name):
                yield Path(f"{where}/{name}{names.EXTENSION}", (*so_far, _joined(name)), mtime_ns)
        return
    level, rest = left[0], left[1:]
    prefix = f"{where}/" if where else ""
    if level.literal:
        yield from _walk(root, prefix + level.literal, rest, (*so_far, level.literal), file)
        return
    if set(level.columns) == level.optional:
        yield from _walk(root, where, rest, (*so_far, ""), file)
    for name in _directories(f"{root}/{where}", ""):
        yield from _walk(root, prefix + name, rest, (*so_far, _joined(name)), file)


def _directories(directory: str, prefix: str) -> Iterator[str]:
    """Names of a level, the continued ones as paths."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            if entry.name.endswith(names.CONTINUED):
                yield from _directories(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _joined(name: str) -> str:
    return name.replace(f"{names.CONTINUED}/", "")


def keys_of(root: str, domain: Domain, one: Path) -> list[Key]:
    """The keys that a file may be of, the likeliest first; one, unless the original's name is ambiguous."""
    ours = next((key for key in _readings(domain, one, escaped=True) if names.path(key) == one.path), None)
    meant = dict.fromkeys(_readings(domain, one, escaped=False))
    originals = [key for key in meant if one.path in (names.path(key), names.original_path(key))]
    if ours is not None and originals in ([], [ours]):
        return [ours]
    content = disk.read(f"{root}/{one.path}")
    if content is None:
        return []
    body, stamp = unseal(content)
    if stamp is not None:
        owners = [key for key in originals if stamp.owner and sharing.owner(key) == stamp.owner]
        return owners[:1] or ([ours] if ours is not None else [])
    return narrowed(originals, body) if originals else [ours] if ours is not None else []


def narrowed(keys: Sequence[Key], body: bytes) -> list[Key]:
    """Those that the payload's own fields do not contradict, the likeliest first: names of symbols and exchanges hold
    `_` less often than those of strategies.
    """
    with suppress(ValueError, RecursionError):
        payload = json.loads(body)
        keys = [key for key in keys if isinstance(payload, dict) and _agrees(key, payload)] or keys
    return sorted(keys, key=_oddity)


def _oddity(key: Key) -> int:
    return sum(str(part).count("_") for name, part in key.query().items() if name != "strategyName")


def _agrees(key: Key, payload: dict[str, Any]) -> bool:
    return all(not isinstance(payload.get(name), str) or payload[name] == part for name, part in key.query().items())


def _readings(domain: Domain, one: Path, *, escaped: bool) -> Iterator[Key]:
    """Keys whose names of all levels are these. `escaped`: as we name them, where there is at most one reading."""
    levels = [
        list(_of_level(level, name, escaped=escaped))
        for level, name in zip(layout(domain).levels, one.levels, strict=True)
        if not level.literal
    ]
    for combined in islice(product(*levels), READINGS_MAX):
        key = sharing.key_of(domain, combined)
        if key is not None:
            yield key


def _of_level(level: Level, name: str, *, escaped: bool) -> Iterator[dict[str, str]]:
    if not escaped:
        yield from sharing.readings(level, name or None)
        return
    if name == "" and set(level.columns) == level.optional:
        yield dict.fromkeys(level.columns, "")
        return
    tokens = name.split("_") if len(level.columns) > 1 else [name]
    for absent in (frozenset(), level.optional) if level.optional else (frozenset(),):
        columns = [column for column in level.columns if column not in absent]
        if columns and len(tokens) == len(columns):
            yield dict.fromkeys(absent, "") | dict(zip(columns, map(names.unescape, tokens), strict=True))


def _series(root: str, domain: Domain, chosen: Selection) -> Iterator[Entry]:
    """One entry for each directory of rows."""
    found = layout(domain)
    for one in _scopes(root, "", found.directories, ()):
        parts = [_of_level(level, name, escaped=True) for level, name in zip(found.directories, one.levels, strict=True)
                 if not level.literal]  # fmt: skip
        texts = {name: value for readings in parts for reading in readings for name, value in reading.items()}
        key = Key(domain, tuple(texts[column.name] for column in domain.key[:-1]))
        if chosen.fits(key, None, None):
            directory = f"{root}/{one.path}"
            listed = (name for name, _ in disk.listing(directory, timed=False))
            times = [int(name) for name in listed if name.removeprefix("-").isdecimal()]
            rows = len(times) + count_rows(directory)
            times += span_of_blocks(directory, str(key.item))
            if rows and times:
                yield Entry(key, rows=rows, place=one.path, span=(min(times), max(times)))


def _scopes(root: str, where: str, left: Sequence[Level], so_far: tuple[str, ...]) -> Iterator[Path]:
    if not left:
        yield Path(where, so_far, 0)
        return
    prefix = f"{where}/" if where else ""
    names_here = [left[0].literal] if left[0].literal else _directories(f"{root}/{where}", "")
    for name in names_here:
        yield from _scopes(root, prefix + name, left[1:], (*so_far, _joined(name)))
