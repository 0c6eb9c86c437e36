"""Which document a file of the `dump` layout is: the inverse of `backends/files/names.py`."""

from __future__ import annotations

from typing import Any

from backtest_kit_mongo.backends.files import names as names
from backtest_kit_mongo.backends.files.layout import Level, layout
from backtest_kit_mongo.coherence.keys import BACKTEST, LIVE
from backtest_kit_mongo.coherence.record import Domain, Key, Part


def key_at(domain: Domain, path: str) -> Key | None:
    """The key whose document stands at this path (relative to the base); None if no key's does."""
    levels = list(layout(domain).levels)
    found = _joined(path.removesuffix(names.EXTENSION))
    if len(found) < len(levels):
        levels = [level for level in levels if level.literal or set(level.columns) - level.optional]
    try:
        texts: dict[str, str] = {}
        for level, name in zip(levels, found, strict=True):
            texts.update(_texts(level, name))
        parts = tuple(_part(texts.get(column.name, ""), column.type) for column in domain.key)
    except ValueError:
        return None
    key = Key(domain, parts)
    # Whatever was read too generously above does not survive the way back.
    return key if names.path(key) == path else None


def _joined(path: str) -> list[str]:
    """The names of the levels: a long one is continued in nested directories."""
    found: list[str] = []
    is_continued = False
    for name in path.split("/"):
        text = name.removesuffix(names.CONTINUED)
        if is_continued:
            found[-1] += text
        else:
            found.append(text)
        is_continued = text != name
    return found


def _texts(level: Level, name: str) -> dict[str, str]:
    if level.literal:
        return {}
    if len(level.columns) == 1:
        return {level.columns[0]: names.unescape(name)}
    parts = [names.unescape(part) for part in name.split("_")]
    columns = level.columns
    if len(parts) < len(columns):
        columns = tuple(column for column in columns if column not in level.optional)
    return dict(zip(columns, parts, strict=True))


def _part(value: str, kind: type[Any]) -> Part:
    if kind is bool:
        if value not in (BACKTEST, LIVE):
            raise ValueError(value)
        return value == BACKTEST
    return int(value) if kind is int else value
