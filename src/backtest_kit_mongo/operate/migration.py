"""Bringing what one store has into another: files into MongoDB, MongoDB into files, one database into another.

Nothing is remembered between runs. Each document is written only where the target has none, and compared where it has
one, so a migration that was killed goes on when it is run again, and one that is run twice changes nothing. What is
stored in the target with another value stays, and is named; unless the source's is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.inventory import Entry
from backtest_kit_mongo.coherence.lists import Rows
from backtest_kit_mongo.coherence.record import Change, Domain, Key, Part, Record, Shape
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import CallerError, Conflict, CorruptData, InvalidKey

__all__ = ["Choose", "Left", "Migration", "Moved", "by_names", "by_what_is_said"]

THREADS: Final = 8
PAGE: Final = 500
CANDLES: Final = 20_000
"""Rows of a series that are moved at once."""
Choose = Callable[[Entry, Sequence[Key]], Key | None]
"""Which key a file is of that may be several keys'; None: nobody can tell."""


class Left(NamedTuple):
    """What could not be brought: its key or file, and why."""

    what: str
    why: str


@dataclass(slots=True)
class Moved:
    """What became of one domain.

    Attributes:
        found: documents, of candles rows.
        brought: new in the target, or in a dry run what would be.
        there: stored in the target already, with the same value.
        replaced: stored there with another value, and now with the source's.
        kept: stored there with another value, which stayed; the first of them are in `differ`.
        decided: files of an ambiguous name, and the key that was chosen.
        left: what could not be brought.
    """

    found: int = 0
    brought: int = 0
    there: int = 0
    replaced: int = 0
    kept: int = 0
    differ: list[str] = field(default_factory=list)
    decided: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def keep(self, what: str) -> None:
        self.kept += 1
        if len(self.differ) < PAGE:
            self.differ.append(what)


@dataclass(frozen=True, slots=True)
class Migration:
    """From where to where.

    Attributes:
        choose: asked about ambiguous names.
        overwrite: the source's value wins where the target has another one. Candles that are stored stay all the same.
        dry_run: only compare.
        on_done: told of each document, and of so many rows.
    """

    source: Store
    target: Store
    choose: Choose
    overwrite: bool = False
    dry_run: bool = False
    on_done: Callable[[int], None] = lambda count: None

    def domain(self, domain: Domain) -> Moved:
        """Bring one domain.

        Raises:
            EnvironmentFault: one of the stores failed. What was brought stays; run it again.
        """
        moved = Moved()
        if domain.shape is Shape.SERIES:
            for entry in self.source.browse(domain):
                self._series(entry, moved)
            return moved
        changes = (change for entry in self._entries(domain) if (change := self._change(entry, moved)) is not None)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="bkm-migrate") as pool:
            while page := list(islice(changes, PAGE)):
                if domain.shape is Shape.LIST:
                    self._rows(page, moved)
                else:
                    for change, became in zip(page, pool.map(self._document, page), strict=True):
                        _count(moved, change.key, became)
                self.on_done(len(page))
        return moved

    def _entries(self, domain: Domain) -> Iterable[Entry]:
        """As they come; only lists, which are shown in the order of their creation, are all looked at first."""
        found = self.source.browse(domain)
        is_list = domain.shape is Shape.LIST
        return sorted(found, key=lambda one: one.created_ms or one.changed_ms or 0) if is_list else found

    def _change(self, entry: Entry, moved: Moved) -> Change | None:
        """What is to be written; None where that cannot be known, which is noted."""
        moved.found += 1
        key: Key | None = entry.key
        if entry.others:
            candidates = (entry.key, *entry.others)
            key = self.choose(entry, candidates)
            if key is None:
                names = " or ".join(map(str, candidates))
                moved.left.append(Left(entry.place, f"its name may mean {names}: --contexts says which"))
                return None
            moved.decided.append(f"{entry.place} is {key}")
        assert key is not None
        try:
            if entry.fault:
                raise CorruptData(entry.fault)
            record = self.source.truth.find(Find(key))
            if not record.exists:
                raise CorruptData("it was deleted meanwhile")
            return _change_of(make_key(key.domain, key.parts), record)
        except (CallerError, CorruptData) as cause:
            moved.left.append(Left(str(key), str(cause)))
            return None

    def _document(self, change: Change) -> str:
        if self.dry_run:
            stored = self.target.truth.find(Find(change.key))
            return "brought" if not stored.exists else self._compared(change, stored)
        try:
            self.target.write_alone(change, 0)
        except Conflict:
            stored = self.target.truth.find(Find(change.key))
            became = self._compared(change, stored)
            if became == "replaced":
                self.target.write_alone(change)
            return became
        return "brought"

    def _compared(self, change: Change, stored: Record) -> str:
        if _same(change, stored):
            return "there"
        return "replaced" if self.overwrite else "kept"

    def _rows(self, page: Sequence[Change], moved: Moved) -> None:
        scopes: dict[Key, list[Change]] = {}
        for change in page:
            scopes.setdefault(change.key.scope, []).append(change)
        for scope, changes in scopes.items():
            stored = self.target.truth.rows(Rows(scope, tuple(change.key.item for change in changes)))
            wanted = []
            for change in changes:
                known = stored.get(change.key.item)
                became = "brought" if known is None else self._compared(change, known)
                _count(moved, change.key, became)
                if became in ("brought", "replaced"):
                    wanted.append(change)
            if wanted and not self.dry_run:
                self.target.merge(scope, wanted)

    def _series(self, entry: Entry, moved: Moved) -> None:
        """Rows of a series, a range at a time. The first write wins, here as everywhere."""
        from backtest_kit_mongo.adapters.candle_instance import CandleInstance

        exchange, symbol, interval = map(str, entry.key.parts)
        try:
            grid = grid_of(interval)
        except InvalidKey as cause:
            moved.found += entry.rows or 0
            moved.left.append(Left(str(entry.key), str(cause)))
            return
        instance = CandleInstance(self.target, symbol, interval, exchange)
        first, last = entry.span or (0, -1)
        for since in range(first, last + 1, CANDLES * grid.longest_ms):
            until = min(since + CANDLES * grid.longest_ms, last + 1)
            columns = self.source.columns(entry.key, grid, since, until)
            moved.found += len(columns)
            if self.dry_run:
                there = len(self.target.columns(entry.key, grid, since, until)) if len(columns) else 0
                moved.there += min(there, len(columns))
                moved.brought += max(0, len(columns) - there)
            elif len(columns):
                try:
                    report = instance.write_candles(columns, sparse=True)
                except CallerError as cause:
                    moved.left.append(Left(str(entry.key), str(cause)))
                    continue
                moved.brought += report.inserted
                moved.there += report.known - len(report.conflicts)
                for moment in report.conflicts:
                    moved.keep(f"{entry.key}/{moment}")
                if report.unclosed:
                    why = f"{len(report.unclosed)} candles are not closed yet"
                    moved.left.append(Left(str(entry.key), why))
            self.on_done(len(columns))


def _count(moved: Moved, key: Key, became: str) -> None:
    if became == "kept":
        moved.keep(str(key))
    else:
        setattr(moved, became, getattr(moved, became) + 1)


def _change_of(key: Key, record: Record) -> Change:
    payload = record.payload
    if record.removed and isinstance(payload, dict) and payload.get("removed") is not True:
        payload = {**payload, "removed": True}
    return make_change(key, payload, record.when)


def _same(change: Change, stored: Record) -> bool:
    if stored.removed != change.removed or pack(stored.payload) != change.body:
        return False
    return not change.key.domain.has_when or stored.when == change.when


def by_what_is_said(source: Store) -> Choose:
    """Chooses the only key whose strategy, exchange and risk book the source itself names elsewhere without doubt; of
    several, the only one whose symbol it does.
    """
    said: dict[str, set[Part]] = {name: set() for name in ("strategyName", "exchangeName", "riskName", "symbol")}
    for domain in DOMAINS:
        if said.keys() & set(domain.columns):
            for entry in source.browse(domain):
                for name, part in entry.key.query().items():
                    if name in said and not entry.others:
                        said[name].add(part)
    of_all = by_names(said)
    but_symbol = by_names({name: parts for name, parts in said.items() if name != "symbol"})
    return lambda entry, keys: but_symbol(entry, keys) or of_all(entry, keys)


def by_names(names: Mapping[str, Collection[Part]]) -> Choose:
    """Chooses the only key of which each part is among the names that are given of its column."""

    def choose(entry: Entry, keys: Sequence[Key]) -> Key | None:
        fitting = [key for key in keys if all(part in names.get(name, [part]) for name, part in key.query().items())]
        return fitting[0] if len(fitting) == 1 else None

    return choose
