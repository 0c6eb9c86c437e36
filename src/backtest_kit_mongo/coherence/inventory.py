"""What there is: one entry for each stored document, of a series one for all of it; and which of them are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from backtest_kit_mongo.coherence.record import Domain, Key, Part, Record, Shape

__all__ = [
    "EVERYTHING",
    "Census",
    "Entry",
    "Kept",
    "Selection",
    "census_of",
    "entries_of",
    "entry_of",
    "is_nothing",
    "series_of",
]


class Entry(NamedTuple):
    """A stored document.

    Attributes:
        key: of a series its scope.
        rev: how often it was written; 0 if a foreign program wrote it, and of a series.
        when: simulation time of the last write, ms; None: it had none.
        removed: softly.
        is_empty: a read gives nothing: it is removed, or was cleared (null, an empty list or object).
        created_ms, changed_ms: of the first and the last write, by the clock of whoever wrote; None where the backend
            does not keep it.
        bytes: what it takes where it is stored, about.
        rows: of a series; 1 of a document; None where counting them would cost too much.
        place: how the backend calls it: `_id`, or a path below its directory.
        span: of a series, from when to when it may have rows, ms; None where it has none.
        fault: why it cannot be read; empty if it can.
        others: keys that the same file may mean as well, where the npm package's name of it is ambiguous.
    """

    key: Key
    rev: int = 0
    when: int | None = None
    removed: bool = False
    is_empty: bool = False
    created_ms: int | None = None
    changed_ms: int | None = None
    bytes: int = 0
    rows: int | None = 1
    place: str = ""
    span: tuple[int, int] | None = None
    fault: str = ""
    others: tuple[Key, ...] = ()


class Census(NamedTuple):
    """How much there is of a domain.

    Attributes:
        documents: of series, how many series.
        holding: those that a read gives something of.
        bytes: as in `Entry`.
        first_ms, last_ms: the first and last write, where the backend keeps them.
    """

    documents: int = 0
    holding: int = 0
    bytes: int = 0
    first_ms: int | None = None
    last_ms: int | None = None


class Selection(NamedTuple):
    """Which entries.

    Attributes:
        names: with these values by column name. Rows of a list that have no such column carry it in their payload.
        text: somewhere in a part of the key, in capitals or not.
        changed_before_ms: last written before it.
    """

    names: tuple[tuple[str, Part], ...] = ()
    text: str = ""
    changed_before_ms: int | None = None

    def concerns(self, domain: Domain) -> bool:
        """Whether the domain has all of the names at all."""
        return all(name in domain.columns or path_in_payload(domain, name) for name, _ in self.names)

    def of_key(self, domain: Domain) -> dict[str, Part]:
        """The key columns among the names."""
        return {name: value for name, value in self.names if name in domain.columns}

    def of_payload(self, domain: Domain) -> dict[tuple[str, ...], Part]:
        """The others, as paths into the payload."""
        return {path_in_payload(domain, name): value for name, value in self.names if name not in domain.columns}

    def fits_key(self, key: Key) -> bool:
        parts = key.query()
        if any(name in parts and parts[name] != value for name, value in self.of_key(key.domain).items()):
            return False
        return not self.text or any(self.text.casefold() in str(part).casefold() for part in key.parts)

    def fits(self, key: Key, payload: Any, changed_ms: int | None) -> bool:
        if not self.fits_key(key):
            return False
        if self.changed_before_ms is not None and (changed_ms is None or changed_ms >= self.changed_before_ms):
            return False
        return all(_at(payload, path) == value for path, value in self.of_payload(key.domain).items())


EVERYTHING: Final = Selection()


def path_in_payload(domain: Domain, name: str) -> tuple[str, ...]:
    """Where a row of a list carries a name of its context; empty if its domain has no place for it."""
    if domain.shape is not Shape.LIST:
        return ()
    return (domain.context_field, name) if domain.context_field else (name,)


def _at(payload: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    return payload


def is_nothing(payload: Any) -> bool:
    """Whether a payload was cleared: null, an empty list or object."""
    return payload is None or payload == [] or payload == {}


def entry_of(record: Record, *, changed_ms: int | None = None, size: int = 0) -> Entry:
    """The entry of a record."""
    is_empty = record.removed or is_nothing(record.payload)
    return Entry(record.key, record.rev, record.when, record.removed, is_empty, None, changed_ms, size, place=record.id)


def series_of(scope: Key, times: Iterable[int], place: str = "") -> Entry:
    """The entry of a series whose rows have these open times, of which there is one."""
    moments = list(times)
    return Entry(scope, rows=len(moments), place=place, span=(min(moments), max(moments)))


class Kept(NamedTuple):
    """A record, when it was last changed (ms), and what it takes."""

    record: Record
    changed_ms: int | None
    bytes: int


def entries_of(kept: Iterable[Kept], chosen: Selection) -> Iterator[Entry]:
    """Entries of a truth that has its records at hand."""
    for one in kept:
        if chosen.fits(one.record.key, one.record.payload, one.changed_ms):
            yield entry_of(one.record, changed_ms=one.changed_ms, size=one.bytes)


def census_of(entries: Iterable[Entry]) -> Census:
    count = holding = size = 0
    first: int | None = None
    last: int | None = None
    for entry in entries:
        count += 1
        holding += not entry.is_empty
        size += entry.bytes
        begun, changed = entry.created_ms or entry.changed_ms, entry.changed_ms
        first = begun if first is None or (begun is not None and begun < first) else first
        last = changed if last is None or (changed is not None and changed > last) else last
    return Census(count, holding, size, first, last)
