"""Addressing documents without knowing their domain, and comparing what comes back exactly."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import copysign, isnan
from typing import Any

from backtest_kit_mongo.coherence.lists import Rows
from backtest_kit_mongo.coherence.record import Column, Domain, Key, Part, Record, Shape
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.examples import BASE_MS, example

DOCUMENTS = tuple(domain for domain in DOMAINS if domain.shape is not Shape.SERIES)
CACHED = tuple(domain for domain in DOMAINS if domain.cached)
LISTS = tuple(domain for domain in DOMAINS if domain.shape is Shape.LIST)
GUARDED = tuple(domain for domain in DOMAINS if domain.has_when)
REMOVABLE = tuple(domain for domain in DOMAINS if domain.has_removed)
NULLABLE = ("signal", "schedule", "strategy")
"""Domains whose writers store None on purpose: the slot is known to be empty."""


def parts(domain: Domain, tag: str, *, backtest: bool = False) -> tuple[Part, ...]:
    """All key parts of a document that belongs to `tag` alone."""
    return tuple(_part(column, tag, backtest) for column in domain.key)


def _part(column: Column, tag: str, backtest: bool) -> Part:
    if column.type is bool:
        return backtest
    if column.type is int:
        return BASE_MS
    return min(column.choices) if column.choices else f"{tag}-{column.name}"


@dataclass(frozen=True, slots=True)
class Handle:
    """One document in one store, written and read in the way of its shape."""

    store: Store
    key: Key

    def write(self, payload: Any, when: int = BASE_MS) -> Record:
        """Store the payload; the answer is the record that the write made, or for a list the stored row."""
        change = make_change(self.key, payload, when if self.key.domain.has_when else None)
        if self.key.domain.cached:
            return self.store.write(change)
        self.store.merge(self.key.scope, (change,))
        return self.read()

    def read(self) -> Record:
        if self.key.domain.cached:
            return self.store.read(self.key)
        found = self.store.truth.rows(Rows(self.key.scope, (self.key.item,)))
        return found.get(self.key.item, Record(self.key))

    def write_example(self, when: int = BASE_MS) -> Record:
        return self.write(example(self.key.domain, self.key.item), when)


def handle(store: Store, domain: Domain, tag: str) -> Handle:
    """The document of `tag`; opens the store, because rows are read past its verbs."""
    store.open()
    return Handle(store, make_key(domain, parts(domain, tag)))


def items(store: Store, scope: Key, tag: str = "", *, when: int | None = None, limit: int | None = None) -> list[str]:
    """Sorted last key parts of a scope's visible records, those that start with `tag`."""
    found = (str(record.key.item) for record in store.scan(scope, when=when, limit=limit, keys_only=True))
    return sorted(item for item in found if item.startswith(tag))


def difference(actual: Any, expected: Any, path: str = "value") -> str | None:
    """Where two values differ in value, type or order of fields; None if nowhere. NaN equals NaN, 0.0 does not equal
    -0.0.
    """
    if type(actual) is not type(expected):
        return f"{path}: {actual!r:.80} is {type(actual).__name__}, not {type(expected).__name__} as {expected!r:.80}"
    if isinstance(expected, dict):
        if list(actual) != list(expected):
            return f"{path}: fields {list(actual)!r:.200}, not {list(expected)!r:.200}"
        pairs = [(actual[name], expected[name], f"{path}.{name}") for name in expected]
        return next(filter(None, (difference(*pair) for pair in pairs)), None)
    if isinstance(expected, list):
        if len(actual) != len(expected):
            return f"{path}: {len(actual)} elements, not {len(expected)}"
        rows = [
            (one, other, f"{path}[{index}]") for index, (one, other) in enumerate(zip(actual, expected, strict=True))
        ]
        return next(filter(None, (difference(*row) for row in rows)), None)
    return None if _equal(actual, expected) else f"{path}: {actual!r:.80}, not {expected!r:.80}"


def _equal(actual: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        both_nan = isnan(actual) and isnan(expected)
        return both_nan or (bool(actual == expected) and copysign(1, actual) == copysign(1, expected))
    if isinstance(expected, datetime):
        return bool(actual == expected) and actual.utcoffset() == timedelta(0)
    return bool(actual == expected)
